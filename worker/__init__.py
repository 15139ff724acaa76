"""Celery: jobs in, results out. Knows nothing of Flask."""

"""Ingestions: many jobs that came from one source."""

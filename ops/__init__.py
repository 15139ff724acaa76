"""The `classify` commands that run the service: the one place that knows web and worker both."""

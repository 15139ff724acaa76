"""Whose request this is."""

LOCAL = "local"


def current_owner() -> str:
    """The owner of what the current request makes and may see: without keys there is one."""
    return LOCAL

"""A sign of life for healthchecks: a file that is touched, and asks neither database nor broker."""

from pathlib import Path


def beat(directory: Path | None, role: str) -> None:
    """Touch the file of this role; without a directory nobody looks, and nothing is written.

    Called in each round of recovery, whether the database answers or not: what a restart of the
    process would not mend is no reason for one.
    """
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / role).touch()

"""A sign of life for healthchecks: a file that is touched, and asks neither database nor broker."""

from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


def beat(directory: Path | None, role: str) -> None:
    """Touch the file of this role; without a directory nobody looks, and nothing is written.

    Called in each round of recovery, whether the database answers or not: what a restart of the
    process would not mend is no reason for one. Nor is a full disk a reason to end.
    """
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / role).touch()
        except OSError as error:
            log.warning("no_heartbeat", reason=str(error))

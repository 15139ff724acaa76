"""One service per data directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ServiceError


class AlreadyRunning(ServiceError):
    """Another service uses the data directory."""


@contextmanager
def locked(data_dir: Path) -> Iterator[bool]:
    """Hold the data directory; yields whether its last holder ended without saying so.

    Raises:
        AlreadyRunning: Another process holds it.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # people's images lie in it
        # Python opens it close-on-exec: a child that outlives us must not go on holding the lock.
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ServiceError(f"cannot use {data_dir} as data directory: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise AlreadyRunning(
                f"{data_dir.absolute()} is in use by another `classify up` (process {pid}). "
                "Stop it, or name another directory with --data-dir."
            ) from None
        abandoned = os.pread(descriptor, 1, 0) != b""
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield abandoned
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)

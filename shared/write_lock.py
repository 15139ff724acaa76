"""Turns to write to SQLite, for the threads of a process and for processes."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import Unavailable

_POLL_SECONDS = 0.001


@contextmanager
def write_lock(path: Path, turn: threading.Lock, patience_seconds: float) -> Iterator[None]:
    """One writer at a time, in turn: SQLite's own waiting lets some writers wait for seconds.

    The threads of a process take turns by `turn`, which wakes the next one at once; the processes
    by a lock on a file, which has to be asked again and again. The descriptor is opened for each
    transaction, since two threads on one descriptor do not exclude each other; Python opens it
    close-on-exec.

    Args:
        path: Of the database; the lock is beside it.
        turn: Of the threads of this process.
        patience_seconds: Longest wait.

    Raises:
        Unavailable: No turn within that time.
    """
    no_turn = f"the database is busy: no turn to write in {patience_seconds:g} s"
    give_up = time.monotonic() + patience_seconds
    if not turn.acquire(timeout=patience_seconds):
        raise Unavailable(no_turn)
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _try_lock(descriptor):
                if time.monotonic() > give_up:
                    raise Unavailable(no_turn)
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)
    finally:
        turn.release()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

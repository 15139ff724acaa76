"""A database that is away: not everybody waits for it at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import Unavailable


class Outage:
    """While the database is away one thread at a time asks for it; the others are told at once.

    Else every thread of web would wait as long as one may, and none be left to say so.
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        self._asking = threading.Lock()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask whether the database is there: what is done meanwhile tells it.

        Raises:
            Unavailable: It is away, and another thread is asking right now.
        """
        reason = self._reason
        if reason is None:
            yield
            return
        if not self._asking.acquire(blocking=False):
            raise Unavailable(reason)
        try:
            yield
            self._reason = None
        finally:
            self._asking.release()

    def begins(self, reason: str) -> None:
        """It was asked, and did not answer."""
        self._reason = reason

"""`Prefer: wait`: one thread a process asks the database for all that requests wait for."""

import threading
import time
from collections.abc import Callable, Collection, Iterable
from uuid import UUID

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from shared.database import Database
from shared.errors import Unavailable
from shared.jobs import queries

Finished = Callable[[Connection, Collection[UUID]], set[UUID]]

_POLL_SECONDS = 0.05
_TROUBLE_SECONDS = 1.0  # after a failed look; the requests wait on, up to their own limit

log = structlog.get_logger(__name__)


class Waiting:
    """Requests that wait for an end; at most `most` at once, so that others are served."""

    def __init__(self, database: Database, *, most: int) -> None:
        self._database = database
        self._most = most
        self._waiters: dict[threading.Event, tuple[set[UUID], Finished]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def wait(
        self, ids: Iterable[UUID], seconds: float, *, finished: Finished = queries.finished
    ) -> bool:
        """Return once each of the jobs has ended or is gone, or the time is over.

        Args:
            ids: Of the jobs, or of what else `finished` knows.
            seconds: The longest wait.
            finished: Tells which of them wait no longer.

        Returns:
            Whether the wait was granted; False, at once, while enough others wait, and once the
            process stops.
        """
        ended = threading.Event()
        with self._changed:
            if self._stopping or len(self._waiters) >= self._most:
                return False
            self._waiters[ended] = set(ids), finished
            if self._thread is None:
                # Started by the first wait, so that it is a thread of the process that serves,
                # not of one that forked it.
                self._thread = threading.Thread(target=self._run, name="waiting", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            ended.wait(seconds)
        finally:
            with self._changed:
                del self._waiters[ended]
        return True

    def stop(self) -> None:
        """Have everybody answered now, and nobody wait any more: the process is to end."""
        with self._changed:
            self._stopping = True
            for ended in self._waiters:
                ended.set()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiters:
                    self._changed.wait()
                waiters = dict(self._waiters)
            time.sleep(self._look(waiters))

    def _look(self, waiters: dict[threading.Event, tuple[set[UUID], Finished]]) -> float:
        """Wake whoever need not wait any longer; the seconds until the next look come back."""
        try:
            with self._database.read() as connection:
                for look in {look for _, look in waiters.values()}:
                    wanted = [waited for waited, known in waiters.values() if known is look]
                    found = look(connection, sorted(set().union(*wanted)))
                    for waited in wanted:
                        waited.difference_update(found)
        except (Unavailable, SQLAlchemyError) as error:
            log.warning("waiting_failed", error=str(error))
            return _TROUBLE_SECONDS
        for ended, (waited, _) in waiters.items():
            if not waited:
                ended.set()
        return _POLL_SECONDS

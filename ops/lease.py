"""The lease of a download: while it lasts, jobs for the model are accepted and progress is told."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import structlog
from sqlalchemy import Connection

from shared import models
from shared.database import Database
from shared.errors import ServiceError, Unavailable

_LEASE_SECONDS = 60.0
_RENEW_SECONDS = 1.0

log = structlog.get_logger(__name__)

Report = Callable[[int, int | None], None]


class Busy(ServiceError):
    """Another process downloads this model already."""


class Lease:
    """The download's lease, renewed by a thread, with how far it is.

    Its token is the same in every process that downloads this model into this directory. They
    exclude each other by a lock there, which ends with its holder: so the next one takes over at
    once from one that was killed, instead of waiting until its lease lapses.
    """

    def __init__(self, database: Database, name: str, work_dir: Path, report: Report) -> None:
        place = f"{socket.gethostname()}:{work_dir.absolute()}:{name}"
        self.token = uuid5(NAMESPACE_URL, place)
        self.held = False
        self._database = database
        self._name = name
        self._report = report
        self._done = 0
        self._total: int | None = None
        self._ended = threading.Event()

    def say(self, done: int, total: int | None) -> None:
        """Say how far it is; the first time, take the lease.

        Raises:
            Busy: Another process has it.
        """
        self._done, self._total = done, total
        if not self.held:
            self._take()
        self._report(done, total)

    def _take(self) -> None:
        self.held = self._database.transact(lambda c: self._begin(c, _LEASE_SECONDS))
        if not self.held:
            raise Busy(f"{self._name} is being downloaded by another process already")
        threading.Thread(target=self._renew, name="download-lease", daemon=True).start()

    def _begin(self, connection: Connection, seconds: float) -> bool:
        models.register(connection, self._name)  # of those that can be had, not all are known
        return models.begin_download(connection, self._name, self.token, seconds)

    def _renew(self) -> None:
        while not self._ended.is_set():
            try:
                self._database.transact(
                    lambda connection: models.renew_download(
                        connection, self.token, self._done, self._total, _LEASE_SECONDS
                    )
                )
            except Unavailable as error:
                log.warning("download_lease_not_renewed", reason=str(error))
            self._ended.wait(_RENEW_SECONDS)

    def end(self, error: str | None) -> None:
        """Give the lease back; with an error, people read why the model is not there."""
        self._ended.set()
        if not self.held and error is None:
            return  # whoever has it goes on
        sentence = f"{error.rstrip('.')}." if error else None

        def record(connection: Connection) -> None:
            if not self.held:
                # Nobody may see a download that never began: taken and ended in one transaction.
                self._begin(connection, 0)
            models.end_download(connection, self.token, sentence)

        self._database.transact(record)

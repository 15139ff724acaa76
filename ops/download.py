"""Pretrained weights: from Keras's cache or over the network, checked, then installed.

While a download runs, its lease in the `models` row says so: web accepts jobs for the model.
"""

import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import structlog
from sqlalchemy import Connection

from ops.catalogue import Entry, read_labels
from ops.fetch import FetchError, Interrupted, fetch
from ops.models import entry_spec, install_files
from ops.progress import mebibytes
from shared import models
from shared.database import Database, new_id
from shared.errors import ServiceError, Unavailable
from shared.storage.protocol import Storage

_LEASE_SECONDS = 60.0
_RENEW_SECONDS = 1.0

log = structlog.get_logger(__name__)

Report = Callable[[int, int | None], None]


class Busy(ServiceError):
    """Another process downloads this model already."""


class Lease:
    """The download's lease, renewed by a thread, with how far it is."""

    def __init__(self, database: Database, name: str, report: Report) -> None:
        self.token = new_id()
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
        self.held = self._database.transact(
            lambda connection: models.begin_download(
                connection, self._name, self.token, _LEASE_SECONDS
            )
        )
        if not self.held:
            raise Busy(f"{self._name} is being downloaded by another process already")
        threading.Thread(target=self._renew, name="download-lease", daemon=True).start()

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

        sentence = f"{error.rstrip('.')}." if error else None

        def record(connection: Connection) -> None:
            if not self.held and sentence is not None:
                # Nobody may see a download that never began: taken and ended in one transaction.
                models.begin_download(connection, self._name, self.token, 0)
            models.end_download(connection, self.token, sentence)

        self._database.transact(record)


def pull(
    database: Database,
    storage: Storage,
    entry: Entry,
    base_url: str,
    work_dir: Path,
    *,
    progress: Report = lambda _done, _total: None,
    stop: threading.Event | None = None,
) -> str:
    """Fetch a model's weights and install them; the version's name comes back.

    Raises:
        Busy: Another process is at it.
        Interrupted: `stop` was set; the next pull goes on from there.
        FetchError: The weights cannot be had; the model's row says why, too.
        Unavailable: Database or storage is away.
    """
    stop = stop or threading.Event()
    lease = Lease(database, entry.name, progress)
    error: str | None = None
    try:
        cached = Path.home() / ".keras" / "models" / entry.file_name
        if cached.is_file() and _md5(cached) == entry.md5:
            lease.say(0, cached.stat().st_size)
            return _install(database, storage, entry, cached, lease)
        with _partial_file(work_dir, entry) as (path, file):
            _fetch(entry, base_url, path, file, lease, stop)
            version = _install(database, storage, entry, path, lease)
            path.unlink()
        return version
    except (Busy, Interrupted):
        raise
    except (ServiceError, OSError) as failure:
        error = str(failure)
        raise failure if isinstance(failure, ServiceError) else FetchError(error) from failure
    finally:
        _end(lease, error)


def _end(lease: Lease, error: str | None) -> None:
    try:
        lease.end(error)
    except Unavailable as unavailable:  # it lapses by itself
        log.warning("download_lease_not_ended", reason=str(unavailable))


def _fetch(
    entry: Entry,
    base_url: str,
    path: Path,
    file: BinaryIO,
    lease: Lease,
    stop: threading.Event,
) -> None:
    """Complete the partial file, and see that it is what it should be; a wrong one is deleted."""
    url = f"{base_url.rstrip('/')}/{entry.path}"
    checked_space = False

    def on_bytes(done: int, total: int | None) -> None:
        nonlocal checked_space
        if not checked_space and total is not None:
            _check_space(path.parent, needed=2 * total - done)  # this file, and the storage's copy
            checked_space = True
        lease.say(done, total)

    fetch(url, file, on_bytes=on_bytes, stop=stop)
    size = file.seek(0, os.SEEK_END)
    found = _md5(path)
    if found != entry.md5:
        path.unlink()
        raise FetchError(
            f"what {url} sent is not {entry.file_name}: its MD5 is {found}, not {entry.md5} "
            f"({mebibytes(size)} came, and were deleted)"
        )


def _install(
    database: Database, storage: Storage, entry: Entry, weights: Path, lease: Lease
) -> str:
    return install_files(
        database,
        storage,
        entry.name,
        entry_spec(entry, weights, "weights.h5"),
        read_labels(entry.labels),
        weights,
        also=lambda connection: models.end_download(connection, lease.token, None),
    )


@contextmanager
def _partial_file(work_dir: Path, entry: Entry) -> Iterator[tuple[Path, BinaryIO]]:
    """The file that an earlier download may have begun, locked: two would write into each other."""
    work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = work_dir / f"{entry.file_name}.part"
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{entry.name} is being downloaded by another process already") from None
        yield path, file


def _check_space(directory: Path, *, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise FetchError(
            f"{mebibytes(needed)} are needed in {directory}, and {mebibytes(free)} are free"
        )


def _md5(path: Path) -> str:
    # A check against damage, with the sum that Keras publishes; no secret depends on it.
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

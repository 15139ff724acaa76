"""Pretrained weights: from Keras's cache or over the network, shown to be right, then installed.

While a download runs, its lease in the `models` row says so: web accepts jobs for the model.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import structlog

from ops.catalogue import Entry, Source
from ops.fetch import FetchError, Interrupted, fetch
from ops.install import Check, NotAModel, install_files, md5_of
from ops.lease import Busy, Lease, Report
from ops.progress import mebibytes
from ops.proof import prove
from ops.weights import extracted
from shared import models
from shared.database import Database
from shared.errors import ServiceError, Unavailable
from shared.models import ModelSpec
from shared.storage.protocol import Storage

log = structlog.get_logger(__name__)


def pull(
    database: Database,
    storage: Storage,
    entry: Entry,
    base_url: str,
    work_dir: Path,
    *,
    progress: Report = lambda _done, _total: None,
    stop: threading.Event | None = None,
    check: Check | None = None,
) -> str:
    """Fetch a model's weights and install them; the version's name comes back.

    `check` loads weights for which Keras has no sum; by default in a process of its own.

    Raises:
        Busy: Another process is at it.
        Interrupted: `stop` was set; the next pull goes on from there.
        ServiceError: The weights cannot be had; the model's row says why, too.
        Unavailable: Database or storage is away.
    """
    stop = stop or threading.Event()
    download = _Download(database, storage, entry, work_dir, check or partial(prove, stop=stop))
    lease = Lease(database, entry.name, work_dir, progress)
    error: str | None = None
    try:
        with _partial_file(work_dir, entry.name) as (path, file):
            version = download.from_cache(lease)
            if version is None:
                url = f"{base_url.rstrip('/')}/{download.source.path}"
                version = download.from_network(url, path, file, lease, stop)
            _forget(path)
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


@dataclass(frozen=True)
class _Download:
    database: Database
    storage: Storage
    entry: Entry
    work_dir: Path
    check: Check

    @property
    def source(self) -> Source:
        if self.entry.source is None:
            raise ServiceError(f"{self.entry.name} cannot be downloaded")
        return self.entry.source

    def from_cache(self, lease: Lease) -> str | None:
        """Install what Keras itself has downloaded once; None where that is not there, or wrong."""
        file = Path.home() / ".keras" / "models" / self.source.file_name
        if not file.is_file():
            return None
        try:
            with self._verified(file, str(file)) as (weights, spec):
                lease.say(0, spec.size_bytes)
                return self._install(weights, spec, lease)
        except NotAModel as error:
            log.warning("cached_weights_passed_over", reason=str(error))
            return None

    def from_network(
        self, url: str, path: Path, file: BinaryIO, lease: Lease, stop: threading.Event
    ) -> str:
        """Complete the partial file, and install it; a wrong one is deleted."""
        checked_space = False

        def on_bytes(done: int, total: int | None) -> None:
            nonlocal checked_space
            if not checked_space and total is not None:
                _check_space(self.work_dir, needed=2 * total - done)  # and the storage's copy
                checked_space = True
            lease.say(done, total)

        fetch(url, file, _mark(path), on_bytes=on_bytes, stop=stop)
        size = file.seek(0, os.SEEK_END)
        try:
            with self._verified(path, f"what {url} sent") as (weights, spec):
                return self._install(weights, spec, lease)
        except NotAModel as error:
            _forget(path)
            raise FetchError(f"{error} ({mebibytes(size)} came, and were deleted)") from error

    @contextmanager
    def _verified(self, file: Path, called: str) -> Iterator[tuple[Path, ModelSpec]]:
        """The weights of a file, shown to be the right ones.

        By Keras's sum; where it has none, by loading them. And whatever was installed from the
        same source before is remembered by its SHA-256: the source may not exchange it silently.

        Raises:
            NotAModel: They are not, and why.
        """
        source = self.source
        if source.md5 is not None and (found := md5_of(file)) != source.md5:
            raise NotAModel(
                f"{called} is not {source.file_name}: its MD5 is {found}, not {source.md5}"
            )
        with extracted(file, self.work_dir, called=called) as weights:
            spec = replace(self.entry.spec(weights), source=source.path)
            expected = self._known_sha256(source)
            if expected not in (None, spec.sha256):
                raise NotAModel(
                    f"{called} is not what was installed from there before: its SHA-256 is "
                    f"{spec.sha256}, not {expected}. If it is meant to be another, fetch it "
                    f"yourself and run `classify models import {self.entry.name} FILE`"
                )
            if source.md5 is None and expected is None:
                try:
                    self.check(spec, self.entry.read_labels(), weights.parent)
                except NotAModel as error:
                    raise NotAModel(f"{called} cannot be used: {error}") from error
            yield weights, spec

    def _known_sha256(self, source: Source) -> str | None:
        """Of the first version that came from this source."""
        with self.database.read() as connection:
            for row in reversed(models.versions_of(connection, self.entry.name)):
                if row.spec.get("source") == source.path:
                    return str(row.spec["sha256"])
        return None

    def _install(self, weights: Path, spec: ModelSpec, lease: Lease) -> str:
        return install_files(
            self.database,
            self.storage,
            self.entry.name,
            spec,
            self.entry.read_labels(),
            weights,
            also=lambda connection: models.end_download(connection, lease.token, None),
        )


@contextmanager
def _partial_file(work_dir: Path, name: str) -> Iterator[tuple[Path, BinaryIO]]:
    """The file that an earlier download may have begun, for us alone.

    Two would write into each other. The lock is on its mark, since HDF5 locks what it reads.
    """
    work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = work_dir / f"{name}.part"
    with _mark(path).open("ab") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{name} is being downloaded by another process already") from None
        if os.fstat(mark.fileno()).st_nlink == 0:
            raise Busy(f"{name} was downloaded by another process just now")
        with path.open("a+b") as file:
            yield path, file


def _mark(path: Path) -> Path:
    """Beside a partial file: of which state of its source it is the beginning."""
    return path.with_suffix(".mark")


def _forget(path: Path) -> None:
    path.unlink()
    _mark(path).unlink()


def _check_space(directory: Path, *, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise FetchError(
            f"{mebibytes(needed)} are needed in {directory}, and {mebibytes(free)} are free"
        )

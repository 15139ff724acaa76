"""Where result files go: a directory or a bucket that the operator allows."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import BaseError

from shared.errors import Unavailable
from shared.ingestions.addresses import check_output
from shared.settings import Settings
from shared.storage.local import LocalStorage
from shared.storage.opening import open_store
from shared.storage.s3 import explain

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_FILE_SECONDS = 24 * 3600.0  # it may be large, and nobody waits for it
_CHUNK_BYTES = 8 * 2**20
_CHUNKS_AT_ONCE = 2


class Target(Protocol):
    """What result files need of a storage; see `shared.storage.protocol.Storage`."""

    def write(self, name: str, data: bytes) -> None:
        """Store `data`, completely or not at all."""

    def write_file(self, name: str, path: Path) -> None:
        """Store a copy of the file at `path`, completely or not at all."""

    def delete(self, *names: str) -> None:
        """Remove these objects; one that is not there is no error."""


def open_target(settings: Settings, url: str, folder: str) -> Target:
    """The place `folder` below an address that clients may have files written to.

    Asked again here, at the last moment: the operator may have changed his mind, and a path's
    links are the true ones only now. Nobody is asked yet whether it is there.

    Raises:
        ProblemError: Nothing may be written there.
        ConfigurationError: Such a bucket cannot be opened with these settings.
    """
    address = check_output(settings, url)
    if address.path is not None:
        return LocalStorage(address.path / folder)
    place = f"{address.url.rstrip('/')}/{folder}"
    store = open_store(
        settings,
        place,
        silence_seconds=settings.storage_timeout_seconds,
        whole_seconds=_FILE_SECONDS,
    )
    return _Bucket(store, place, settings.aws_endpoint_url if address.scheme == "s3" else None)


class _Bucket:
    """A prefix of a bucket of any kind."""

    def __init__(self, store: "ObjectStore", url: str, endpoint: str | None) -> None:
        self._store = store
        self._url = url
        self._endpoint = endpoint

    def write(self, name: str, data: bytes) -> None:
        """See `Target.write`; one request, which the bucket takes whole or not at all."""
        with self._asking():
            obstore.put(self._store, name, data, use_multipart=False)

    def write_file(self, name: str, path: Path) -> None:
        """See `Target.write_file`.

        The parts of an upload that failed are removed; a process that is killed leaves them to the
        bucket's rule for unfinished multipart uploads.
        """
        with self._asking():
            obstore.put(
                self._store, name, path, chunk_size=_CHUNK_BYTES, max_concurrency=_CHUNKS_AT_ONCE
            )

    def delete(self, *names: str) -> None:
        """See `Target.delete`."""
        with self._asking(), suppress(FileNotFoundError):
            obstore.delete(self._store, names)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn the many ways in which a bucket fails into one."""
        try:
            yield
        except (BaseError, OSError) as error:
            reason = explain(error, self._endpoint)
            raise Unavailable(f"{self._url} cannot be written: {reason}") from error

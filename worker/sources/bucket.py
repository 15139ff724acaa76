"""All objects below a prefix of a bucket that the operator allows."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError, InvalidPathError

from shared.errors import ProblemError, Unavailable
from shared.ingestions.addresses import Address, check_address
from shared.settings import Settings
from shared.storage.s3 import code_of
from worker.sources.ahead import ahead, failed
from worker.sources.limits import TooLarge
from worker.sources.names import is_junk, shown_name
from worker.sources.objects import NO_BUCKET, Bucket
from worker.sources.patience import NotGiven, held_back
from worker.sources.protocol import Entry, EntryError, SourceEnded

if TYPE_CHECKING:
    from obstore import ObjectMeta


class BucketSource:
    """Objects in the order in which the bucket lists them: by their keys.

    A page of the listing is held at a time, and objects are read ahead. Keys that end in `/` stand
    for directories and are passed over. A name that ends the prefix itself counts, too, where
    nothing is below it.

    Args:
        settings: for `source_prefixes`, the keys of the bucket, and limits.
        url: `s3://bucket/prefix`, or `gs://`, `az://`.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url
        self._most = settings.max_image_bytes

    def entries(self, checkpoint: Any) -> Iterator[Entry]:
        """See `Source.entries`; a checkpoint is a key."""
        address = self._address()
        bucket = Bucket(self._settings, f"{address.scheme}://{address.bucket}")
        yield from held_back(self._outcomes(bucket, address.key, checkpoint))

    def fetch(self, name: str) -> bytes:
        """See `Refetching.fetch`."""
        try:
            address = self._address()
        except SourceEnded as error:
            raise EntryError(error.code, error.detail) from error
        if address.key and name != address.key and not name.startswith(f"{address.key}/"):
            raise EntryError("source_refused", "It is not below the prefix of the source.")
        return Bucket(self._settings, f"{address.scheme}://{address.bucket}").read(name, self._most)

    def _address(self) -> Address:
        try:
            address = check_address(self._settings, self._url)
        except ProblemError as error:
            raise SourceEnded(error.code, error.detail) from error
        if not address.bucket:
            raise SourceEnded("unsupported_source", f"{self._url} is no bucket.")
        return address

    def _outcomes(
        self, bucket: Bucket, prefix: str, behind: str | None
    ) -> Iterator[tuple[Entry, str | None]]:
        def start(pool: ThreadPoolExecutor, meta: "ObjectMeta") -> tuple[Future[bytes], int]:
            size = meta["size"]
            if size > self._most:
                return failed(TooLarge(self._most)), 0
            return pool.submit(bucket.read, meta["path"], self._most), size

        listed = self._listed(bucket, prefix, behind)
        for meta, answer in ahead(listed, start, threading.Event()):
            key = meta["path"]
            try:
                yield Entry(shown_name(key), answer.result(), key), None
            except EntryError as error:
                place = error.place if isinstance(error, NotGiven) else None
                if error.code == "source_missing" and place is None and _is_marker(bucket, key):
                    continue
                yield Entry(shown_name(key), None, key, error=(error.code, error.detail)), place

    def _listed(self, bucket: Bucket, prefix: str, behind: str | None) -> "Iterator[ObjectMeta]":
        """What there is behind a key, page by page."""
        last = behind or ""
        try:
            for page in obstore.list(bucket.store, prefix or None, offset=behind):
                for meta in page:
                    key, before, last = meta["path"], last, max(last, meta["path"])
                    if key > before:
                        if not is_junk(key):
                            yield meta
                    elif not _is_marker(bucket, key):
                        raise SourceEnded(
                            "unsupported_source", "The bucket does not list its keys in order."
                        )
            if not last and prefix:
                yield obstore.head(bucket.store, prefix)
        except (BaseError, FileNotFoundError) as error:
            raise self._unlisted(bucket, error) from error

    def _unlisted(self, bucket: Bucket, error: Exception) -> SourceEnded | Unavailable:
        """What it means that the listing failed."""
        if isinstance(error, InvalidPathError):
            return SourceEnded(
                "source_damaged",
                "The bucket has a key that cannot be read: with control characters, or with parts "
                f"that are empty, `.` or `..`: {_first_line(error)}. Rename it, or name a prefix "
                "that it is not below.",
            )
        if code_of(error) in NO_BUCKET:
            return SourceEnded("source_missing", f"There is no {bucket.url}.")
        if isinstance(error, FileNotFoundError):
            return SourceEnded("source_missing", f"There is nothing below {self._url}.")
        return Unavailable(f"{self._url} cannot be listed: {bucket.explain(error)}")


def _is_marker(bucket: Bucket, key: str) -> bool:
    """Whether the listing means `key/`, which stands for a directory: it says `key` of both."""
    try:
        page = next(iter(obstore.list(bucket.store, key)), [])
    except BaseError as error:
        raise Unavailable(f"{bucket.url} cannot be listed: {bucket.explain(error)}") from error
    return any(meta["path"] == key for meta in page)


def _first_line(error: Exception) -> str:
    return shown_name(str(error).strip().split("\n", 1)[0])

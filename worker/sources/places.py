"""Wherever a line of a list may lead: hosts, buckets and paths that the operator allows."""

import os
import threading
from typing import Any, Self
from urllib.parse import quote, urlsplit

from shared.errors import ProblemError
from shared.ingestions.addresses import BUCKET_SCHEMES, Address, check_address
from shared.settings import Settings
from worker.sources import files
from worker.sources.fetching import Web
from worker.sources.objects import Bucket


class Places:
    """Finds and reads single images; for many threads. Closed by leaving its context.

    Args:
        settings: what is allowed, and limits.
        base: address of the list, or of the directory it lies in (then with `/` at its end).
        stop: see `Web`.
    """

    def __init__(self, settings: Settings, base: str | None, stop: threading.Event) -> None:
        self._settings = settings
        self._base = None if base is None else f"{base.rpartition('/')[0]}/"
        self._web = Web(settings, stop)
        self._buckets: dict[str, Bucket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._web.close()

    def find(self, text: str) -> Address:
        """Where a line leads: to an address, or to a key from where the list lies.

        Raises:
            ProblemError: `invalid_value`, `unsupported_source`, or `source_refused`.
        """
        if "://" in text or text.startswith("data:"):
            return check_address(self._settings, text)
        scheme = "" if self._base is None else urlsplit(self._base).scheme
        if scheme == "file":
            path = quote(os.fsencode(text))
            return check_address(
                self._settings, f"file://{path}" if text.startswith("/") else f"{self._base}{path}"
            )
        if scheme in BUCKET_SCHEMES:
            return check_address(self._settings, f"{self._base}{text}")
        raise ProblemError(
            "invalid_value",
            "This is no address. Keys are understood in a list that lies in a bucket or directory.",
        )

    def read(self, address: Address, most: int) -> bytes:
        """The bytes there, if they are at most so many.

        Raises:
            EntryError: They cannot be had; `NotGiven` where that may be the place.
            Unavailable: The bucket or the disk is away.
        """
        if address.path is not None:
            directory, name = files.open_below(self._settings.source_roots, address.path)
            try:
                return files.read_file(name, directory, most)
            finally:
                os.close(directory)
        if address.bucket:
            url = f"{address.scheme}://{address.bucket}"
            bucket = self._buckets.setdefault(url, Bucket(self._settings, url))
            return bucket.read(address.key, most)
        return self._web.read(address.url, most)

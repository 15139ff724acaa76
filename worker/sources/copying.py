"""An archive or a list that an address names, copied to a file of this machine."""

import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import BaseError

from shared.errors import ProblemError, Unavailable
from shared.ingestions.addresses import Address, check_address
from shared.settings import Settings
from worker.sources import files
from worker.sources.fetching import Web
from worker.sources.objects import Bucket
from worker.sources.patience import NotGiven
from worker.sources.protocol import EntryError, SourceEnded

_BLOCK = 2**20
_DAY_SECONDS = 86_400.0
_PATIENCE_SECONDS = 120.0
_SLOWEST = 100_000  # bytes a second, on the whole: else a few would hold an expander for days


def copy_file(
    settings: Settings, url: str, target: Path, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Copy what is at an address to `target`; nothing is there if that fails.

    Args:
        settings: what is allowed, and `max_source_bytes`.
        url: of `https://`, `file://`, or a bucket.
        target: is written over.
        on_bytes: is told how many bytes are there, often; what it raises ends the copying.

    Raises:
        SourceEnded: `source_missing`, `source_too_large`, `source_refused`, …: for good.
        Unavailable: It cannot be had right now.
    """
    try:
        address = check_address(settings, url)
        with target.open("wb") as file, _blocks(settings, address) as blocks:
            there, began = 0, time.monotonic()
            for block in blocks:
                there += len(block)
                if time.monotonic() - began > _PATIENCE_SECONDS + there / _SLOWEST:
                    raise Unavailable(f"{address.url} comes too slowly: {there:,} bytes so far")
                if there > settings.max_source_bytes:
                    raise SourceEnded(
                        "source_too_large",
                        f"The file may have at most {settings.max_source_bytes:,} bytes.",
                    )
                file.write(block)
                if on_bytes is not None:
                    on_bytes(there)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, NotGiven):
            raise Unavailable(str(error)) from error
        if isinstance(error, EntryError | ProblemError):
            raise SourceEnded(error.code, error.detail) from error
        if isinstance(error, OSError):
            raise Unavailable(f"the file cannot be copied: {error.strerror}") from error
        raise


@contextmanager
def _blocks(settings: Settings, address: Address) -> Iterator[Iterator[bytes]]:
    if address.path is not None:
        with closing(_of_file(settings, address.path)) as blocks:
            yield blocks
    elif address.bucket:
        yield _of_object(settings, address)
    else:
        web = Web(settings, threading.Event())
        with closing(web), web.answer(address.url) as answer:
            yield web.blocks(answer, math.inf)


def _of_file(settings: Settings, path: Path) -> Generator[bytes, None, None]:
    directory, name = files.open_below(settings.source_roots, path)
    try:
        descriptor = files.open_file(name, directory)
    finally:
        os.close(directory)
    with os.fdopen(descriptor, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _of_object(settings: Settings, address: Address) -> Iterator[bytes]:
    url = f"{address.scheme}://{address.bucket}"
    bucket = Bucket(settings, url, whole_seconds=_DAY_SECONDS)
    try:
        # As it comes, so that a bucket that drips is noticed.
        for block in obstore.get(bucket.store, address.key).stream(min_chunk_size=1):
            yield bytes(block)
    except (BaseError, FileNotFoundError) as error:
        raise bucket.failure(error) from error

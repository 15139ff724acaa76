"""A list of addresses or keys, one a line, each of an image that lies somewhere else."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from shared.errors import ProblemError, Unavailable
from shared.ingestions.addresses import MAX_ADDRESS
from shared.settings import Settings
from worker.sources.ahead import AHEAD_BYTES, AT_ONCE, ahead, at_hand, failed
from worker.sources.limits import TooLarge
from worker.sources.lines import Line, read_lines
from worker.sources.names import shown_name
from worker.sources.patience import NotGiven, held_back
from worker.sources.places import Places
from worker.sources.protocol import Entry, EntryError, SourceEnded

_SHARE_BYTES = AHEAD_BYTES // AT_ONCE
_KNOWN_BYTES = AHEAD_BYTES
_OVERHEAD_BYTES = 300  # of what is remembered, beside its bytes


class ListSource:
    """The images that the lines of a list name, in the order of the lines.

    They are fetched ahead, in parallel. Bytes that were fetched lately are remembered, so that an
    address that comes again and again is fetched once; both within a bound.

    Args:
        settings: what a line may name, and limits.
        path: the list; None where only `fetch` is wanted.
        base: address of the list, or of the directory it lies in (then with `/` at its end): keys
            that are no addresses are meant from there.
    """

    def __init__(self, settings: Settings, path: Path | None, base: str | None) -> None:
        self._settings = settings
        self._path = path
        self._base = base

    def entries(self, checkpoint: Any) -> Iterator[Entry]:
        """See `Source.entries`; a checkpoint is a place in the file."""
        if self._path is None:
            raise SourceEnded("source_missing", "The list is not there any more.")
        stop = threading.Event()
        with Places(self._settings, self._base, stop) as places:
            run = _Run(places, self._settings.max_image_bytes)
            answers = ahead(read_lines(self._path, checkpoint), run.start, stop)
            try:
                with closing(answers):
                    yield from held_back(run.outcome(line, answer) for line, answer in answers)
            except OSError as error:
                raise Unavailable(f"the list cannot be read: {error.strerror}") from error

    def fetch(self, name: str) -> bytes:
        """See `Refetching.fetch`."""
        try:
            address = self._again.find(name)
        except ProblemError as error:
            raise EntryError(error.code, error.detail) from error
        return self._again.read(address, self._settings.max_image_bytes)

    @cached_property
    def _again(self) -> Places:
        return Places(self._settings, self._base, threading.Event())


class _Run:
    """One reading of a list: what is being fetched, and what was fetched lately.

    How large an image is, is known when it comes. Each has a share of what may wait; one that is
    larger is fetched again when its turn has come, and from then on fewer have larger shares.
    """

    def __init__(self, places: Places, most: int) -> None:
        self._places = places
        self._most = most
        self._share = min(_SHARE_BYTES, most)
        self._flight: dict[str, Future[bytes]] = {}
        self._known: OrderedDict[str, bytes | EntryError] = OrderedDict()
        self._known_bytes = 0

    def start(self, pool: ThreadPoolExecutor, line: Line) -> tuple[Future[bytes], int]:
        """See `ahead`."""
        if line.error is not None:
            return failed(EntryError("invalid_value", line.error)), 0
        known = self._known.get(line.text)
        if known is not None:
            self._known.move_to_end(line.text)
            return failed(known) if isinstance(known, EntryError) else at_hand(known), 0
        if line.text in self._flight:
            return self._flight[line.text], 0
        try:
            address = self._places.find(line.text)
        except ProblemError as error:
            return failed(EntryError(error.code, error.detail)), 0
        answer = pool.submit(self._places.read, address, self._share)
        self._flight[line.text] = answer
        return answer, self._share

    def outcome(self, line: Line, answer: Future[bytes]) -> tuple[Entry, str | None]:
        """The entry of a line, and the place that gave nothing, if that may be the place's fault.

        Raises:
            Unavailable: A bucket or the disk is away.
        """
        result = self._result(line.text, answer)
        if self._flight.pop(line.text, None) is not None and not isinstance(result, NotGiven):
            self._remember(line.text, result)
        name = shown_name(line.text, MAX_ADDRESS)
        own: dict[str, Any] = {"reference": line.reference, "metadata": line.metadata}
        if isinstance(result, bytes):
            return Entry(name, result, line.place, **own), None
        entry = Entry(name, None, line.place, **own, error=(result.code, result.detail))
        return entry, result.place if isinstance(result, NotGiven) else None

    def _result(self, text: str, answer: Future[bytes]) -> bytes | EntryError:
        error = answer.exception()
        if error is None:
            return answer.result()
        if not isinstance(error, EntryError):
            raise error
        if not isinstance(error, TooLarge) or error.most >= self._most:
            return error
        self._share = min(2 * self._share, self._most)
        if text in self._known:
            return self._known[text]
        try:
            return self._places.read(self._places.find(text), self._most)
        except EntryError as failure:
            return failure

    def _remember(self, text: str, result: bytes | EntryError) -> None:
        if _size(result) > _KNOWN_BYTES // 4:
            return
        self._known[text] = result
        self._known_bytes += _size(result)
        while self._known_bytes > _KNOWN_BYTES:
            self._known_bytes -= _size(self._known.popitem(last=False)[1])


def _size(what: bytes | EntryError) -> int:
    return _OVERHEAD_BYTES + (len(what) if isinstance(what, bytes) else _OVERHEAD_BYTES)

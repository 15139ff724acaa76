"""The lines of a list: text, CSV or JSONL in UTF-8, told apart by content, read one by one."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from shared.jobs.caller_data import MAX_REFERENCE, clean_text, small_json
from worker.sources.names import shown_name
from worker.sources.protocol import SourceEnded

MAX_LINE_BYTES = 2**16
ADDRESS_FIELDS = ("url", "image", "key", "path")
_OWN_FIELDS = ("reference", "metadata")
_SHOWN = 200  # characters of a line that cannot be read
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = ",;\t"


class Place(TypedDict):
    """Where a list is read on: behind so many bytes, and so many lines."""

    bytes: int
    lines: int


@dataclass(frozen=True)
class Line:
    """One line that names an image, or fails to.

    Attributes:
        number: from 1.
        text: the address or key; the line's beginning where it has none.
        place: behind the line.
        error: what is wrong with the line, with its number.
    """

    number: int
    text: str
    place: Place
    reference: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class _Bad(Exception):
    """A line cannot be used; the message says why, in a clause."""


@dataclass
class _Fields:
    """What a line says."""

    address: str
    reference: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class _Physical:
    """The lines of a file as bytes, with the place behind the last one."""

    def __init__(self, file: BinaryIO, place: Place) -> None:
        self._file = file
        self.go_to(place)

    def go_to(self, place: Place) -> None:
        self._file.seek(place["bytes"])
        self.place = place

    def read(self) -> str | None:
        """The next line with its end; None at the end of the file.

        Raises:
            _Bad: It is too long, or not UTF-8. The place is behind it all the same.
        """
        start = self.place["bytes"]
        raw = part = self._file.readline(MAX_LINE_BYTES + 1)
        while len(part) > MAX_LINE_BYTES and not part.endswith(b"\n"):
            part = self._file.readline(MAX_LINE_BYTES + 1)
        if not raw:
            return None
        self.place = {"bytes": self._file.tell(), "lines": self.place["lines"] + 1}
        if start == 0:
            raw = raw.removeprefix(_BOM)
        self.last = shown_name(raw[:_SHOWN].decode(errors="replace").strip())
        if len(raw) > MAX_LINE_BYTES:
            raise _Bad(f"it has more than {MAX_LINE_BYTES:,} bytes")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise _Bad("it is not UTF-8") from error

    last: str = ""


def read_lines(path: Path, place: Place | None) -> Iterator[Line]:
    """The lines behind a place; blank ones, and comments of a text list, are passed over.

    Raises:
        SourceEnded: `unsupported_source`: it is no list.
    """
    with path.open("rb") as file:
        head = file.read(MAX_LINE_BYTES)
        first = head.removeprefix(_BOM).lstrip()
        if head.startswith(_UTF_16) or b"\x00" in head:
            raise SourceEnded(
                "unsupported_source",
                "This is neither an archive that is read nor a list: a list is text in UTF-8.",
            )
        if first.startswith(b"["):
            raise SourceEnded(
                "unsupported_source", "A list in JSON has one object a line (JSONL), no array."
            )
        lines = _Physical(file, {"bytes": 0, "lines": 0})
        if first.startswith(b"{"):
            lines.go_to(place or lines.place)
            yield from _plain(lines, _of_json)
            return
        delimiter, columns = _header(first)
        if not columns:
            lines.go_to(place or lines.place)
            yield from _plain(lines, _of_text)
            return
        while not (lines.read() or "").strip():
            continue  # blank lines before the header
        lines.go_to(place or lines.place)
        yield from _csv(lines, delimiter, columns)


def _header(first: bytes) -> tuple[str, list[str]]:
    """Delimiter and columns of a CSV list; none where the first line names no column of ours."""
    line = first.split(b"\n", 1)[0].decode(errors="replace")
    for delimiter in _DELIMITERS:
        cells = next(csv.reader([line], delimiter=delimiter), [])
        columns = [cell.strip() for cell in cells]
        if not {column.lower() for column in columns}.isdisjoint(ADDRESS_FIELDS):
            return delimiter, columns
    return "", []


def _plain(lines: _Physical, parse: Any) -> Iterator[Line]:
    """Lists in which a line of the file is a line of ours."""
    while True:
        try:
            text = lines.read()
            if text is None:
                return
            if not text.strip():
                continue
            said = parse(text.strip())
        except _Bad as error:
            yield _broken(lines, lines.place["lines"], error)
        else:
            if said is not None:
                yield _line(lines, lines.place["lines"], said)


def _csv(lines: _Physical, delimiter: str, columns: list[str]) -> Iterator[Line]:
    """Records; quoted fields may have line ends, so that a record may have several lines.

    Where a record cannot be read, its first line is what is broken, and the next one is tried.
    """
    start = lines.place

    def record() -> Iterator[str]:
        while (line := lines.read()) is not None:
            yield line
            if lines.place["bytes"] - start["bytes"] > MAX_LINE_BYTES:
                raise _Bad(f"its record has more than {MAX_LINE_BYTES:,} bytes")

    reader = csv.reader(record(), delimiter=delimiter, strict=True)
    while True:
        start = lines.place
        number = start["lines"] + 1
        try:
            cells = next(reader, None)
            if cells is None:
                return
            said = _of_cells(columns, cells) if any(map(str.strip, cells)) else None
        except (csv.Error, _Bad) as error:
            if not isinstance(error, _Bad) or lines.place["lines"] > number:
                lines.go_to(start)
                _skip(lines)
            reader = csv.reader(record(), delimiter=delimiter, strict=True)
            yield _broken(lines, number, error)
        else:
            if said is not None:
                yield _line(lines, number, said)


def _skip(lines: _Physical) -> None:
    try:
        lines.read()
    except _Bad:
        return  # it is told as broken anyway


def _line(lines: _Physical, number: int, said: _Fields) -> Line:
    """A line whose parts are well-formed; what they say may still be wrong."""
    error = None
    reference, metadata = said.reference, said.metadata
    try:
        if reference is not None:
            clean_text(reference)
            if len(reference) > MAX_REFERENCE:
                raise ValueError(f"a reference has at most {MAX_REFERENCE} characters")
        small_json(metadata)
    except ValueError as problem:
        error, reference, metadata = f"Line {number}: {problem}.", None, {}
    return Line(number, said.address, lines.place, reference, metadata, error)


def _broken(lines: _Physical, number: int, error: Exception) -> Line:
    return Line(number, lines.last, lines.place, error=f"Line {number} cannot be read: {error}.")


def _of_text(text: str) -> _Fields | None:
    return None if text.startswith("#") else _Fields(text)


def _of_json(text: str) -> _Fields:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Bad("it is not JSON") from error
    if not isinstance(said, dict):
        raise _Bad("it is no JSON object")
    return _fields(said)


def _of_cells(columns: list[str], cells: list[str]) -> _Fields:
    if any(cells[len(columns) :]):
        raise _Bad(f"it has {len(cells)} fields, the header {len(columns)}")
    said: dict[str, Any] = {}
    for number, (column, cell) in enumerate(zip(columns, cells, strict=False), start=1):
        ours = column.lower() in (*ADDRESS_FIELDS, *_OWN_FIELDS)
        if cell.strip():
            said[column.lower() if ours else column or f"column {number}"] = cell.strip()
    if "metadata" in said:
        try:
            said["metadata"] = json.loads(said["metadata"])
        except (ValueError, RecursionError) as error:
            raise _Bad("its metadata is not JSON") from error
    return _fields(said)


def _fields(said: dict[str, Any]) -> _Fields:
    """The fields by their names; those that are not ours are metadata."""
    name = next((name for name in ADDRESS_FIELDS if said.get(name)), None)
    if name is None:
        raise _Bad(f"it has no {', '.join(ADDRESS_FIELDS[:-1])} or {ADDRESS_FIELDS[-1]}")
    address, reference = said.pop(name), said.pop("reference", None)
    metadata = said.pop("metadata", None)
    if not isinstance(address, str):
        raise _Bad(f"its {name} is no text")
    if not (reference is None or isinstance(reference, str)):
        raise _Bad("its reference is no text")
    if not (metadata is None or isinstance(metadata, dict)):
        raise _Bad("its metadata is no JSON object")
    return _Fields(address.strip(), reference, said | (metadata or {}))

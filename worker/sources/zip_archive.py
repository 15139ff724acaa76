"""zip, read along its directory, or, where that is missing, along the entries' own headers."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from shared.errors import Unavailable
from shared.ingestions.archives import ZipDirectory, find_directory
from worker.sources.limits import Limits, too_large, unpacks_too_far
from worker.sources.names import is_junk, shown_name
from worker.sources.protocol import Entry, SourceEnded
from worker.sources.zip_cut_off import along_headers
from worker.sources.zip_headers import (
    DEFLATED,
    ENCRYPTED,
    STORED,
    File,
    files_of,
    local_header,
)

_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_FREE_BYTES = 2**20  # below this no ratio is asked: a small picture of one colour packs very well
_PIECE_BYTES = 2**16


class _Bad(Exception):
    """This entry cannot be read, and why."""


class ZipArchive:
    """A zip file."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits

    def entries(self, checkpoint: Any) -> Iterator[Entry]:
        """See `Source.entries`; a checkpoint is a place in the directory, or in the file without.

        With it goes what was unpacked so far, and where the entry before lies: many entries over
        the same bytes unpack to more than is there.
        """
        place = checkpoint or {"at": 0, "entries": 0, "bytes": 0, "span": [0, 0]}
        try:
            with self._path.open("rb") as file:
                directory = find_directory(file)
                yield from self._read(file, directory, place)
        except OSError as error:
            raise Unavailable(f"the archive cannot be read: {error.strerror}") from error

    def _read(
        self, file: IO[bytes], directory: ZipDirectory | None, place: dict[str, Any]
    ) -> Iterator[Entry]:
        at, number, unpacked, span = (place[key] for key in ("at", "entries", "bytes", "span"))
        size = self._path.stat().st_size
        most = self._limits.most_bytes(size)
        files = (
            files_of(file, directory, at, number) if directory else along_headers(file, at, most)
        )
        for found, behind in files:
            number += 1
            before, span = span, list(found.span)
            if found.name.endswith(("/", "\\")) or is_junk(found.name):
                continue
            data, error = None, self._refusal(found, before, size)
            if error is None or directory is None:
                # Without the directory one that is refused was unpacked too, to find its end.
                unpacked += max(found.packed, found.unpacked)
            if unpacked > most:
                raise unpacks_too_far(most)
            if error is None:
                try:
                    data = _unpacked(file, found)
                except _Bad as bad:
                    error = ("entry_refused", f"The entry is damaged: {bad}.")
            place = {"at": behind, "entries": number, "bytes": unpacked, "span": span}
            yield Entry(shown_name(found.name), data, place, error=error)
        if directory is None:
            raise SourceEnded(
                "source_damaged",
                "The archive is damaged or cut off: its directory is missing. It was read from its"
                f" start, up to its entry {number}.",
            )

    def _refusal(self, found: File, before: list[int], size: int) -> tuple[str, str] | None:
        """What speaks against an entry, by its header and that of the entry before."""
        ratio = self._limits.max_expansion_ratio
        begin, end = found.span
        reason = None
        if found.is_link:
            reason = "is a link; it is not followed"
        elif found.flags & ENCRYPTED:
            reason = "is encrypted"
        elif found.method not in (STORED, DEFLATED):
            name = _METHODS.get(found.method, f"method {found.method}")
            reason = f"is packed by {name}, which is not read"
        elif found.unpacked > self._limits.max_image_bytes:
            return too_large(self._limits.max_image_bytes)
        elif end > size:
            reason = "is damaged: it would end behind the archive's end"
        elif begin < before[1] and before[0] < end:
            reason = "lies over another one"
        elif found.unpacked > max(_FREE_BYTES, ratio * found.packed):
            reason = f"unpacks to over {ratio} times its size"
        return None if reason is None else ("entry_refused", f"The entry {reason}.")


def _unpacked(file: IO[bytes], found: File) -> bytes:
    """The bytes of an entry: never more than its header says."""
    header = local_header(file, found.header)
    if header is None:
        raise _Bad("its header is missing")
    file.seek(header[1])
    if found.method == STORED:
        data = file.read(min(found.packed, found.unpacked))
    else:
        data = _inflated(file, found)
    if len(data) != found.unpacked or zlib.crc32(data) != found.checksum:
        raise _Bad("its checksum is wrong")
    return data


def _inflated(file: IO[bytes], found: File) -> bytes:
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    left, pieces, size = found.packed, [], 0
    try:
        while left > 0 and size < found.unpacked and not unpack.eof:
            piece = file.read(min(left, _PIECE_BYTES))
            if not piece:
                break
            left -= len(piece)
            # With a limit: a piece can unpack to a thousand times its size.
            pieces.append(unpack.decompress(piece, found.unpacked - size))
            size += len(pieces[-1])
    except zlib.error as error:
        raise _Bad("it cannot be unpacked") from error
    return b"".join(pieces)

"""zip, read along its directory; the standard library's reader holds the whole directory.

Where the directory is missing, as of an upload that was cut off, what there is is read from the
start along the entries' own headers.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from worker.sources.limits import Limits, too_large
from worker.sources.names import is_junk
from worker.sources.protocol import Entry, SourceEnded

# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7 to 4.3.16
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64_AT = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LONGEST_COMMENT = 65_535
_ZIP64_EXTRA = 1
_IN_ZIP64, _NUMBER_IN_ZIP64 = 0xFFFFFFFF, 0xFFFF
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 0x1, 0x8, 0x800
_STORED, _DEFLATED = 0, 8
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_LINK, _KIND_OF_FILE = 0o120000, 0o170000
_FREE_BYTES = 2**20  # below this no ratio is asked: a small picture of one colour packs very well
_PIECE_BYTES = 2**16


@dataclass(frozen=True)
class _File:
    """One entry, as a header has it."""

    name: str
    flags: int
    method: int
    checksum: int
    packed: int
    unpacked: int
    header: int  # where its own header is
    is_link: bool = False


class _Bad(Exception):
    """This entry cannot be read, and why."""


class ZipArchive:
    """A zip file."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits

    def entries(self, checkpoint: Any) -> Iterator[Entry]:
        """See `Source.entries`; a checkpoint is a place in the directory."""
        place = dict(checkpoint or {"at": 0, "bytes": 0, "entries": 0})
        with self._path.open("rb") as file:
            directory = _find_directory(file)
            files = _along_headers(file, place) if directory is None else directory.files(place)
            for found, at in files:
                place = {**place, "at": at, "entries": place["entries"] + 1}
                if found.name.endswith("/") or is_junk(found.name):
                    continue
                data, error = self._taken(file, found)
                place["bytes"] += len(data or b"")
                if place["bytes"] > self._limits.max_expanded_bytes:
                    raise SourceEnded(
                        "source_too_large",
                        "The archive unpacks to more than "
                        f"{self._limits.max_expanded_bytes:,} bytes.",
                    )
                yield Entry(found.name, data, dict(place), error=error)
        if directory is None:
            raise SourceEnded(
                "source_damaged",
                f"The archive is cut off: its directory is missing. {place['entries']} entries"
                " were found in it and taken.",
            )

    def _taken(self, file: IO[bytes], found: _File) -> tuple[bytes | None, tuple[str, str] | None]:
        """The bytes of an entry, or why they are not taken."""
        refusal = self._refusal(found)
        if refusal is not None:
            return None, refusal
        try:
            return _unpacked(file, found), None
        except _Bad as bad:
            return None, ("entry_refused", f"The entry is damaged: {bad}.")

    def _refusal(self, found: _File) -> tuple[str, str] | None:
        """What speaks against an entry, by its header."""
        ratio = self._limits.max_expansion_ratio
        reason = None
        if found.is_link:
            reason = "is a link; it is not followed"
        elif found.flags & _ENCRYPTED:
            reason = "is encrypted"
        elif found.method not in (_STORED, _DEFLATED):
            name = _METHODS.get(found.method, f"method {found.method}")
            reason = f"is packed by {name}, which is not read"
        elif found.unpacked > self._limits.max_image_bytes:
            return too_large(self._limits.max_image_bytes)
        elif found.unpacked > max(_FREE_BYTES, ratio * found.packed):
            reason = f"unpacks to over {ratio} times its size"
        return None if reason is None else ("entry_refused", f"The entry {reason}.")


@dataclass(frozen=True)
class _Directory:
    """Where the directory is, and how far the whole archive is behind the file's start."""

    file: IO[bytes]
    start: int
    size: int
    shift: int

    def files(self, place: dict[str, int]) -> Iterator[tuple[_File, int]]:
        """The entries from a place on, each with the place behind it.

        Raises:
            SourceEnded: The directory is damaged.
        """
        at = place["at"]
        number = place["entries"]
        while at < self.size:
            self.file.seek(self.start + at)
            head = self.file.read(_CENTRAL.size)
            if len(head) < _CENTRAL.size or head[:4] != b"PK\x01\x02":
                raise SourceEnded(
                    "source_damaged",
                    f"The archive's directory is damaged behind its entry {number}; what came"
                    " before was taken.",
                )
            (_, made, _, flags, method, _, _, checksum, packed, unpacked, *rest) = _CENTRAL.unpack(
                head
            )
            name_size, extra_size, comment_size, _, _, attributes, header = rest
            name = self.file.read(name_size)
            extra = self.file.read(extra_size)
            unpacked, packed, header = _sizes(extra, unpacked, packed, header)
            at += _CENTRAL.size + name_size + extra_size + comment_size
            number += 1
            made_on_unix = made >> 8 == 3  # noqa: PLR2004  # APPNOTE 4.4.2.2
            yield (
                _File(
                    _text(name, flags),
                    flags,
                    method,
                    checksum,
                    packed,
                    unpacked,
                    header + self.shift,
                    made_on_unix and (attributes >> 16) & _KIND_OF_FILE == _LINK,
                ),
                at,
            )


def _find_directory(file: IO[bytes]) -> _Directory | None:
    """The directory, or None where the archive has no end."""
    size = file.seek(0, 2)
    tail_size = min(size, _END.size + _LONGEST_COMMENT)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        return None
    _, _, _, _, number, length, offset, _ = _END.unpack_from(tail, at)
    end = size - tail_size + at
    if _IN_ZIP64 in (length, offset) or number == _NUMBER_IN_ZIP64:
        file.seek(max(0, end - _END64_AT.size))
        head = file.read(_END64_AT.size)
        if len(head) == _END64_AT.size and head[:4] == b"PK\x06\x07":
            # Not where it says: with something before the archive it lies further back.
            end -= _END64_AT.size + _END64.size
            file.seek(max(0, end))
            big = file.read(_END64.size)
            if len(big) < _END64.size or big[:4] != b"PK\x06\x06":
                return None
            length, offset = _END64.unpack(big)[-2:]
    start = end - length
    return None if start < 0 or start < offset else _Directory(file, start, length, start - offset)


def _along_headers(file: IO[bytes], place: dict[str, int]) -> Iterator[tuple[_File, int]]:
    """The entries of an archive without a directory, from a place in the file on."""
    at = place["at"]
    while True:
        file.seek(at)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
            return
        _, _, flags, method, _, _, checksum, packed, unpacked, name_size, extra_size = (
            _LOCAL.unpack(head)
        )
        name = file.read(name_size)
        unpacked, packed, _ = _sizes(file.read(extra_size), unpacked, packed, 0)
        if flags & _SIZES_FOLLOW and not packed:
            return  # how long it is stands in the directory alone
        end = at + _LOCAL.size + name_size + extra_size + packed
        if end > file.seek(0, 2):
            return
        yield _File(_text(name, flags), flags, method, checksum, packed, unpacked, at), end
        at = end


def _unpacked(file: IO[bytes], found: _File) -> bytes:
    """The bytes of an entry: never more than its header says."""
    file.seek(found.header)
    head = file.read(_LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        raise _Bad("its header is missing")
    name_size, extra_size = _LOCAL.unpack(head)[-2:]
    file.seek(name_size + extra_size, 1)
    if found.method == _STORED:
        data = file.read(min(found.packed, found.unpacked))
    else:
        data = _inflated(file, found)
    if len(data) != found.unpacked or zlib.crc32(data) != found.checksum:
        raise _Bad("its checksum is wrong")
    return data


def _inflated(file: IO[bytes], found: _File) -> bytes:
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


def _sizes(extra: bytes, unpacked: int, packed: int, header: int) -> tuple[int, int, int]:
    """Unpacked size, packed size and place, from the extra field where 32 bits are too few."""
    values = [unpacked, packed, header]
    while len(extra) >= 4:  # noqa: PLR2004
        kind, size = struct.unpack_from("<2H", extra)
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind != _ZIP64_EXTRA:
            continue
        for index, value in enumerate(values):
            if value == _IN_ZIP64 and len(body) >= 8:  # noqa: PLR2004
                (values[index],) = struct.unpack_from("<Q", body)
                body = body[8:]
    return values[0], values[1], values[2]


def _text(name: bytes, flags: int) -> str:
    if flags & _UTF8:
        return name.decode("utf-8", "replace")
    try:  # many tools write UTF-8 and do not say so
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("cp437")

"""What an uploaded or fetched file is packed as, told by its content, never by its name.

Web asks before it accepts a file, and the worker before it reads one: both by this.
"""

import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

ArchiveKind = Literal["zip", "gzip", "zstd", "tar"]

ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # of a zip, and of an empty one
# https://en.wikipedia.org/wiki/List_of_file_signatures
_GZIP = b"\x1f\x8b"
# Parallel packers begin with a frame that is passed over, which any of sixteen numbers marks.
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes((number, 0x2A, 0x4D, 0x18)) for number in range(0x50, 0x60)))
# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.14 to 4.3.16
_END = struct.Struct("<4s4H2IH")
_END64_AT = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LONGEST_COMMENT = 65_535


def archive_kind(path: Path) -> ArchiveKind | None:
    """How the file is packed; None if it is no archive that is read.

    What is in gzip or Zstandard is not looked at.
    """
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
        if head.startswith(ZIP_STARTS):
            return "zip"
        if head.startswith(_GZIP):
            return "gzip"
        if head.startswith(_ZSTD):
            return "zstd"
        if _is_tar(head, path.stat().st_size):
            return "tar"
        # A zip may come behind something else, as a program that unpacks it.
        return "zip" if find_directory(file) is not None else None


def _is_tar(head: bytes, size: int) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "replace")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return size % tarfile.BLOCKSIZE == 0  # nothing but zeros: an empty one is whole blocks
    except tarfile.HeaderError:
        return False
    return True


@dataclass(frozen=True)
class ZipDirectory:
    """Where a zip's directory is, and how far the whole archive is behind the file's start."""

    start: int
    size: int
    number: int
    shift: int


def find_directory(file: IO[bytes]) -> ZipDirectory | None:
    """The directory, or None where the archive has none at its end.

    There may be something before an archive, as a program that unpacks it, or some bytes behind it.
    But an archive that was cut off may end with, or shortly behind, another one that lies in it.
    """
    file.seek(0)
    is_prefixed = file.read(4) not in ZIP_STARTS
    size = file.seek(0, 2)
    tail_at = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(tail_at)
    tail = file.read()
    at = len(tail)
    while (at := tail.rfind(ZIP_STARTS[1], 0, at)) >= 0:
        if len(tail) - at < _END.size:
            continue
        comment_size = _END.unpack_from(tail, at)[-1]
        found = _directory(file, tail_at + at)
        if found is None:
            continue
        ends_here = at + _END.size + comment_size == len(tail)
        if found.shift == 0 or (is_prefixed and ends_here):
            return found
    return None


def _directory(file: IO[bytes], end: int) -> ZipDirectory | None:
    """The directory of which the record at `end` tells; None if there is none."""
    file.seek(end)
    _, _, _, _, number, size, offset, _ = _END.unpack(file.read(_END.size))
    file.seek(max(0, end - _END64_AT.size))
    if file.read(4) == b"PK\x06\x07":
        # Not where it says: with something before the archive it lies further back.
        end -= _END64_AT.size + _END64.size
        file.seek(max(0, end))
        big = file.read(_END64.size)
        if len(big) < _END64.size or big[:4] != b"PK\x06\x06":
            return None
        number, size, offset = _END64.unpack(big)[-3:]
    start = end - size
    if start < offset:
        return None
    file.seek(start)
    is_one = file.read(4) == b"PK\x01\x02" if size else number == 0 and start == offset
    return ZipDirectory(start, size, number, start - offset) if is_one else None

"""The headers of a zip: those in the directory at its end, and the one before each entry.

https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7 to 4.3.16. The standard
library's reader takes the whole directory into memory; here it is read along.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from shared.ingestions.archives import ZIP_STARTS, ZipDirectory
from worker.sources.protocol import SourceEnded

STORED, DEFLATED = 0, 8
ENCRYPTED, SIZES_FOLLOW = 0x1, 0x8
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_ZIP64_EXTRA, _IN_ZIP64 = 1, 0xFFFFFFFF
_NUMBERS = 0x10000  # old tools count entries in 16 bits, whatever their number
_UTF8 = 0x800
_UNIX, _LINK, _KIND_OF_FILE = 3, 0o120000, 0o170000


@dataclass(frozen=True)
class File:
    """One entry, as a header has it."""

    name: str
    flags: int
    method: int
    checksum: int
    packed: int
    unpacked: int
    header: int  # where its own header is
    is_link: bool = False

    @property
    def span(self) -> tuple[int, int]:
        """Where it begins and ends at the least: how long its own header is stands in that."""
        return self.header, self.header + _LOCAL.size + self.packed


def files_of(
    file: IO[bytes], directory: ZipDirectory, at: int, number: int
) -> Iterator[tuple[File, int]]:
    """The entries from a place on, each with the place behind it.

    Args:
        file: The archive.
        directory: Where its directory is.
        at: Place in the directory.
        number: Entries before it.

    Raises:
        SourceEnded: The directory is damaged.
    """
    while at < directory.size:
        file.seek(directory.start + at)
        head = file.read(_CENTRAL.size)
        if len(head) < _CENTRAL.size or head[:4] != b"PK\x01\x02":
            raise _damaged(number)
        (_, made, _, flags, method, _, _, checksum, packed, unpacked, *rest) = _CENTRAL.unpack(head)
        name_size, extra_size, comment_size, _, _, attributes, header = rest
        name = file.read(name_size)
        extra = file.read(extra_size)
        unpacked, packed, header = _sizes(extra, unpacked, packed, header)
        at += _CENTRAL.size + name_size + extra_size + comment_size
        if at > directory.size:
            raise _damaged(number)
        is_link = made >> 8 == _UNIX and (attributes >> 16) & _KIND_OF_FILE == _LINK
        header += directory.shift
        number += 1
        text = _text(name, flags)
        yield File(text, flags, method, checksum, packed, unpacked, header, is_link), at
    if (number - directory.number) % _NUMBERS:
        raise _damaged(number)


def local_header(file: IO[bytes], at: int) -> tuple[File, int] | None:
    """What the header before an entry says, and where its bytes begin; None if there is none.

    That an entry is a link stands in the directory alone.
    """
    file.seek(at)
    head = file.read(_LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != ZIP_STARTS[0]:
        return None
    _, _, flags, method, _, _, checksum, packed, unpacked, name_size, extra_size = _LOCAL.unpack(
        head
    )
    name = file.read(name_size)
    unpacked, packed, _ = _sizes(file.read(extra_size), unpacked, packed, 0)
    found = File(_text(name, flags), flags, method, checksum, packed, unpacked, at)
    return found, at + _LOCAL.size + name_size + extra_size


def _damaged(number: int) -> SourceEnded:
    return SourceEnded(
        "source_damaged",
        f"The archive's directory is damaged behind its entry {number}; what came before was"
        " taken.",
    )


def _sizes(extra: bytes, unpacked: int, packed: int, header: int) -> tuple[int, int, int]:
    """Unpacked size, packed size and place, from the extra field where 32 bits are too few."""
    values, at = [unpacked, packed, header], 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        body = extra[at + 4 : at + 4 + size]
        at += 4 + size
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

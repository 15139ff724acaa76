"""A zip whose directory is missing, as of an upload that was cut off, read from its start on."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

from worker.sources.limits import unpacks_too_far
from worker.sources.zip_headers import DEFLATED, ENCRYPTED, SIZES_FOLLOW, File, local_header

_PIECE_BYTES = 2**16
# Checksum, packed and unpacked size behind an entry: with or without a mark before them, and of 64
# or 32 bits; none of it is told. The longer ones first: of an empty entry a shorter one fits both.
_FOLLOWING = tuple(map(struct.Struct, ("<4xI2Q", "<I2Q", "<4x3I", "<3I")))


def along_headers(file: IO[bytes], at: int, most: int) -> Iterator[tuple[File, int]]:
    """The entries from a place in the file on, each with the place behind it.

    They end without an error at the first that is not there as a whole, or of which nobody can tell
    where it ends: one that is not packed, or is encrypted, and has its sizes behind it.

    Args:
        file: The archive.
        at: Where the header of the next entry is.
        most: Bytes that one entry may unpack to.

    Raises:
        SourceEnded: An entry unpacks to more.
    """
    size = file.seek(0, 2)
    while (header := local_header(file, at)) is not None:
        found, begin = header
        end = begin + found.packed
        if found.flags & SIZES_FOLLOW and not found.packed:
            measured = _measured(file, found, begin, most)
            if measured is None:
                return
            found, end = measured
        if end > size:
            return
        yield found, end
        at = end


def _measured(file: IO[bytes], found: File, begin: int, most: int) -> tuple[File, int] | None:
    """The entry with the sizes that stand behind it, and where it ends: it is unpacked to know."""
    if found.method != DEFLATED or found.flags & ENCRYPTED:
        return None
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    checksum = unpacked = packed = 0
    file.seek(begin)
    while not unpack.eof:
        piece = unpack.unconsumed_tail or file.read(_PIECE_BYTES)
        try:
            data = unpack.decompress(piece, _PIECE_BYTES)
        except zlib.error:
            return None
        if not piece and not data:
            return None
        checksum = zlib.crc32(data, checksum)
        unpacked += len(data)
        # At the end what is left over may be in both.
        packed += len(piece) - len(unpack.unused_data if unpack.eof else unpack.unconsumed_tail)
        if unpacked > most:
            raise unpacks_too_far(most)
    file.seek(begin + packed)
    behind = file.read(max(form.size for form in _FOLLOWING))
    for form in _FOLLOWING:
        values = form.unpack_from(behind) if len(behind) >= form.size else None
        if values == (checksum, packed, unpacked):
            known = replace(found, checksum=checksum, packed=packed, unpacked=unpacked)
            return known, begin + packed + form.size
    return None

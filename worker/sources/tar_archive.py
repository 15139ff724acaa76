"""tar, tar.gz and tar.zst, read as a stream: of an archive of any size one entry is in memory.

The standard library reads the header blocks, and no more. Its reader keeps every member, takes long
names and the maps of sparse files into memory whatever their size, hardly ends on an entry that
claims to be endless, and mistakes damage for the end.
"""

import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from gzip import BadGzipFile
from io import SEEK_END, BufferedReader
from pathlib import Path
from typing import Any

from backports.zstd import ZstdError

from shared.errors import Unavailable
from worker.sources.limits import Limits, too_large, unpacks_too_far
from worker.sources.names import is_junk, shown_name
from worker.sources.protocol import Entry, SourceEnded

_BLOCK = tarfile.BLOCKSIZE
_HEADER_BYTES = 2**20  # a long name, or extended header, of a real archive has some hundred bytes
_PIECE_BYTES = 2**17
_LONG_NAME = tarfile.GNUTYPE_LONGNAME
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
# What these say is of no use here: where a link leads, and what is meant of all that follow.
_UNUSED = (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)
_SPARSE_GOES_ON, _MAP_GOES_ON = 482, 504  # bytes of GNU's header, and of the blocks behind it
_DAMAGES = (tarfile.TarError, EOFError, zlib.error, BadGzipFile, ZstdError, ValueError)


class TarArchive:
    """A tar behind some compression; `open_stream` gives its unpacked bytes."""

    def __init__(self, path: Path, open_stream: Callable[[Path], Any], limits: Limits) -> None:
        self._path = path
        self._open_stream = open_stream
        self._limits = limits

    def entries(self, checkpoint: Any) -> Iterator[Entry]:
        """See `Source.entries`; a checkpoint is the place of the next header, unpacked.

        A packed archive is unpacked once more up to there. All of it counts against the limit of
        unpacked bytes, now as then.
        """
        offset, number = (checkpoint["offset"], checkpoint["entries"]) if checkpoint else (0, 0)
        stream = None
        try:
            with self._open_stream(self._path) as unpacked:
                stream = _Stream(unpacked, self._limits.most_bytes(self._path.stat().st_size))
                stream.skip(offset)
                while (member := _next_member(stream)) is not None:
                    entry = self._taken(stream, member)
                    number += 1
                    if entry is not None:
                        data, error = entry
                        place = {"offset": stream.at, "entries": number}
                        yield Entry(shown_name(member.name), data, place, error=error)
                stream.finish()
        except _DAMAGES as error:
            if stream is not None and _is_no_tar(stream.at, error):
                raise SourceEnded(
                    "unsupported_source",
                    "What is packed here is no tar: zip, tar, tar.gz and tar.zst are read.",
                ) from error
            raise SourceEnded(
                "source_damaged",
                f"The archive is damaged or cut off behind its entry {number}; what came before was"
                " taken.",
            ) from error
        except OSError as error:
            raise Unavailable(f"the archive cannot be read: {error.strerror}") from error

    def _taken(
        self, stream: "_Stream", member: "_Member"
    ) -> tuple[bytes | None, tuple[str, str] | None] | None:
        """Bytes and refusal of one member; None of one that is passed over."""
        most, padded = self._limits.max_image_bytes, _whole_blocks(member.size)
        passed_over = member.is_directory or is_junk(member.name)
        if passed_over or member.refused is not None or member.size > most:
            stream.skip(padded)
            if passed_over:
                return None
            refusal = ("entry_refused", f"The entry is {member.refused}.")
            return None, refusal if member.refused is not None else too_large(most)
        data = stream.take(member.size)
        stream.skip(padded - member.size)
        return data, None


@dataclass(frozen=True)
class _Member:
    """What the headers of one member say; its bytes follow them."""

    name: str
    size: int  # of what follows, in bytes
    is_directory: bool
    refused: str | None  # what it is, if it is not read


class _Stream:
    """The unpacked bytes, of which only so many may come: a small file can unpack to anything."""

    def __init__(self, unpacked: Any, most: int) -> None:
        self.at = 0
        self._unpacked = unpacked
        self._most = most

    def take(self, size: int) -> bytes:
        """The next bytes, exactly so many.

        Raises:
            SourceEnded: The archive unpacks to more than it may.
            _DAMAGES: There are not so many.
        """
        pieces = list(self._pieces(size))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, size: int) -> None:
        """Go on behind so many bytes; raises as `take` does."""
        if size > _PIECE_BYTES and isinstance(self._unpacked, BufferedReader):
            # Not packed: nothing of it need be read, and where it is cut off is known.
            if self.at + size > self._unpacked.seek(0, SEEK_END):
                raise tarfile.ReadError("the archive is cut off")
            self.at = self._unpacked.seek(self.at + size)
            return
        for _ in self._pieces(size):
            pass

    def finish(self) -> None:
        """Read what follows the mark of the end: zeros, and the checksum of a packed archive.

        Raises:
            SourceEnded: The archive unpacks to more than it may.
            _DAMAGES: It is damaged, or goes on there.
        """
        while piece := self._unpacked.read1(_PIECE_BYTES):
            self._expect(len(piece))
            self.at += len(piece)
            if piece.strip(b"\0"):
                raise tarfile.ReadError("the archive goes on behind its end")

    def _pieces(self, size: int) -> Iterator[bytes]:
        self._expect(size)  # known before the first of them is unpacked
        while size > 0:
            # In one step: of a step that meets damage, what came before is lost.
            piece = self._unpacked.read1(min(size, _PIECE_BYTES))
            if not piece:
                raise tarfile.ReadError("the archive is cut off")
            self.at += len(piece)
            size -= len(piece)
            yield piece

    def _expect(self, size: int) -> None:
        if self.at + size > self._most:
            raise unpacks_too_far(self._most)


def _next_member(stream: _Stream) -> _Member | None:
    """What the next headers say; None at the mark of the end.

    Raises:
        SourceEnded, _DAMAGES: They cannot be read, or not be understood.
    """
    long_name, records = b"", dict[bytes, bytes]()
    while True:
        block = stream.take(_BLOCK)
        if not block.strip(b"\0"):
            return None
        header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        size = header.size
        if size < 0:
            raise tarfile.ReadError("a negative size")
        if header.type == _LONG_NAME:
            long_name = _extra(stream, size).partition(b"\0")[0]
        elif header.type in _EXTENDED:
            records = _records(_extra(stream, size))
        elif header.type in _UNUSED:
            stream.skip(_whole_blocks(size))
        else:
            break
    if header.type == tarfile.GNUTYPE_SPARSE and block[_SPARSE_GOES_ON]:
        while stream.take(_BLOCK)[_MAP_GOES_ON]:
            pass
    size = int(records.get(b"size", size))
    if size < 0:
        raise tarfile.ReadError("a negative size")
    name = records.get(b"GNU.sparse.name") or records.get(b"path") or long_name
    has_bytes = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    return _Member(
        name.decode("utf-8", "replace") or header.name,
        size if has_bytes else 0,
        header.isdir(),
        _refused(header, records),
    )


def _refused(header: tarfile.TarInfo, records: dict[bytes, bytes]) -> str | None:
    """What a member is that is not read, else None."""
    if header.type == tarfile.GNUTYPE_SPARSE or any(
        key.startswith(b"GNU.sparse") for key in records
    ):
        return "a sparse file, which is not read"  # a few bytes of one unpack to any size
    if header.issym() or header.islnk():
        return "a link; it is not followed"
    return None if header.isreg() else "no ordinary file"


def _is_no_tar(at: int, error: Exception) -> bool:
    """Whether not even the first header was one; a failure to unpack is damage."""
    return (at < _BLOCK and isinstance(error, tarfile.ReadError)) or (
        at == _BLOCK and isinstance(error, tarfile.HeaderError)
    )


def _extra(stream: _Stream, size: int) -> bytes:
    if size > _HEADER_BYTES:
        raise tarfile.ReadError("a header of absurd size")
    return stream.take(_whole_blocks(size))[:size]


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records of an extended header, each `<its length> <key>=<value>` and a line's end."""
    records, at = {}, 0
    while at < len(data) and data[at]:
        space = data.index(b" ", at, at + 8)
        end = at + int(data[at:space])
        if end <= space or data[end - 1 : end] != b"\n":
            raise tarfile.ReadError("an extended header that is damaged")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key] = value
        at = end
    return records


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK

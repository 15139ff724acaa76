"""tar, tar.gz and tar.zst, read as a stream: of an archive of any size one entry is in memory."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backports.zstd import ZstdError

from worker.sources.limits import Limits, too_large
from worker.sources.names import is_junk
from worker.sources.protocol import Entry, SourceEnded

# A long name, or extended header, of a real archive has some hundred bytes. tarfile reads it whole.
_HEADER_BYTES = 2**20
_LONG_HEADERS = frozenset(
    {
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    }
)
_SKIP_BYTES = 2**20
_ALWAYS_BYTES = 2**30  # that an archive may unpack to, however small it is
_KINDS = {
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a link",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
}
_DAMAGES = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ZstdError, ValueError)


class TarArchive:
    """A tar behind some compression; `open_stream` gives its unpacked bytes."""

    def __init__(self, path: Path, open_stream: Callable[[Path], Any], limits: Limits) -> None:
        self._path = path
        self._open_stream = open_stream
        self._limits = limits

    def entries(self, checkpoint: Any) -> Iterator[Entry]:
        """See `Source.entries`; a checkpoint is the place of the next header, unpacked."""
        start = int(checkpoint["offset"]) if checkpoint else 0
        number = int(checkpoint["entries"]) if checkpoint else 0
        with self._open_stream(self._path) as unpacked:
            counted = _Counted(unpacked, self._most_bytes())
            try:
                counted.skip(start)
                yield from self._read(counted, start, number)
            except SourceEnded:
                raise
            except _Damaged as damage:
                raise self._damaged(damage.number) from damage

    def _read(self, stream: "_Counted", start: int, number: int) -> Iterator[Entry]:
        header = _header_type()
        try:
            tar = tarfile.TarFile.open(fileobj=stream, mode="r|", tarinfo=header)  # type: ignore[call-overload]
        except tarfile.ReadError:
            if stream.at_end(start):
                return  # nothing, behind the last entry that was taken
            raise _Damaged(number) from None
        except _DAMAGES as error:
            raise _Damaged(number) from error
        with tar:
            while True:
                try:
                    member = tar.next()
                    if member is None:
                        break
                    entry = self._taken(tar, member)
                except _DAMAGES as error:
                    raise _Damaged(number) from error
                tar.members = []  # it would remember every one
                number += 1
                if entry is not None:
                    name, data, refusal = entry
                    place = {"offset": start + tar.offset, "entries": number}
                    yield Entry(name, data, place, error=refusal)
        if header.damaged:
            raise _Damaged(number)

    def _taken(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo
    ) -> tuple[str, bytes | None, tuple[str, str] | None] | None:
        """Name, bytes and refusal of one member; None of one that is passed over."""
        if member.isdir() or is_junk(member.name):
            return None
        if not member.isreg():
            kind = _KINDS.get(member.type, "no ordinary file")
            return member.name, None, ("entry_refused", f"The entry is {kind}; it is not followed.")
        most = self._limits.max_image_bytes
        if member.size > most:
            return member.name, None, too_large(most)
        file = tar.extractfile(member)
        return member.name, b"" if file is None else file.read(), None

    def _most_bytes(self) -> int:
        packed = self._path.stat().st_size
        by_ratio = max(_ALWAYS_BYTES, packed * self._limits.max_expansion_ratio)
        return min(by_ratio, self._limits.max_expanded_bytes)

    def _damaged(self, number: int) -> SourceEnded:
        return SourceEnded(
            "source_damaged",
            f"The archive is damaged or cut off behind its entry {number}; what came before was"
            " taken.",
        )


class _Damaged(Exception):
    """The archive cannot be read behind so many entries."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Counted:
    """The unpacked bytes, of which only so many may come: a small file can unpack to anything."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream = stream
        self._most = most
        self._read = 0

    def read(self, size: int) -> bytes:
        """As a file's.

        Raises:
            SourceEnded: The archive unpacks to more than it may.
        """
        # What there is before an error comes without it.
        data: bytes = self._stream.read1(size)
        self._read += len(data)
        if self._read > self._most:
            raise SourceEnded(
                "source_too_large", f"The archive unpacks to more than {self._most:,} bytes."
            )
        return data

    def skip(self, size: int) -> None:
        """Go on behind so many bytes.

        Raises:
            _Damaged: There are not so many.
        """
        if isinstance(self._stream, io.BufferedReader):  # not packed
            self._read = self._stream.seek(size)
            return
        while size > 0:
            try:
                data = self.read(min(size, _SKIP_BYTES))
            except _DAMAGES as error:
                raise _Damaged(0) from error
            if not data:
                raise _Damaged(0)
            size -= len(data)

    def at_end(self, start: int) -> bool:
        """Whether nothing came behind `start`."""
        return self._read <= start


def _header_type() -> Any:
    """A TarInfo that notes damage, at which tarfile itself would end as if all were well."""

    class Header(tarfile.TarInfo):
        damaged = False

        @classmethod
        def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
            try:
                found = super().frombuf(buf, encoding, errors)
            except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
                raise
            except tarfile.HeaderError:
                cls.damaged = True
                raise
            if found.type in _LONG_HEADERS and found.size > _HEADER_BYTES:
                cls.damaged = True
                raise tarfile.ReadError("a header of absurd size")
            return found

    return Header

"""Many images that arrive one by one become one archive on the disk, of any size."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_NAME_CHARACTERS = 1_000


class Pack:
    """A tar that is written as images arrive: first the beginning of one, then its bytes.

    Args:
        path: Of the file to be.
        most_bytes: Of one image. Of a larger one a byte more is kept, so that it shows.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self.names: list[str] = []
        self._file = path.open("wb")
        self._room = most_bytes + 1
        self._begun: tuple[tarfile.TarInfo, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def begin(self, name: str) -> None:
        """An image comes, as its client calls it."""
        info = tarfile.TarInfo(_inside(name))
        self._begun = info, self._file.tell()
        self._file.write(_header(info))
        self.names.append(name)

    def write(self, data: bytes) -> None:
        """Some more of its bytes."""
        assert self._begun is not None
        info, _ = self._begun
        taken = data[: self._room - info.size]
        info.size += len(taken)
        self._file.write(taken)

    def end(self) -> None:
        """That was all of it; now its size can be said in its header."""
        assert self._begun is not None
        info, place = self._begun
        self._file.write(bytes(-info.size % tarfile.BLOCKSIZE))
        self._file.seek(place)
        self._file.write(_header(info))
        self._file.seek(0, io.SEEK_END)
        self._begun = None

    def close(self) -> None:
        """All images have come."""
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.close()

    def images(self) -> Iterator[tuple[str, bytes]]:
        """The names and bytes of the images, one at a time, of a pack that is closed."""
        with tarfile.open(self.path, "r:") as archive:
            for name, member in zip(self.names, archive, strict=True):
                file = archive.extractfile(member)
                assert file is not None
                yield name, file.read()


def _header(info: tarfile.TarInfo) -> bytes:
    """Of the same length whatever its size is."""
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _inside(name: str) -> str:
    """A path within an archive: no archive that leads outside of itself is taken."""
    parts = (part for part in name.replace("\\", "/").replace("\0", "").split("/"))
    path = "/".join(part for part in parts if part not in ("", ".", ".."))
    return path[-_NAME_CHARACTERS:].lstrip("/") or "image"

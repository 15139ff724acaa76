"""Archives: zip, tar, tar.gz and tar.zst, told apart by their content, never by their name."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backports.zstd import ZstdFile

from worker.sources.limits import Limits
from worker.sources.protocol import Source, SourceEnded
from worker.sources.tar_archive import TarArchive
from worker.sources.zip_archive import ZipArchive
from worker.sources.zip_headers import STARTS, find_directory

_GZIP = b"\x1f\x8b"
# Parallel packers begin with a frame that is passed over, which any of sixteen numbers marks.
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes((number, 0x2A, 0x4D, 0x18)) for number in range(0x50, 0x60)))
_OPEN: dict[str, Callable[[Path], Any]] = {
    "tar": lambda path: path.open("rb"),
    "gzip": gzip.open,
    "zstd": ZstdFile,
}


def is_archive(path: Path) -> bool:
    """Whether the file is an archive, or something packed."""
    return _kind(path) is not None


def open_archive(path: Path, limits: Limits) -> Source:
    """The archive at `path`.

    Raises:
        SourceEnded: `unsupported_source`: it is none that is read.
    """
    kind = _kind(path)
    if kind is None:
        raise SourceEnded(
            "unsupported_source", "This is no archive that is read: zip, tar, tar.gz or tar.zst."
        )
    if kind == "zip":
        return ZipArchive(path, limits)
    return TarArchive(path, _OPEN[kind], limits)


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
        if head.startswith(STARTS):
            return "zip"
        if head.startswith(_GZIP):
            return "gzip"
        if head.startswith(_ZSTD):
            return "zstd"
        if _is_tar(head):
            return "tar"
        # A zip may come behind something else, as a program that unpacks it.
        return "zip" if find_directory(file) is not None else None


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "replace")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return True  # nothing but zeros: an empty one
    except tarfile.HeaderError:
        return False
    return True

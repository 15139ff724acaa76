"""Archives: zip, tar, tar.gz and tar.zst, told apart by their content, never by their name."""

import gzip
from pathlib import Path
from typing import Any

from backports.zstd import ZstdFile

from worker.sources.limits import Limits
from worker.sources.protocol import Source, SourceEnded
from worker.sources.tar_archive import TarArchive
from worker.sources.zip_archive import ZipArchive

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_TAR_AT, _TAR = 257, b"ustar"
_HEAD_BYTES = 512


def is_archive(path: Path) -> bool:
    """Whether the file begins as an archive does."""
    head = _head(path)
    return _is_tar(head) or head.startswith((*_ZIP, _GZIP, _ZSTD))


def open_archive(path: Path, limits: Limits) -> Source:
    """The archive at `path`.

    Raises:
        SourceEnded: `unsupported_source`: it is none that is read.
    """
    head = _head(path)
    if head.startswith(_ZIP):
        return ZipArchive(path, limits)
    if head.startswith(_GZIP):
        return TarArchive(path, _gunzipped, limits)
    if head.startswith(_ZSTD):
        return TarArchive(path, _unzstd, limits)
    if _is_tar(head):
        return TarArchive(path, _plain, limits)
    raise SourceEnded(
        "unsupported_source", "This is no archive that is read: zip, tar, tar.gz or tar.zst."
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _is_tar(head: bytes) -> bool:
    # An empty tar is nothing but zeros.
    return head[_TAR_AT:].startswith(_TAR) or (len(head) == _HEAD_BYTES and not any(head))


def _plain(path: Path) -> Any:
    return path.open("rb")


def _gunzipped(path: Path) -> Any:
    return gzip.open(path)


def _unzstd(path: Path) -> Any:
    return ZstdFile(path)

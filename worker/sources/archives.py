"""Archives: zip, tar, tar.gz and tar.zst, told apart by their content, never by their name."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backports.zstd import ZstdFile

from shared.ingestions.archives import archive_kind
from worker.sources.limits import Limits
from worker.sources.protocol import Source, SourceEnded
from worker.sources.tar_archive import TarArchive
from worker.sources.zip_archive import ZipArchive

_OPEN: dict[str, Callable[[Path], Any]] = {
    "tar": lambda path: path.open("rb"),
    "gzip": gzip.open,
    "zstd": ZstdFile,
}


def is_archive(path: Path) -> bool:
    """Whether the file is an archive, or something packed."""
    return archive_kind(path) is not None


def open_archive(path: Path, limits: Limits) -> Source:
    """The archive at `path`.

    Raises:
        SourceEnded: `unsupported_source`: it is none that is read.
    """
    kind = archive_kind(path)
    if kind is None:
        raise SourceEnded(
            "unsupported_source", "This is no archive that is read: zip, tar, tar.gz or tar.zst."
        )
    if kind == "zip":
        return ZipArchive(path, limits)
    return TarArchive(path, _OPEN[kind], limits)

"""Files and folders as one tar, made while it is sent: nothing is copied, nothing held."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from worker.sources.names import is_junk

_PIECE_BYTES = 2**20


def packed(paths: Sequence[Path]) -> Iterator[bytes]:
    """A tar of these files, and of what is in these folders, in the order of their names."""
    for name, path in found(paths):
        try:
            with path.open("rb") as file:
                info = tarfile.TarInfo(name)
                info.size = os.fstat(file.fileno()).st_size
                yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
                left = info.size
                while left:
                    piece = file.read(min(left, _PIECE_BYTES))
                    # One that shrinks while it is read keeps its promised size.
                    piece = piece or bytes(min(left, _PIECE_BYTES))
                    left -= len(piece)
                    yield piece
                yield bytes(-info.size % tarfile.BLOCKSIZE)
        except FileNotFoundError:
            continue  # it is gone: nobody can send it
    yield bytes(2 * tarfile.BLOCKSIZE)


def found(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The files, with the names they get; links are not followed, and systems' junk is left."""
    for path in paths:
        if path.is_dir():
            yield from _below(path, "")
        else:
            yield path.name, path


def _below(directory: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    with os.scandir(directory) as listed:
        entries = sorted(listed, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if is_junk(name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), f"{name}/")
        elif entry.is_file(follow_symlinks=False):
            yield name, Path(entry.path)

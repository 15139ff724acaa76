"""Files and folders as one tar, made while it is sent: nothing is copied, nothing held."""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from shared.errors import ServiceError
from worker.sources.names import is_junk

_PIECE_BYTES = 2**20


class Found(NamedTuple):
    """A file, and how it is called: relative to the folder that holds all that was named."""

    name: str
    path: str
    stat: os.stat_result


def _refuse(error: OSError) -> NoReturn:
    raise ServiceError(f"{error.filename} cannot be read: {error.strerror}")


def packed(paths: Sequence[Path]) -> Iterator[bytes]:
    """A tar of these files, and of what is in these folders; the same files give the same bytes.

    Raises:
        ServiceError: One cannot be read. One that is gone meanwhile is left out.
    """
    for name, path, _ in found(paths):
        try:
            with open(path, "rb") as file:
                info = tarfile.TarInfo(name)
                info.size = os.fstat(file.fileno()).st_size
                yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
                left = info.size
                while left:
                    # One that shrinks while it is read keeps its promised size.
                    piece = file.read(min(left, _PIECE_BYTES)) or bytes(min(left, _PIECE_BYTES))
                    left -= len(piece)
                    yield piece
                yield bytes(-info.size % tarfile.BLOCKSIZE)
        except FileNotFoundError:
            continue
        except OSError as error:
            _refuse(error)
    yield bytes(2 * tarfile.BLOCKSIZE)


def found(
    paths: Sequence[Path], unreadable: Callable[[OSError], object] = _refuse
) -> Iterator[Found]:
    """The files, folder by folder in the order of their names.

    Links below a folder are not followed, and what systems leave behind is passed over. Memory
    holds the names of one folder a level.

    Args:
        paths: Files and folders.
        unreadable: What is done about a folder that cannot be read.
    """
    if len(paths) == 1 and paths[0].is_dir():
        yield from _below(str(paths[0]), "", unreadable)
        return
    whole = [os.path.abspath(path) for path in paths]
    base = os.path.commonpath([os.path.dirname(path) for path in whole])
    for path in whole:
        name = os.path.relpath(path, base)
        if os.path.isdir(path):
            yield from _below(path, f"{name}/", unreadable)
        else:
            try:
                yield Found(name, path, os.stat(path))
            except OSError as error:
                unreadable(error)


def _below(directory: str, prefix: str, unreadable: Callable[[OSError], object]) -> Iterator[Found]:
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        unreadable(error)
        return
    for each in names:
        name, path = f"{prefix}{each}", os.path.join(directory, each)
        if is_junk(name):
            continue
        try:
            about = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(about.st_mode):
            yield from _below(path, f"{name}/", unreadable)
        elif stat.S_ISREG(about.st_mode):
            yield Found(name, path, about)

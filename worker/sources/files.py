"""Opening files below a directory that the operator allows, and never one that is elsewhere.

Each directory on the way is opened from its parent, and no link is followed: a path that was
looked at and then exchanged for a link leads nowhere.
"""

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from shared.errors import Unavailable
from worker.sources.limits import TooLarge
from worker.sources.protocol import EntryError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK the opening of a pipe that took a file's place would wait for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = {errno.ENOENT, errno.ENOTDIR}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_LINK = ("entry_refused", "The entry is a link; it is not followed.")
_SPECIAL = ("entry_refused", "The entry is no ordinary file.")


def open_directory(name: str, parent: int) -> int:
    """The descriptor of a directory in another one.

    Raises:
        EntryError, Unavailable: It cannot be had.
    """
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        raise failure(error) from error


def open_below(roots: Iterable[Path], path: Path) -> tuple[int, str]:
    """Descriptor of the directory in which `path` lies, and its name in there.

    Args:
        roots: of the settings; they may be links themselves, the operator's.
        path: without links, below one of them; of a root itself the name is `.`.

    Raises:
        EntryError, Unavailable: It cannot be had.
    """
    for root in roots:
        real = Path(os.path.realpath(root))
        if path.is_relative_to(real):
            return _descend(real, path.relative_to(real).parts)
    raise EntryError("source_refused", "This path is not allowed any more.")


def _descend(root: Path, parts: Sequence[str]) -> tuple[int, str]:
    try:
        descriptor = os.open(root, _DIRECTORY)
    except OSError as error:
        raise failure(error) from error
    for part in parts[:-1]:
        try:
            inner = open_directory(part, descriptor)
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor, parts[-1] if parts else "."


def look(name: str, parent: int) -> os.stat_result:
    """What is there, without opening it: that of a device may have effects.

    Raises:
        EntryError, Unavailable: It cannot be asked; or it is neither a file nor a directory.
    """
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        raise failure(error) from error
    if stat.S_ISLNK(found.st_mode):
        raise EntryError(*_LINK)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise EntryError(*_SPECIAL)
    return found


def open_file(name: str, parent: int) -> int:
    """The descriptor of an ordinary file in a directory.

    Raises:
        EntryError, Unavailable: It cannot be had, or is no ordinary file.
    """
    look(name, parent)
    try:
        descriptor = os.open(name, _FILE, dir_fd=parent)
    except OSError as error:
        raise failure(error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise EntryError(*_SPECIAL)
    return descriptor


def read_file(name: str, parent: int, most: int) -> bytes:
    """The bytes of an ordinary file in a directory; too large a one is not read.

    Raises:
        EntryError, Unavailable: They cannot be had.
    """
    descriptor = open_file(name, parent)
    try:
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_size > most:
                raise TooLarge(most)
            data = file.read(most + 1)
    except OSError as error:
        raise failure(error) from error
    if len(data) > most:
        raise TooLarge(most)
    return data


def failure(error: OSError) -> EntryError | Unavailable:
    """What it means that a system call failed: the entry's own fault, or a disk that is away."""
    if error.errno in _GONE:
        return EntryError("source_missing", "There is no such file.")
    if error.errno in _FORBIDDEN:
        return EntryError("source_missing", "The service is not permitted to read this file.")
    if error.errno == errno.ELOOP:
        return EntryError(*_LINK)
    if error.errno == errno.ENAMETOOLONG:
        return EntryError("source_missing", "There is no file with so long a name.")
    return Unavailable(f"the disk cannot be read: {error.strerror}")

"""Objects as files of a local directory."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from shared.errors import ObjectMissing, Unavailable
from shared.storage.protocol import StoredObject

_UNFINISHED = ".unfinished-"
_MARK = ".storage"


class LocalStorage:
    """A directory. A write goes to a file beside its place, is synced, then renamed.

    Args:
        marked: Whether `begin` has marked the directory, so that one without the mark is another
            one: the place where a disk is not mounted. An object is not missing because it isn't
            there, and nothing is written there, where it would be hidden as soon as the disk is
            back.
    """

    def __init__(self, root: Path, *, marked: bool = False) -> None:
        self._root = root.absolute()
        self._marked = marked

    def begin(self, *, is_new: bool) -> None:
        """See `Storage.begin`."""
        if not self._marked or (self._root / _MARK).is_file():
            return
        if not is_new and not (self._root / "models").is_dir():
            raise Unavailable(
                f"the storage directory {self._root} is empty, though the database tells of images "
                "in it. Is its disk mounted?"
            )
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            (self._root / _MARK).write_text("The images and models of an image classifier.\n")
            _sync_directory(self._root)
        except OSError as error:
            raise _unwritable(error) from error

    def write(self, name: str, data: bytes) -> None:
        """See `Storage.write`."""
        with self._replacing(name) as file:
            file.write(data)

    def write_file(self, name: str, path: Path) -> None:
        """See `Storage.write_file`."""
        with self._replacing(name) as file, path.open("rb") as source:
            shutil.copyfileobj(source, file, 2**20)

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError as error:
            self._check_root()
            raise ObjectMissing(name) from error
        except OSError as error:
            raise Unavailable(f"the storage cannot be read: {error.strerror}") from error

    def fetch_directory(self, prefix: str, cache: Path) -> Path:
        """See `Storage.fetch_directory`; the files are where they are."""
        directory = self._path(prefix)
        if not directory.is_dir():
            self._check_root()
            raise ObjectMissing(prefix)
        return directory

    def delete(self, *names: str) -> None:
        """See `Storage.delete`; a directory goes too when it is empty."""
        failure: OSError | None = None
        for path in map(self._path, names):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                failure = error  # the others go all the same
                continue
            with suppress(OSError):  # not empty, or gone already: both are as they should be
                path.parent.rmdir()
        if failure is not None:
            raise Unavailable(f"the storage cannot delete: {failure.strerror}") from failure

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See `Storage.list`; unfinished writes are listed too, so that a sweep removes them."""
        for directory, _, files in os.walk(self._path(prefix)):
            for file in files:
                path = Path(directory) / file
                try:
                    modified = path.stat().st_mtime
                except FileNotFoundError:
                    continue  # deleted meanwhile
                yield StoredObject(
                    str(path.relative_to(self._root)), datetime.fromtimestamp(modified, UTC)
                )

    def check(self) -> None:
        """See `Storage.check`."""
        self.write("check", b"written by a readiness check")

    def _check_root(self) -> None:
        """A root that vanished (an unmounted disk) must not pass for an empty one."""
        if not self._root.is_dir():
            raise Unavailable(f"the storage directory {self._root} is gone")
        if self._marked and not (self._root / _MARK).is_file():
            raise Unavailable(
                f"the storage directory {self._root} is another one, without the file {_MARK}. Is "
                "its disk mounted?"
            )

    def _path(self, name: str) -> Path:
        return self._root / name

    @contextmanager
    def _replacing(self, name: str) -> Iterator[BinaryIO]:
        if self._marked:
            self._check_root()
        path = self._path(name)
        unfinished = path.with_name(f"{_UNFINISHED}{uuid4().hex}")
        try:
            file = self._create(unfinished)
            try:
                with file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            # The directory may be new too: its own name is in the one above it.
            _sync_directory(path.parent)
            _sync_directory(path.parent.parent)
        except OSError as error:
            raise _unwritable(error) from error
        if self._marked:
            self._check_root()  # it may have gone while its directories were made

    @staticmethod
    def _create(path: Path) -> BinaryIO:
        """Open a new file; a `delete` may take the empty directory away in between."""
        for _ in range(10):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                return path.open("xb")
            except (FileNotFoundError, FileExistsError) as error:
                last = error
        raise last


def _unwritable(error: OSError) -> Unavailable:
    return Unavailable(f"the storage cannot be written: {error.strerror}")


def _sync_directory(directory: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A directory of this machine, below one that the operator allows, with all that is in it."""

import os
import stat
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from shared.errors import ProblemError
from shared.ingestions.addresses import check_address
from shared.settings import Settings
from worker.sources import files
from worker.sources.names import is_junk, shown_name
from worker.sources.protocol import Entry, EntryError, SourceEnded

_MAX_DEPTH = 100  # one descriptor is open a level


class DirectorySource:
    """Its files in the order of their relative paths, directory by directory.

    Memory holds the names of one directory a level. Links are told and not followed; what systems
    leave behind is passed over; a file that came after the walk went by is not seen.

    Args:
        settings: for `source_roots` and `max_image_bytes`.
        url: `file://` of the directory.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._roots = settings.source_roots
        self._most = settings.max_image_bytes
        self._settings = settings
        self._url = url

    def entries(self, checkpoint: Any) -> Iterator[Entry]:
        """See `Source.entries`; a checkpoint is a relative path, percent-encoded."""
        behind = os.fsdecode(unquote_to_bytes(checkpoint)).split("/") if checkpoint else []
        try:
            directory, name = files.open_below(self._roots, self._path())
            try:
                root = files.open_directory(name, directory)
            finally:
                os.close(directory)
        except EntryError as error:
            raise SourceEnded(
                error.code, f"{self._url} is no directory that can be read. {error.detail}"
            ) from error
        yield from self._walk(root, (), behind)

    def fetch(self, name: str) -> bytes:
        """See `Refetching.fetch`; a name that could not be shown as it is leads to no file."""
        parts = name.split("/")
        if any(part in {"", ".", ".."} or "\x00" in part for part in parts):
            raise EntryError("source_missing", "There is no such file.")
        try:
            path = self._path().joinpath(*parts)
        except SourceEnded as error:
            raise EntryError(error.code, error.detail) from error
        directory, last = files.open_below(self._roots, path)
        try:
            return files.read_file(last, directory, self._most)
        finally:
            os.close(directory)

    def _path(self) -> Path:
        try:
            path = check_address(self._settings, self._url).path
        except ProblemError as error:
            raise SourceEnded(error.code, error.detail) from error
        if path is None:
            raise SourceEnded("unsupported_source", f"{self._url} is no directory.")
        return path

    def _walk(self, directory: int, above: tuple[str, ...], behind: list[str]) -> Iterator[Entry]:
        """All behind the path `behind` (its parts) in a directory, which is closed at the end."""
        try:
            names = _names(directory)
            first, rest = (behind[0], behind[1:]) if behind else ("", [])
            for number in range(bisect_left(names, first), len(names)):
                name = names[number]
                if name != first:
                    yield from self._below(directory, (*above, name), [])
                elif rest:
                    yield from self._below(directory, (*above, name), rest)
        finally:
            os.close(directory)

    def _below(self, directory: int, path: tuple[str, ...], behind: list[str]) -> Iterator[Entry]:
        name = path[-1]
        try:
            if not stat.S_ISDIR(files.look(name, directory).st_mode):
                if not behind:  # else the directory of the checkpoint is a file by now: taken
                    yield _entry(path, files.read_file(name, directory, self._most))
                return
            if is_junk(f"{name}/"):
                return
            if len(path) > _MAX_DEPTH:
                raise EntryError("entry_refused", f"It is more than {_MAX_DEPTH} levels deep.")
            inner = files.open_directory(name, directory)
        except EntryError as error:
            yield _entry(path, None, (error.code, error.detail))
        else:
            yield from self._walk(inner, path, behind)


def _names(directory: int) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if not is_junk(name))
    except OSError as error:
        raise files.failure(error) from error


def _entry(
    path: tuple[str, ...], data: bytes | None, error: tuple[str, str] | None = None
) -> Entry:
    whole = "/".join(path)
    # Not every name on a disk is Unicode, and a checkpoint is JSON.
    return Entry(shown_name(whole), data, quote_from_bytes(os.fsencode(whole)), error=error)

"""What every storage can do. Names are relative paths with `/`, made by us, never by a client."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredObject:
    """One object, as a listing tells it."""

    name: str
    modified_at: datetime


class Storage(Protocol):
    """An object store. Each method may raise `Unavailable` when the store cannot be asked."""

    def begin(self, *, is_new: bool) -> None:
        """Make an empty store ready; for whoever sets the service up, not for its parts.

        Args:
            is_new: Whether nothing was ever kept in it.

        Raises:
            Unavailable: It cannot be written, or is empty though it should not be.
        """

    def write(self, name: str, data: bytes) -> None:
        """Store `data`; afterwards it is there completely, or, on any failure, not at all."""

    def write_file(self, name: str, path: Path) -> None:
        """Store a copy of the file at `path`, completely or not at all."""

    def read(self, name: str) -> bytes:
        """The object's bytes.

        Raises:
            ObjectMissing: There is, definitely, no such object.
        """

    def fetch_directory(self, prefix: str, cache: Path) -> Path:
        """A local directory that holds every object below `prefix`; `cache` may be used for it.

        Raises:
            ObjectMissing: There is nothing below `prefix`.
        """

    def delete(self, *names: str) -> None:
        """Remove these objects; one that is not there is no error."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Every object below `prefix`."""

    def check(self) -> None:
        """Prove that the store takes writes.

        Raises:
            Unavailable: It does not.
        """

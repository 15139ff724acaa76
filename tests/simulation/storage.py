"""A storage in memory, each call of which is a point of the stage."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from shared.errors import ObjectMissing, Unavailable
from shared.storage.protocol import StoredObject
from tests.simulation.stage import Stage


class StagedStorage:
    """Objects by name; some are lost on purpose, and at times nothing can be asked."""

    def __init__(self, stage: Stage) -> None:
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.lost: set[str] = set()
        self.away = False
        self._stage = stage

    def _ask(self, what: str) -> None:
        self._stage.point(what)
        if self.away:
            raise Unavailable("the storage is away")

    def write(self, name: str, data: bytes) -> None:
        """Store it; others go on before and after."""
        self._ask("storage write")
        self.objects[name] = data, self._stage.clock.now()
        self._stage.changed = True
        self._stage.point("stored")

    def write_file(self, name: str, path: Path) -> None:
        """Nothing here has files."""
        self.write(name, path.read_bytes())

    def read(self, name: str) -> bytes:
        """The bytes."""
        self._ask("storage read")
        if name not in self.objects:
            raise ObjectMissing(name)
        return self.objects[name][0]

    def fetch_directory(self, prefix: str, cache: Path) -> Path:
        """Nobody asks here."""
        raise NotImplementedError

    def delete(self, *names: str) -> None:
        """Remove them, one after the other."""
        for name in names:
            self._ask("storage delete")
            self.objects.pop(name, None)
            self._stage.changed = True
            self._stage.point("removed")

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Those below the prefix."""
        self._ask("storage list")
        listed = [
            StoredObject(name, modified_at)
            for name, (_, modified_at) in sorted(self.objects.items())
            if name.startswith(f"{prefix}/")
        ]
        yield from listed

    def check(self) -> None:
        """Nobody asks here."""

    def lose(self, name: str) -> None:
        """As a disk does."""
        del self.objects[name]
        self.lost.add(name)
        self._stage.changed = True

"""Taking images in: entries of a source become stored images, in chunks of bounded size."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sqlalchemy import select

from shared.database import Database
from shared.errors import ProblemError
from shared.ingestions.birth import StoredImage
from shared.ingestions.expansion import NewItem
from shared.jobs.intake import object_name
from shared.settings import Settings
from shared.storage.protocol import Storage
from shared.tables import images
from shared.uploads import read_image
from worker.sources.names import shown_name
from worker.sources.protocol import Entry

_CHUNK_ENTRIES = 64
_CHUNK_BYTES = 16 * 2**20
_WRITES = 8  # at a time: each waits for a disk or a network


class TakingIn:
    """One expansion's: what was read is stored a chunk at a time, so that memory stays flat."""

    def __init__(self, database: Database, storage: Storage, settings: Settings) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._chunk: list[tuple[NewItem, bytes]] = []
        self._bytes = 0
        self._of_step: dict[str, StoredImage] = {}
        self._pool = ThreadPoolExecutor(_WRITES, thread_name_prefix="taking-in")

    def begin(self) -> None:
        """A new step: what the last one has stored is in the database, or was given up."""
        self._chunk, self._bytes = [], 0
        self._of_step = {}

    @property
    def waiting(self) -> int:
        """Entries that were taken and have not come out yet."""
        return len(self._chunk)

    def take(self, entry: Entry, *, position: int | None = None) -> list[NewItem]:
        """Take one entry; out come those of a full chunk, stored, in order, or none as yet.

        Raises:
            Unavailable: Database or storage is away.
        """
        item = NewItem(
            shown_name(entry.name), None, entry.error, entry.reference, entry.metadata, position
        )
        data = b""
        if entry.data is not None:
            data = entry.data
            item = self._looked_at(item, data)
        self._chunk.append((item, data))
        self._bytes += len(data)
        full = len(self._chunk) >= _CHUNK_ENTRIES or self._bytes >= _CHUNK_BYTES
        return self.rest() if full else []

    def rest(self) -> list[NewItem]:
        """What has not come out yet.

        Raises:
            Unavailable: Database or storage is away.
        """
        chunk, self._chunk, self._bytes = self._chunk, [], 0
        self._store({item.image.sha256: (item.image, data) for item, data in chunk if item.image})
        return [
            replace(item, image=self._of_step[item.image.sha256]) if item.image else item
            for item, _ in chunk
        ]

    def close(self) -> None:
        """End the threads that write."""
        self._pool.shutdown()

    def _looked_at(self, item: NewItem, data: bytes) -> NewItem:
        """The item with its image's header, or with what is wrong with it."""
        try:
            image = read_image(data, self._settings)
        except ProblemError as error:
            return replace(item, error=(error.code, error.detail))
        stored = StoredImage(
            hashlib.sha256(data).hexdigest(),
            image.media_type,
            image.width,
            image.height,
            len(data),
            image.animated,
            object=None,
        )
        return replace(item, image=stored)

    def _store(self, chunk: dict[str, tuple[StoredImage, bytes]]) -> None:
        """Write an object for each image that has none, unless this step has written it already."""
        fresh = [name for name in chunk if name not in self._of_step]
        if not fresh:
            return
        with self._database.read() as connection:
            known = set(
                connection.scalars(
                    select(images.c.sha256).where(
                        images.c.sha256.in_(fresh), images.c.object.is_not(None)
                    )
                )
            )
        for name in known:
            self._of_step[name] = chunk[name][0]
        missing = [chunk[name] for name in fresh if name not in known]
        for image in self._pool.map(self._write, *zip(*missing, strict=True)) if missing else ():
            self._of_step[image.sha256] = image

    def _write(self, image: StoredImage, data: bytes) -> StoredImage:
        name = object_name(image.sha256)
        self._storage.write(name, data)
        return replace(image, object=name)

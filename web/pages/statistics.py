"""What the service looks like now: read from the tables once for all who look within 2 s."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

import structlog
from flask import current_app
from sqlalchemy import Connection, select

from shared import models
from shared.database import Database, at_most, milliseconds_between, moment, utc_now
from shared.errors import Unavailable
from shared.jobs.depth import Waiting, count_parked, count_running, read_waiting
from shared.jobs.queries import LIVE_SECONDS
from shared.jobs.statistics import LastHour, Minute, total_images
from shared.settings import Settings
from shared.storage.local import LocalStorage
from shared.storage.protocol import Storage
from shared.tables import model_versions, workers
from web.kept import Kept
from web.pages.model_views import ModelView, view_models

_SECONDS = 2.0
_STORAGE_SECONDS = 10.0
_IMAGES_SECONDS = 60.0
_IMAGES_REST = 50.0  # adding up the images reads all their rows: a fiftieth of one's time is enough
_MOST_WORKERS = 100

STATISTICS = "classifier_statistics"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Worker:
    """One worker process, as it told of itself; `versions` are ids."""

    id: UUID
    host: str
    pid: int
    device: str | None
    versions: Sequence[int]
    max_batch_size: int | None
    images_per_second: float | None
    trouble: str | None
    seen_ms: int

    @property
    def live(self) -> bool:
        """Whether it has been seen lately."""
        return self.seen_ms < LIVE_SECONDS * 1000


@dataclass(frozen=True)
class Images:
    """All images together, and when they were added up."""

    count: int
    size_bytes: int
    at: datetime


@dataclass(frozen=True)
class Snapshot:
    """The service at one moment, by the database's clock.

    Attributes:
        minutes: The last hour, oldest first.
        workers: Last seen first.
        names: `model@version` by the version's id.
        models: The models as the form shows them, the default first.
        downloads_failed: Names of the models whose last download failed.
        images: None if they could not be added up.
        free_bytes: Of the disk that images are kept on; None if they are kept elsewhere.
    """

    at: datetime
    minutes: Sequence[Minute]
    waiting: Sequence[Waiting]
    running: int
    parked: int
    workers: Sequence[Worker]
    names: dict[int, str]
    models: Sequence[ModelView]
    downloads_failed: frozenset[str]
    images: Images | None
    free_bytes: int | None


class Statistics:
    """One process's view of the service."""

    def __init__(self, database: Database, storage: Storage, settings: Settings) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._hour = LastHour()
        self._storage_check = Kept(storage.check, seconds=_STORAGE_SECONDS)
        self._images = Kept(self._add_up_images, seconds=_IMAGES_SECONDS, rest=_IMAGES_REST)
        self._snapshot = Kept(self._look, seconds=_SECONDS)

    def snapshot(self) -> Snapshot:
        """The service as it was at most 2 s ago.

        Raises:
            Unavailable: Database or storage is away.
        """
        return self._snapshot.get()

    def _look(self) -> Snapshot:
        self._storage_check.get()
        images = self._images.get()
        with self._database.read() as connection:
            now = connection.execute(select(moment())).scalar_one()
            return Snapshot(
                at=now,
                minutes=self._hour.read(connection, now),
                waiting=read_waiting(connection),
                running=count_running(connection),
                parked=count_parked(connection),
                workers=_read_workers(connection),
                names=_read_names(connection),
                models=view_models(connection, default=self._settings.default_model),
                downloads_failed=frozenset(
                    row.name for row in models.states(connection) if row.download_error
                ),
                images=images,
                free_bytes=self._free_bytes(),
            )

    def _add_up_images(self) -> Images | None:
        try:
            with self._database.read() as connection:
                return Images(*total_images(connection), at=utc_now())
        except Unavailable as error:
            # A statement that took too long; were the database away, the others would say so.
            log.warning("images_not_added_up", error=str(error))
            return None

    def _free_bytes(self) -> int | None:
        if not isinstance(self._storage, LocalStorage):
            return None
        return shutil.disk_usage(self._settings.data_dir).free


def statistics() -> Statistics:
    """Those of the app that handles the current request."""
    found: Statistics = current_app.extensions[STATISTICS]
    return found


def _read_workers(connection: Connection) -> Sequence[Worker]:
    told = (field.name for field in fields(Worker) if field.name in workers.c)
    seen_ms = milliseconds_between(workers.c.last_seen, moment()).label("seen_ms")
    rows = connection.execute(
        select(*(workers.c[name] for name in told), seen_ms)
        .order_by(workers.c.last_seen.desc())
        .limit(at_most(_MOST_WORKERS))
    )
    return [Worker(**row._mapping) for row in rows]


def _read_names(connection: Connection) -> dict[int, str]:
    rows = connection.execute(
        select(model_versions.c.id, model_versions.c.model, model_versions.c.version)
    )
    return {row.id: f"{row.model}@{row.version}" if row.version else row.model for row in rows}

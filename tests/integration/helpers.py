"""A database with a model installed, and what web and workers do to it, in few words."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Row, func, select, update

from shared import models
from shared.database import Database, new_id
from shared.errors import ObjectMissing, Unavailable
from shared.jobs import intake, recording, recovery
from shared.jobs.claiming import Claim, Claimant, LaneCursor, claim_batch, note_trial
from shared.jobs.intake import Accepted, Caller, JobOptions, NewImage
from shared.jobs.recording import Failure, Outcome, Predictions, Unread
from shared.models import ModelSpec, Target
from shared.storage.protocol import Storage, StoredObject
from shared.tables import claims, images, jobs, lanes

MODEL = "digits"
VERSION = "0123456789ab"
LABELS = tuple((str(digit), str(digit)) for digit in range(10))
SPEC = ModelSpec(
    architecture="directory",
    weights="model.keras",
    height=32,
    width=24,
    preprocessing="scale",
    sha256="0" * 64,
    size_bytes=1000,
)
SEVEN: Predictions = [("7", "7", 0.9), ("1", "1", 0.1)]
ONE: Predictions = [("1", "1", 0.8), ("7", "7", 0.2)]

T = TypeVar("T")


class MemoryStorage:
    """A storage that keeps everything in a dictionary; `away` makes it refuse."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.away = False

    def _ask(self) -> None:
        if self.away:
            raise Unavailable("the storage is away")

    def write(self, name: str, data: bytes) -> None:
        self._ask()
        self.objects[name] = data

    def write_file(self, name: str, path: Path) -> None:
        self.write(name, path.read_bytes())

    def read(self, name: str) -> bytes:
        self._ask()
        try:
            return self.objects[name]
        except KeyError as error:
            raise ObjectMissing(name) from error

    def fetch_directory(self, prefix: str, cache: Path) -> Path:
        raise ObjectMissing(prefix)

    def delete(self, *names: str) -> None:
        self._ask()
        for name in names:
            self.objects.pop(name, None)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self._ask()
        for name in list(self.objects):
            if name.startswith(prefix):
                yield StoredObject(name, datetime.now(UTC))

    def check(self) -> None:
        self._ask()


def image(content: str) -> NewImage:
    """An image of its own for each content; what accepts it looks at no pixel."""
    return NewImage(content.encode(), "image/png", 8, 8)


def in_threads(count: int, work: Callable[[int], T]) -> list[T]:
    """Run `work(0)` … `work(count - 1)` at once, and give back what they return."""
    start = threading.Barrier(count)

    def one(number: int) -> T:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@dataclass
class Stage:
    """The database of a service with `digits` installed, and a storage in memory."""

    database: Database
    version_id: int
    storage: MemoryStorage = field(default_factory=MemoryStorage)

    # As web does

    def submit(
        self,
        content: str = "seven",
        *,
        owner: str = "local",
        target: Target | None = None,
        storage: Storage | None = None,
        database: Database | None = None,
        key: str | None = None,
        **options: Any,
    ) -> Accepted:
        """Hand in one image."""
        return intake.submit(
            database or self.database,
            storage or self.storage,
            image(content),
            f"{content}.png",
            JobOptions(model=MODEL, **options),
            target or Target(self.version_id, pinned=False),
            Caller(owner, "request-1", None, key),
        )

    def submit_many(self, count: int, **how: Any) -> list[UUID]:
        """Hand in the same image `count` times; their ids, in order."""
        return [self.submit(**how).job_id for _ in range(count)]

    def submit_each(self, *contents: str, **how: Any) -> list[UUID]:
        """Hand in one image of each content; their ids, in order."""
        return [self.submit(content, **how).job_id for content in contents]

    # As a worker does

    def claim(
        self,
        limit: int = 100,
        *,
        cursor: LaneCursor | None = None,
        version_id: int | None = None,
        lane: str = "interactive",
        worker: UUID | None = None,
        lease_seconds: float = 60,
        most_lapses: int = 2,
    ) -> Claim | None:
        """Take what waits, or None. A lease of less than nothing has lapsed already."""
        return claim_batch(
            self.database,
            cursor or LaneCursor(),
            version_id=version_id or self.version_id,
            lane=lane,
            limit=limit,
            claimant=Claimant(worker or new_id(), lease_seconds, most_lapses),
        )

    def must_claim(self, limit: int = 100, **how: Any) -> Claim:
        """Take what waits; there must be something."""
        claim = self.claim(limit, **how)
        assert claim is not None
        return claim

    def record(
        self,
        claim: Claim,
        result: Predictions | Failure | Unread | None = None,
        *,
        only: Sequence[UUID] | None = None,
        unreachable_hours: float = 24,
    ) -> int:
        """Record the same result for the jobs of a claim."""
        return recording.record(
            self.database,
            claim,
            [
                Outcome(job.id, job.image, SEVEN if result is None else result)
                for job in claim.jobs
                if only is None or job.id in only
            ],
            decode_ms=1.5,
            inference_ms=2.5,
            unreachable_hours=unreachable_hours,
        )

    def lapse(self, *, trial: bool = False, limit: int = 100) -> Claim:
        """A process claims, puts the first job on trial or none, and ends without a word."""
        claim = self.must_claim(limit, lease_seconds=-1)
        if trial:
            assert note_trial(self.database, claim.token, claim.jobs[0].id)
        recovery.requeue_lapsed(self.database)
        return claim

    def pause_over(self) -> None:
        """Let the pause of every parked job be over, and have recovery notice."""
        self.change(jobs, not_before=datetime(2020, 1, 1, tzinfo=UTC), where=jobs.c.parks > 0)
        recovery.unpark(self.database)

    # To look and to arrange

    def change(self, table: Any, *, where: Any, **values: Any) -> None:
        """Arrange rows that only time, or another release, would bring about."""
        self.database.transact(lambda c: c.execute(update(table).where(where).values(**values)))

    def install(self, version: str = "ffffffffffff", name: str = MODEL) -> int:
        """Install another version, which becomes the current one."""
        return self.database.transact(lambda c: models.install(c, name, version, SPEC, LABELS))

    def job(self, job_id: UUID) -> Row[Any]:
        """The job's row."""
        with self.database.read() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()

    def jobs(self) -> dict[UUID, Row[Any]]:
        """All rows of jobs, by id."""
        with self.database.read() as connection:
            return {row.id: row for row in connection.execute(select(jobs).order_by(jobs.c.id))}

    def statuses(self, ids: Sequence[UUID]) -> list[str]:
        """The states of these jobs."""
        rows = self.jobs()
        return [rows[job_id].status for job_id in ids]

    def tokens(self) -> set[UUID]:
        """Tokens of the claims there are."""
        with self.database.read() as connection:
            return set(connection.scalars(select(claims.c.token)))

    def result(self, content: str, version_id: int | None = None) -> Predictions | None:
        """What is recorded for an image."""
        name = image(content).sha256
        return recording.known_results(self.database, version_id or self.version_id, [name]).get(
            name
        )

    def image_object(self, content: str) -> str | None:
        """The live object of an image that has a row."""
        with self.database.read() as connection:
            return connection.execute(
                select(images.c.object).where(images.c.sha256 == image(content).sha256)
            ).scalar_one()

    def count(self, table: Any) -> int:
        """How many rows a table has."""
        with self.database.read() as connection:
            return connection.scalar(select(func.count()).select_from(table)) or 0

    def clock(self, lane: str = "interactive", version_id: int | None = None) -> int:
        """The lane's clock."""
        with self.database.read() as connection:
            return connection.execute(
                select(lanes.c.clock).where(
                    lanes.c.model_version == (version_id or self.version_id), lanes.c.lane == lane
                )
            ).scalar_one()

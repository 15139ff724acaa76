"""The timed steps, in the background worker, that delete what nothing needs any more.

The rows decide, never the files: a row goes first, its transaction commits, then its object.
What an interruption leaves in between is an object without a row, which a later sweep removes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, Connection, Row, Table, delete, func, select
from sqlalchemy.exc import IntegrityError

from shared.database import Database, at_most, moment, utc_now
from shared.retention import Retention
from shared.settings import Settings
from shared.storage.protocol import Storage
from shared.tables import (
    idempotency_keys,
    images,
    ingestion_counts,
    ingestions,
    items,
    jobs,
    result_files,
    workers,
)

_YOUNG_SECONDS = 60  # an image's first minute: the next submit may well be of the same image
_WORKER_SECONDS = 24 * 3600
_ROWS = 100
_KEYS = 1000
_PAGE = 5000
_STEP_SECONDS = 10.0  # of one sweep for a long step; where it stopped, the next one goes on
_LISTINGS_PER_AGE = 24  # listing a storage is dear: objects are looked at so often before they go

log = structlog.get_logger(__name__)

# The next image that a job cites is another one. So asked, it is one look into the index for each
# image, whatever the planner thinks of scanning the jobs instead.
_UNUSED = (
    select(jobs.c.image)
    .where(jobs.c.image >= images.c.sha256)
    .order_by(jobs.c.image)
    .limit(at_most(1))
    .scalar_subquery()
    .is_distinct_from(images.c.sha256)
)


@dataclass
class Sweep:
    """The sweep of one process: `step` is called every `sweep_seconds`."""

    database: Database
    storage: Storage
    settings: Settings
    _retention: Retention = field(init=False)
    _after: str = field(default="", init=False)
    _next_listing: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """The retention has a place of its own in the tables."""
        self._retention = Retention(self.database, self.settings.retention_days)

    def step(self) -> None:
        """Run each step once.

        Raises:
            Unavailable: Database or storage is away; call again later.
        """
        steps: tuple[Callable[[], int], ...] = (
            # Rows alone first: what cannot be deleted in the storage ends a round.
            self.forget_idempotency_keys,
            self.forget_workers,
            self._retention.remove_jobs,
            self._retention.hide_ingestions,
            self.remove_deleted_ingestions,
            self.remove_unused_images,
            self.remove_orphans,
        )
        for step in steps:
            removed = step()
            if removed:
                log.info("sweep", step=step.__name__, removed=removed)

    def remove_deleted_ingestions(self) -> int:
        """Remove what clients have deleted, once its last job has ended: jobs, items, then it."""
        with self.database.read() as connection:
            gone = connection.execute(
                select(ingestions.c.id, ingestions.c.object)
                .where(ingestions.c.deleted_at.is_not(None), ingestions.c.settled_at.is_not(None))
                .order_by(ingestions.c.id)
                .limit(at_most(_ROWS))
            ).all()
        removed, give_up = 0, time.monotonic() + _STEP_SECONDS
        for row in gone:
            emptied = all(
                self._remove_rows(table, column == row.id, key, give_up)
                for table, column, key in (
                    (items, items.c.ingestion, items.c.position),
                    (jobs, jobs.c.ingestion, jobs.c.id),
                )
            )
            if not emptied:
                break
            self.database.transact(partial(_delete_ingestion, ingestion=row.id))
            if row.object is not None:
                self.storage.delete(row.object)
            removed += 1
        return removed

    def _remove_rows(
        self, table: Table, chosen: ColumnElement[bool], key: ColumnElement[Any], give_up: float
    ) -> bool:
        """Delete these rows, 1,000 a transaction; False where that would have taken too long."""
        some = select(key).where(chosen).order_by(key).limit(at_most(_KEYS))
        statement = delete(table).where(chosen, key.in_(some))
        while self.database.transact(lambda connection: connection.execute(statement).rowcount):
            if time.monotonic() > give_up:
                return False
        return True

    def remove_unused_images(self) -> int:
        """Delete images that no job cites, with their results, then their objects."""
        give_up = time.monotonic() + _STEP_SECONDS
        removed = 0
        while time.monotonic() < give_up:
            with self.database.read() as connection:
                page = connection.execute(
                    select(
                        images.c.sha256,
                        (_UNUSED & (images.c.created_at < moment(-_YOUNG_SECONDS))).label("go"),
                    )
                    .where(images.c.sha256 > self._after)
                    .order_by(images.c.sha256)
                    .limit(at_most(_PAGE))
                ).all()
            for names in _in_parts([row.sha256 for row in page if row.go], _ROWS):
                removed += self._remove_images(names)
            self._after = page[-1].sha256 if len(page) == _PAGE else ""
            if not self._after:
                break
        return removed

    def _remove_images(self, names: Sequence[str]) -> int:
        try:
            rows = self.database.transact(lambda connection: _delete_images(connection, names))
        except IntegrityError:
            return 0  # the foreign key has the last word: a job came in between
        self.storage.delete(*(row.object for row in rows if row.object is not None))
        return len(rows)

    def remove_orphans(self) -> int:
        """Remove objects that no row names and that are too old to be about to get one."""
        if time.monotonic() < self._next_listing:
            return 0
        age = timedelta(hours=self.settings.orphan_hours)
        cutoff = utc_now() - age
        removed = 0
        for prefix, named in (("images", _named_by_images), ("sources", _named_by_ingestions)):
            listed = self.storage.list(prefix)
            old = (found.name for found in listed if found.modified_at < cutoff)
            for names in _in_parts(old, _KEYS):
                removed += self._remove_unnamed(names, named)
        self._next_listing = time.monotonic() + age.total_seconds() / _LISTINGS_PER_AGE
        return removed

    def _remove_unnamed(
        self, names: Sequence[str], named: Callable[[Connection, Sequence[str]], set[str]]
    ) -> int:
        with self.database.read() as connection:
            known = named(connection, names)
        unnamed = [name for name in names if name not in known]
        self.storage.delete(*unnamed)
        return len(unnamed)

    def forget_idempotency_keys(self) -> int:
        """Delete keys that are older than they are promised to be kept."""
        created_at = idempotency_keys.c.created_at
        old = created_at < moment(-self.settings.idempotency_hours * 3600)
        last_of_step = (
            select(created_at)
            .where(old)
            .order_by(created_at)
            .limit(at_most(1))
            .offset(at_most(_KEYS - 1))
            .scalar_subquery()
        )
        statement = delete(idempotency_keys).where(
            old, created_at <= func.coalesce(last_of_step, moment())
        )
        removed = 0
        while True:
            step = self.database.transact(lambda connection: connection.execute(statement).rowcount)
            removed += step
            if step < _KEYS:
                return removed

    def forget_workers(self) -> int:
        """Delete the rows of worker processes that were not seen for a day."""
        statement = delete(workers).where(workers.c.last_seen < moment(-_WORKER_SECONDS))
        return self.database.transact(lambda connection: connection.execute(statement).rowcount)


def _named_by_images(connection: Connection, names: Sequence[str]) -> set[str]:
    """Those of the names `images/<sha256>/<uuid>` that rows have."""
    hashes = {name.split("/")[1] for name in names}
    return set(
        filter(
            None,
            connection.scalars(select(images.c.object).where(images.c.sha256.in_(hashes))),
        )
    )


def _named_by_ingestions(connection: Connection, names: Sequence[str]) -> set[str]:
    """Those of the names `sources/<ingestion>/<uuid>` that rows have."""
    ids = {UUID(name.split("/")[1]) for name in names}
    return set(
        filter(
            None,
            connection.scalars(select(ingestions.c.object).where(ingestions.c.id.in_(ids))),
        )
    )


def _delete_ingestion(connection: Connection, ingestion: UUID) -> None:
    for table in (ingestion_counts, result_files):
        connection.execute(delete(table).where(table.c.ingestion == ingestion))
    connection.execute(delete(ingestions).where(ingestions.c.id == ingestion))


def _delete_images(connection: Connection, names: Sequence[str]) -> Sequence[Row[tuple[str]]]:
    """Delete those of these images that are still unused; rows with their objects' names.

    Two statements: the second one sees the jobs that were committed before the first had its
    locks, and while we hold them no job can take hold of the image.
    """
    held = connection.scalars(
        select(images.c.sha256)
        .where(images.c.sha256.in_(names))
        .order_by(images.c.sha256)
        .with_for_update(skip_locked=True)
    ).all()
    return connection.execute(
        delete(images).where(images.c.sha256.in_(held), _UNUSED).returning(images.c.object)
    ).all()


def _in_parts(names: Iterable[str], size: int) -> Iterator[Sequence[str]]:
    rest = iter(names)
    while part := list(islice(rest, size)):
        yield part

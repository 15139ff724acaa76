"""Looking at ingestions: what a client may see, how far each is, and how fast it goes."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select, text

from shared.database import at_most, milliseconds_between, moment
from shared.ingestions import counts
from shared.ingestions.transitions import LIVE
from shared.tables import ingestions, jobs, model_versions

_SPEED_JOBS = 200  # the speed is that of the last so many


@dataclass(frozen=True)
class Seen:
    """An ingestion as it was found.

    Attributes:
        row: Of `ingestions`, with its `model` and `version`.
        ended: How many of its jobs have ended, by status.
        images_per_second: The speed now, or of all of it once it has ended; None: not known.
    """

    row: Row[Any]
    ended: dict[str, int]
    images_per_second: float | None

    @property
    def pending(self) -> int:
        """How many of the items so far have not ended."""
        return int(self.row.expanded) - int(self.row.refused) - sum(self.ended.values())


def owned(owner: str) -> ColumnElement[bool]:
    """What an owner may see; what is deleted is hidden from then on."""
    return (ingestions.c.owner == owner) & ingestions.c.deleted_at.is_(None)


def find(connection: Connection, owner: str, ingestion: UUID) -> Seen | None:
    """One ingestion, or None, for another owner's and a deleted one too."""
    row = connection.execute(_rows(owner).where(ingestions.c.id == ingestion)).first()
    return None if row is None else _seen(connection, row)


def count_unfinished(connection: Connection, owner: str, *, most: int) -> int:
    """How many ingestions of an owner have not ended; counted as far as `most`."""
    unfinished = (
        select(ingestions.c.id)
        .where(
            ingestions.c.settled_at.is_(None),  # few are: by the index of those
            ingestions.c.status.in_(LIVE),
            owned(owner),
        )
        .limit(at_most(most))
        .subquery()
    )
    return connection.scalar(select(func.count()).select_from(unfinished)) or 0


def page(
    connection: Connection,
    owner: str,
    *,
    before: UUID | None,
    limit: int,
    statuses: Collection[str] = (),
) -> tuple[list[Seen], UUID | None]:
    """The newest ingestions, of those born before `before`; and where the list goes on, if so.

    Args:
        connection: Any.
        owner: Whose they are.
        before: Of the last one on the page before.
        limit: How many at most.
        statuses: Only these; without any, all.
    """
    wanted = _rows(owner).order_by(ingestions.c.id.desc()).limit(at_most(limit + 1))
    if statuses:
        wanted = wanted.where(ingestions.c.status.in_(sorted(statuses)))
    if before is not None:
        wanted = wanted.where(ingestions.c.id < before)
    rows = connection.execute(wanted).all()
    after = rows[limit - 1].id if len(rows) > limit else None
    return [_seen(connection, row) for row in rows[:limit]], after


def finished(connection: Connection, ids: Collection[UUID]) -> set[UUID]:
    """Those among `ids` that wait no longer: in a final state for now, or gone."""
    live = connection.scalars(
        select(ingestions.c.id).where(
            ingestions.c.id.in_(ids),
            ingestions.c.status.in_(LIVE),
            ingestions.c.deleted_at.is_(None),
        )
    )
    return set(ids) - set(live)


def _rows(owner: str) -> Select[Any]:
    return (
        select(
            ingestions,
            model_versions.c.model,
            model_versions.c.version,
            *(counts.total(status).label(status) for status in counts.ENDINGS),
        )
        .join(model_versions, model_versions.c.id == ingestions.c.model_version)
        .where(owned(owner))
    )


def _seen(connection: Connection, row: Row[Any]) -> Seen:
    ended = {status: int(getattr(row, status)) for status in counts.ENDINGS}
    return Seen(row, ended, _speed(connection, row, ended))


def _speed(connection: Connection, row: Row[Any], ended: dict[str, int]) -> float | None:
    """Of an average since its start, a pause or a retry would make something else."""
    worked = ended["succeeded"] + ended["failed"]
    if row.started_at is None or not worked:
        return None
    if row.finished_at is not None:
        seconds = (row.finished_at - row.started_at).total_seconds()
        return worked / seconds if seconds > 0 else None
    last = (
        select(jobs.c.finished_at)
        .where(jobs.c.ingestion == row.id, text("jobs.finished_at IS NOT NULL"))
        .order_by(jobs.c.finished_at.desc(), jobs.c.position.desc())
        .limit(at_most(_SPEED_JOBS))
        .subquery()
    )
    begin = func.min(last.c.finished_at)
    found = connection.execute(
        select(func.count().label("jobs"), milliseconds_between(begin, moment()).label("ms"))
    ).one()
    return 1000 * found.jobs / found.ms if found.ms else None

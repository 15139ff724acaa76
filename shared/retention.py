"""Which jobs and ingestions have been kept long enough, and that they go.

A job goes at once; its image and its result by what the sweep does anyway. An ingestion is hidden,
as its DELETE hides it, and the sweep removes it; the jobs of an ingestion go only with it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import Connection, Row, and_, delete, select

from shared.database import Database, at_most, moment
from shared.ingestions import transitions
from shared.jobs.transitions import STEP_ROWS
from shared.tables import ingestions, jobs

_SECONDS = 10.0  # of one sweep for each of the two; where it stopped, the next one goes on
# A transaction stamps the end of its jobs, and commits some time later: 60 s at most.
_SETTLING = timedelta(seconds=60)
_INSTANT = timedelta(microseconds=1)
_FIRST = UUID(int=0)


@dataclass
class Retention:
    """The part of one process's sweep that ends what was promised until `delete_at`.

    Attributes:
        days: How long after its end a job is kept; 0: for ever.
    """

    database: Database
    days: float
    # What ended before it was looked at. Jobs of ingestions stay behind it, and there may be
    # millions: they are not met at every sweep.
    _looked_until: datetime | None = field(default=None, init=False)
    _ingestions_after: UUID = field(default=_FIRST, init=False)

    def remove_jobs(self) -> int:
        """Delete jobs that ended long enough ago, 1,000 a transaction; their number comes back."""
        if not self.days:
            return 0
        cutoff, removed, give_up = self._cutoff(), 0, time.monotonic() + _SECONDS
        if self._looked_until is not None and self._looked_until > cutoff:
            self._looked_until = None  # the clock was set back: jobs have ended before it since
        while time.monotonic() < give_up:
            with self.database.read() as connection:
                page = _ended(connection, self._looked_until, cutoff)
            some_go = any(row.ingestion is None for row in page)
            if some_go:
                first, last = page[0].finished_at, page[-1].finished_at
                removed += self.database.transact(partial(_delete_jobs, first=first, last=last))
            if len(page) < STEP_ROWS:
                self._looked_until = cutoff - _SETTLING
                break
            at = page[-1].finished_at
            # A page of one instant of which none went would be read again.
            stays = not some_go and page[0].finished_at == at
            self._looked_until = at + _INSTANT if stays else at
        return removed

    def hide_ingestions(self) -> int:
        """Delete ingestions, as a client does, that settled long enough ago."""
        if not self.days:
            return 0
        cutoff, hidden, give_up = self._cutoff(), 0, time.monotonic() + _SECONDS
        while time.monotonic() < give_up:
            with self.database.read() as connection:
                page = _oldest(connection, self._ingestions_after, cutoff)
            for row in page:
                if row.is_due:
                    hide = partial(transitions.delete_settled, ingestion=row.id, before=cutoff)
                    hidden += self.database.transact(hide)
            # They are in the order of their birth, and none settles before that.
            if len(page) < STEP_ROWS or page[-1].created_at > cutoff:
                self._ingestions_after = _FIRST
                break
            self._ingestions_after = page[-1].id
        return hidden

    def _cutoff(self) -> datetime:
        """What ended before it goes, by the clock that stamped the end."""
        with self.database.read() as connection:
            cutoff: datetime = connection.execute(
                select(moment(-self.days * 24 * 3600))
            ).scalar_one()
        return cutoff


def _ended(
    connection: Connection, since: datetime | None, before: datetime
) -> Sequence[Row[UUID | None, datetime]]:
    """Up to 1,000 jobs, those that ended first.

    By the one column alone: asked for more (an id beside it, `IS NOT NULL`), PostgreSQL expects few
    rows, and reads all there are.
    """
    wanted = (
        select(jobs.c.ingestion, jobs.c.finished_at)
        .where(jobs.c.finished_at < before)
        .order_by(jobs.c.finished_at)
        .limit(at_most(STEP_ROWS))
    )
    if since is not None:
        wanted = wanted.where(jobs.c.finished_at >= since)
    return connection.execute(wanted).all()


def _delete_jobs(connection: Connection, first: datetime, last: datetime) -> int:
    """Delete the jobs that ended within this time, unless they are of an ingestion.

    Not by a list of ids: of each length of one SQLite's driver keeps another statement in memory.
    """
    held = (
        select(jobs.c.id)
        .where(jobs.c.finished_at.between(first, last), jobs.c.ingestion.is_(None))
        .order_by(jobs.c.id)
        .with_for_update()
    )
    return connection.execute(delete(jobs).where(jobs.c.id.in_(held))).rowcount


def _oldest(
    connection: Connection, after: UUID, before: datetime
) -> Sequence[Row[UUID, datetime, bool]]:
    """The next 1,000 ingestions, and whether each is due."""
    is_due = and_(ingestions.c.settled_at < before, ingestions.c.deleted_at.is_(None))
    return connection.execute(
        select(ingestions.c.id, ingestions.c.created_at, is_due.label("is_due"))
        .where(ingestions.c.id > after)
        .order_by(ingestions.c.id)
        .limit(at_most(STEP_ROWS))
    ).all()

"""The queued jobs of a version and of a flow, in the order of the index `jobs_flow`.

The index begins with version and `pinned`, so that recovery finds the jobs it may move without
reading those it may not; the end of a flow takes two looks for it.
"""

from typing import Any

from sqlalchemy import ColumnElement, FromClause, and_, case, false, func, select, text, true

from shared.database import at_most
from shared.tables import jobs

# A literal, no bound value: with a bound status PostgreSQL's generic plan scans the table.
QUEUED = text("jobs.status = 'queued'")
FLOW_ORDER = (jobs.c.lane, jobs.c.flow, jobs.c.sequence, jobs.c.id)


def queued_of(version_id: Any, *, pinned: bool) -> ColumnElement[bool]:
    """Queued jobs of a version; to be taken in `FLOW_ORDER`, or PostgreSQL may scan the table."""
    return and_(
        QUEUED,
        jobs.c.model_version == version_id,
        jobs.c.pinned == (true() if pinned else false()),
    )


def has_queued(version_id: ColumnElement[int], *, pinned: bool) -> ColumnElement[bool]:
    """Ask the index for one row: of an `EXISTS` PostgreSQL makes a join that scans the table."""
    return (
        select(jobs.c.id)
        .where(queued_of(version_id, pinned=pinned))
        .order_by(*FLOW_ORDER)  # without it a scan looks cheap for one row
        .limit(at_most(1))
        .scalar_subquery()
        .is_not(None)
    )


def flow_tail(table: FromClause, *one_flow: Any) -> ColumnElement[int]:
    """The sequence behind the last queued job of a flow, or null."""
    movable, pinned = (
        select(func.max(table.c.sequence) + 1)
        .where(*one_flow, table.c.pinned == value)
        .scalar_subquery()
        for value in (false(), true())
    )
    return case((movable >= pinned, movable), else_=func.coalesce(pinned, movable))

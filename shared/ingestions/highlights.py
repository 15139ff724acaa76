"""A few of an ingestion's items, for a page that is looked at while a million are worked off.

Jobs that a retry has left behind are no item's any more: they are passed over, and so many of them
at most that a page is never long in coming.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, TextClause, select, text

from shared.database import at_most
from shared.tables import items, jobs

_STRETCHES = (50, 2_000)  # the second only where the first holds too few


@dataclass(frozen=True)
class FailedItem:
    """An item that failed or expired, and why; `job` is None where there was no image."""

    position: int
    name: str
    job: UUID | None
    error_code: str | None
    error_detail: str | None


def first_failures(connection: Connection, ingestion: UUID, limit: int) -> list[FailedItem]:
    """The first items that failed, by their place in the source."""
    failed = text("jobs.status IN ('failed', 'expired')")
    refused = connection.execute(
        select(items)
        .where(
            items.c.ingestion == ingestion,
            text("items.job IS NULL AND items.error_code IS NOT NULL"),
        )
        # The order of an index, and nearly that of the source.
        .order_by(items.c.finished_at, items.c.position)
        .limit(at_most(limit))
    )
    found = [
        FailedItem(row.position, row.filename or "", row.id, row.error_code, row.error_detail)
        for row in _current(connection, ingestion, failed, [jobs.c.position], limit)
    ]
    found += [
        FailedItem(row.position, row.name, None, row.error_code, row.error_detail)
        for row in refused
    ]
    return sorted(found, key=lambda item: item.position)[:limit]


def latest_finished(connection: Connection, ingestion: UUID, limit: int) -> list[UUID]:
    """The ids of the jobs that ended last, the last one first."""
    finished = text("jobs.finished_at IS NOT NULL")
    order = [jobs.c.finished_at.desc(), jobs.c.position.desc()]
    return [row.id for row in _current(connection, ingestion, finished, order, limit)]


def _current(
    connection: Connection,
    ingestion: UUID,
    condition: TextClause,
    order: Sequence[ColumnElement[Any]],
    limit: int,
) -> list[Row[Any]]:
    """The first of these jobs that are still their item's; the order is an index's."""
    ordered: Select[Any] = (
        select(jobs).where(jobs.c.ingestion == ingestion, condition).order_by(*order)
    )
    kept: list[Row[Any]] = []
    for stretch in _STRETCHES:
        rows = connection.execute(ordered.limit(at_most(stretch))).all()
        known = items.c.ingestion == ingestion, items.c.position.in_([row.position for row in rows])
        current = set(connection.scalars(select(items.c.job).where(*known)))
        kept = [row for row in rows if row.id in current][:limit]
        if len(kept) == limit or len(rows) < stretch:
            break
    return kept

"""Trying failed items of an ingestion again: a new job for each, beside the old one.

The old outcome is taken out of the counts, which count items. What could not be had from the
source is fetched again by the expander.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select, text, update

from shared.database import Database, at_most, stamp
from shared.errors import ProblemError
from shared.ingestions import counts, transitions
from shared.ingestions.birth import Birth, insert_jobs
from shared.jobs.transitions import STEP_ROWS
from shared.tables import ingestions, items, jobs, model_versions

# Kinds of sources whose entries can be had again one by one, by their names.
REFETCHED_KINDS = ("directory", "bucket", "list")
# Of these the source was not read to its end, and may be now.
GOES_ON = ("source_unreachable", "expander_lost", "too_many_failures")


def retry(database: Database, ingestion: UUID) -> int:
    """Begin the failed and expired items again; the number of them comes back.

    An expansion that was cut short, though its source may be read on, goes on where it was.
    Each step is a transaction of its own. Should they be cut off, the rest stays failed, and is
    begun by the next retry.

    Raises:
        ProblemError: `not_found`; `not_finished` while it runs, or its jobs are still being
            cancelled; `already_finished` when it was cancelled; `model_unavailable` when its model
            version was removed.
    """
    total, last = database.transact(lambda connection: _step(connection, ingestion, None))
    while last is not None:
        more, last = database.transact(
            lambda connection, last=last: _step(connection, ingestion, last)  # type: ignore[misc]
        )
        total += more
    return total + _refetch(database, ingestion)


def _step(connection: Connection, ingestion: UUID, after: int | None) -> tuple[int, int | None]:
    """Up to 1,000 items; how many, and the last one's position, or None where there are no more."""
    row = transitions.locked(connection, ingestion)
    if after is None:
        row = _checked(connection, row)
    elif row is None or _was_let_go(row):
        return 0, None
    failed = _failed_jobs(connection, ingestion, -1 if after is None else after)
    if not failed:
        if row.error_code in GOES_ON:
            transitions.reopen(connection, row, expanded_at=None, lapses=0)
        return 0, None
    births = [
        Birth(old.position, old.image, old.filename, old.reference, old.metadata) for old in failed
    ]
    made = insert_jobs(connection, row, births, deadline_at=_new_deadline(connection, row))
    connection.execute(
        update(items)
        .where(items.c.ingestion == ingestion, items.c.position == bindparam("at"))
        .values(job=bindparam("made")),
        [{"at": position, "made": made[position]} for position in sorted(made)],
    )
    counts.add(connection, [(ingestion, old.status) for old in failed], sign=-1)
    goes_on = {"expanded_at": None, "lapses": 0} if row.error_code in GOES_ON else {}
    transitions.reopen(connection, row, first=failed[0].position, **goes_on)
    return len(failed), failed[-1].position if len(failed) == STEP_ROWS else None


def _checked(connection: Connection, row: Row[Any] | None) -> Row[Any]:
    if row is None or row.deleted_at is not None:
        raise ProblemError("not_found", "There is no such ingestion.")
    if row.status == "canceled":
        raise ProblemError("already_finished", "The ingestion was cancelled.")
    if row.status in transitions.LIVE or row.settled_at is None:
        raise ProblemError("not_finished", "The ingestion can be retried once it has ended.")
    removed = connection.scalar(
        select(model_versions.c.removed_at).where(model_versions.c.id == row.model_version)
    )
    if removed is not None:
        raise ProblemError("model_unavailable", "The ingestion's model version was removed.")
    return row


def _was_let_go(row: Row[Any]) -> bool:
    """Whether it was cancelled or deleted between two steps of a retry."""
    return row.status == "canceled" or row.deleted_at is not None


def _failed_jobs(connection: Connection, ingestion: UUID, after: int) -> list[Any]:
    """The items' own jobs: those that an earlier retry has left behind are not."""
    found = connection.execute(
        select(
            jobs.c.position,
            jobs.c.image,
            jobs.c.filename,
            jobs.c.reference,
            jobs.c.metadata,
            jobs.c.status,
        )
        .join_from(
            jobs,
            items,
            (items.c.ingestion == jobs.c.ingestion)
            & (items.c.position == jobs.c.position)
            & (items.c.job == jobs.c.id),
        )
        .where(
            jobs.c.ingestion == ingestion,
            text("jobs.status IN ('failed', 'expired')"),
            jobs.c.position > after,
        )
        .order_by(jobs.c.position)
        .limit(at_most(STEP_ROWS))
    )
    return list(found)


def _new_deadline(connection: Connection, row: Row[Any]) -> Any:
    """As long from now as it was at first."""
    if row.deadline_at is None:
        return None
    allowed: timedelta = row.deadline_at - row.created_at
    return connection.scalar(select(stamp(allowed.total_seconds())))


def _refetch(database: Database, ingestion: UUID) -> int:
    """Hand the items that could not be fetched, for reasons that pass, to the expander again."""

    def step(connection: Connection) -> int:
        row = transitions.locked(connection, ingestion)
        if row is None or _was_let_go(row) or row.source_kind not in REFETCHED_KINDS:
            return 0
        chosen = connection.scalars(
            select(items.c.position)
            .where(
                items.c.ingestion == ingestion,
                text("items.job IS NULL AND items.error_code = 'source_unreachable'"),
            )
            .order_by(items.c.position)
            .limit(at_most(STEP_ROWS))
        ).all()
        if not chosen:
            return 0
        connection.execute(
            update(items)
            .where(items.c.ingestion == ingestion, items.c.position.in_(chosen))
            .values(error_code=None, error_detail=None, finished_at=None)
        )
        transitions.reopen(
            connection,
            row,
            first=chosen[0],
            refused=ingestions.c.refused - len(chosen),
            expanded_at=None,
        )
        return len(chosen)

    total = 0
    while changed := database.transact(step):
        total += changed
    return total

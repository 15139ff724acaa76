"""Every statement that sets `ingestions.status` is in this module.

Each function runs inside a transaction, and first locks the ingestion's row and looks at its
state: expander, recovery and clients meet there.

                        → queued               accept
    queued              → running              start
    queued, running     → canceled             cancel, delete
    queued, running     → failed               stop_if_hopeless
    running             → succeeded | partially_succeeded | failed    close
    partially_succeeded, failed → running      reopen (a retry)

An ingestion that was stopped still has jobs: recovery cancels them, and then it is settled.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, insert, select, update

from shared.database import stamp
from shared.ingestions import counts
from shared.tables import ingestions

LIVE = ("queued", "running")
RETRYABLE = ("partially_succeeded", "failed")
# Of an ingestion that no expander holds.
NOBODYS: dict[str, Any] = {"expander_token": None, "expander_lease_until": None}


def locked(connection: Connection, ingestion: UUID) -> Row[Any] | None:
    """The ingestion, locked; None if it is gone."""
    return connection.execute(
        select(ingestions).where(ingestions.c.id == ingestion).with_for_update()
    ).first()


def change(connection: Connection, ingestion: UUID, **values: Any) -> None:
    """Set columns of an ingestion that this transaction has locked."""
    connection.execute(update(ingestions).where(ingestions.c.id == ingestion).values(**values))


def accept(connection: Connection, values: dict[str, Any]) -> None:
    """Insert an ingestion that nobody has begun to expand.

    Args:
        connection: The transaction.
        values: Every other column that is to be set.
    """
    connection.execute(
        insert(ingestions).values(**values, status="queued", created_at=stamp(), turn_at=stamp())
    )


def start(connection: Connection, row: Row[Any], **values: Any) -> None:
    """An expander has taken it."""
    started = stamp() if row.started_at is None else row.started_at
    change(connection, row.id, status="running", started_at=started, **values)


def cancel(connection: Connection, ingestion: UUID) -> bool:
    """End it at once; False when it had ended already, or is gone."""
    row = locked(connection, ingestion)
    if row is None or row.status not in LIVE:
        return False
    change(connection, ingestion, status="canceled", finished_at=stamp(), **NOBODYS)
    return True


def stop_if_hopeless(connection: Connection, row: Row[Any]) -> bool:
    """End one of which more failed than its `max_failures` allows.

    Args:
        connection: The transaction.
        row: The ingestion, locked, as it is now.
    """
    if row.max_failures is None or row.status not in LIVE:
        return False
    ended = counts.of(connection, row.id)
    failures = row.refused + ended["failed"] + ended["expired"]
    if failures <= row.max_failures:
        return False
    change(
        connection,
        row.id,
        status="failed",
        finished_at=stamp(),
        error_code="too_many_failures",
        error_detail=f"{failures} of {row.expanded} images failed; at most {row.max_failures} may."
        " What was not begun was cancelled.",
        **NOBODYS,
    )
    return True


def close(connection: Connection, ingestion: UUID) -> bool:
    """End one that is expanded and of which every job has ended, or settle one that was stopped."""
    row = locked(connection, ingestion)
    if row is None or row.settled_at is not None:
        return False
    ended = counts.of(connection, ingestion)
    if row.refused + sum(ended.values()) < row.expanded:
        return False
    if row.status not in LIVE:
        change(connection, ingestion, settled_at=stamp())
        return True
    if row.expanded_at is None:
        return False
    change(
        connection,
        ingestion,
        status=_final_status(row, ended),
        finished_at=stamp(),
        settled_at=stamp(),
    )
    return True


def reopen(
    connection: Connection, row: Row[Any], *, first: int | None = None, **values: Any
) -> None:
    """Some of its items are tried again, or its source is read on.

    Result files are written again from the part with the first of these items on; a last one that
    is shorter may grow. Whoever writes them now is told by the loss of its token.

    Args:
        connection: The transaction.
        row: The ingestion, locked.
        first: Position of the first of the items.
        values: Every other column that is to be set.
    """
    begin = row.expanded if first is None else first
    cleared = {"error_code": None, "error_detail": None}
    about_it_all = row.error_code in ("too_many_failures", "expander_lost", "source_unreachable")
    change(
        connection,
        row.id,
        status="running",
        finished_at=None,
        settled_at=None,
        written_at=None,
        output_parts=min(row.output_parts, begin // row.output_part_rows),
        output_token=None,
        **(cleared if about_it_all else {}),
        **values,
    )


def delete(connection: Connection, owner: str, ingestion: UUID) -> bool:
    """Hide it at once, and end it; the sweep removes it. False if this owner has none such."""
    row = locked(connection, ingestion)
    if row is None or row.owner != owner or row.deleted_at is not None:
        return False
    cancel(connection, ingestion)
    change(connection, ingestion, deleted_at=stamp())
    return True


def delete_settled(connection: Connection, ingestion: UUID, before: datetime) -> bool:
    """Hide it, unless it settled later: a retry may have come in between. False if it stays."""
    row = locked(connection, ingestion)
    if row is None or row.deleted_at is not None or row.settled_at is None:
        return False
    if row.settled_at >= before:
        return False
    change(connection, ingestion, deleted_at=stamp())
    return True


def _final_status(row: Row[Any], ended: dict[str, int]) -> str:
    """Succeeded if all did (or nothing was there), failed if none did, else partially."""
    if row.error_code == "expander_lost":
        return "failed"
    if row.error_code is None and ended["succeeded"] == row.expanded:
        return "succeeded"
    return "partially_succeeded" if ended["succeeded"] else "failed"

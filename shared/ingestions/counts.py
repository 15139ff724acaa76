"""How many jobs of an ingestion have ended, and how: counted by whoever ends them.

Nobody counts rows to know it, and no single row is wanted by all who write.
"""

import random
import threading
from collections import Counter
from collections.abc import Iterable
from functools import reduce
from operator import add as add_
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, select
from sqlalchemy.dialects import postgresql, sqlite

from shared.tables import TERMINAL, ingestion_counts, ingestions

SLOTS = 16  # rows of one ingestion: more threads than this seldom write at a time
ENDINGS = tuple(sorted(TERMINAL))

_of_thread = threading.local()


def add(connection: Connection, outcomes: Iterable[tuple[UUID | None, str]], sign: int = 1) -> None:
    """Count jobs that this transaction has ended, or, with -1, takes out again.

    Args:
        connection: The transaction.
        outcomes: Of each job its ingestion and its status; jobs of no ingestion, and those that
            have not ended, are not counted.
        sign: 1 or -1.
    """
    ended = Counter(
        (ingestion, status)
        for ingestion, status in outcomes
        if ingestion is not None and status in TERMINAL
    )
    if not ended:
        return
    # In the order of their ids, so that two transactions cannot wait for each other.
    rows = [
        {
            "ingestion": ingestion,
            "slot": _slot(),
            **{status: sign * ended[ingestion, status] for status in ENDINGS},
        }
        for ingestion in sorted({ingestion for ingestion, _ in ended})
    ]
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(ingestion_counts).values(rows)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["ingestion", "slot"],
            set_={
                status: ingestion_counts.c[status] + statement.excluded[status]
                for status in ENDINGS
            },
        )
    )


def total(*statuses: str) -> ColumnElement[int]:
    """In a select of ingestions: how many of its jobs have ended so; in any way without names."""
    columns = [ingestion_counts.c[status] for status in statuses or ENDINGS]
    return (
        select(func.coalesce(func.sum(reduce(add_, columns)), 0))
        .where(ingestion_counts.c.ingestion == ingestions.c.id)
        .correlate(ingestions)
        .scalar_subquery()
    )


def of(connection: Connection, ingestion: UUID) -> dict[str, int]:
    """How many jobs of one ingestion have ended, by status."""
    row = connection.execute(
        select(*(func.sum(ingestion_counts.c[status]).label(status) for status in ENDINGS)).where(
            ingestion_counts.c.ingestion == ingestion
        )
    ).one()
    return {status: int(getattr(row, status) or 0) for status in ENDINGS}


def _slot() -> int:
    """The same for all that a thread writes: what it adds to twice is one row, not two."""
    if not hasattr(_of_thread, "slot"):
        _of_thread.slot = random.randrange(SLOTS)
    return int(_of_thread.slot)

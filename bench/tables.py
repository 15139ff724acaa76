"""How large the tables of a running service are: rows, bytes, and what of them is dead."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from shared.database import Database
from shared.tables import idempotency_keys, images, ingestions, items, jobs, results

_COUNTED = (jobs, images, results, items, ingestions, idempotency_keys)
_BYTES = text("SELECT pg_total_relation_size(CAST(:name AS regclass))")
_DEAD = text("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = :name")
_ALL = text("SELECT pg_database_size(current_database())")


@dataclass(frozen=True)
class Tables:
    """The tables at one moment.

    Attributes:
        rows: By table.
        unfinished: Jobs that have not ended.
        wrong: Jobs that ended otherwise than they should.
        size_bytes: Of the whole database.
        parts: More of it: `free` bytes of SQLite's file; on PostgreSQL the bytes of each table with
            its indexes, and how many of its rows are dead.
    """

    rows: dict[str, int]
    unfinished: int
    wrong: int
    size_bytes: int
    parts: dict[str, int]


def look(database: Database) -> Tables:
    """Count; this reads all of the tables."""
    with database.read() as connection:
        rows = {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in _COUNTED
        }
        found: dict[str, int] = dict(
            connection.execute(select(jobs.c.status, func.count()).group_by(jobs.c.status))
            .tuples()
            .all()
        )
        unfinished = found.pop("queued", 0) + found.pop("running", 0)
        found.pop("succeeded", 0)
        sizes = _sqlite(connection) if database.is_sqlite else _postgresql(connection)
        return Tables(rows, unfinished, sum(found.values()), *sizes)


def _sqlite(connection: Connection) -> tuple[int, dict[str, int]]:
    pages, free, size = (
        int(connection.scalar(text(f"PRAGMA {name}")) or 0)
        for name in ("page_count", "freelist_count", "page_size")
    )
    return pages * size, {"free": free * size}


def _postgresql(connection: Connection) -> tuple[int, dict[str, int]]:
    parts: dict[str, int] = {}
    for table in _COUNTED:
        name = {"name": table.name}
        parts[table.name] = int(connection.scalar(_BYTES, name) or 0)
        parts[f"{table.name}, dead"] = int(connection.scalar(_DEAD, name) or 0)
    return int(connection.scalar(_ALL) or 0), parts

"""Steps of migrations that a running service does not notice, for large tables on PostgreSQL.

Each commits by itself, so it has to come before all others of its revision, and to be able to run
twice: what was interrupted runs again from its start. On SQLite, where nobody else can write
meanwhile, they are steps like all others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op

# Whoever waits for a table's lock holds up all that come behind, so it is asked for briefly and
# often: LOCK_SECONDS is how long a service may stand still for it.
LOCK_SECONDS = 1

_INVALID = sa.text(
    "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"
)


def _is_postgresql() -> bool:
    return bool(op.get_bind().dialect.name == "postgresql")


@contextmanager
def _own_commit() -> Iterator[None]:
    if not _is_postgresql():
        yield
        return
    with op.get_context().autocommit_block():
        yield


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column, which must be nullable or have a server's default: old code leaves it out."""
    with _own_commit():
        op.add_column(table, column, if_not_exists=_is_postgresql() or None)


def create_index(name: str, table: str, columns: Sequence[str], where: str | None = None) -> None:
    """Make an index while the table is written to; what an interruption left of it goes first."""
    condition = None if where is None else sa.text(where)
    if not _is_postgresql():
        op.create_index(name, table, columns, sqlite_where=condition)
        return
    with _own_commit():
        # It waits for transactions to end, and nobody waits for it.
        op.execute("SET lock_timeout = 0")
        if op.get_bind().scalar(_INVALID, {"name": name}):
            op.drop_index(name, table, postgresql_concurrently=True)
        op.create_index(
            name,
            table,
            columns,
            if_not_exists=True,
            postgresql_concurrently=True,
            postgresql_where=condition,
        )
        op.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")


def fill(table: str, column: str, value: str, key: str, rows: int = 5_000) -> None:
    """Give a new column its value in the rows that have none, some thousands at a time.

    Args:
        table: Its name.
        column: The new column.
        value: An expression.
        key: The first column of the table's primary key; a text.
        rows: About how many are changed in one transaction.
    """
    upto = sa.text(
        f"SELECT max(part.key) FROM (SELECT {key} AS key FROM {table} WHERE {key} > :after"
        f" ORDER BY {key} LIMIT {rows}) AS part"
    )
    statement = sa.text(
        f"UPDATE {table} SET {column} = {value}"
        f" WHERE {column} IS NULL AND {key} > :after AND {key} <= :upto"
    )
    with _own_commit():
        after = ""
        while (last := op.get_bind().scalar(upto, {"after": after})) is not None:
            op.get_bind().execute(statement, {"after": after, "upto": last})
            after = last

"""`INSERT … ON CONFLICT DO NOTHING`, which SQLAlchemy spells differently for each database."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_many_if_absent(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]], **same: Any
) -> None:
    """Insert those of the rows whose keys are not there, in this order.

    One small statement run for each row: as one statement of a thousand rows it would be compiled
    anew, and kept, for each number of rows.

    Args:
        connection: The transaction.
        table: The table.
        rows: Plain values.
        same: Values, also expressions, that all rows have.
    """
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(make(table).values(**same).on_conflict_do_nothing(), list(rows))


def insert_if_absent(connection: Connection, table: Table, *rows: dict[str, Any]) -> int:
    """Insert the rows whose keys are not there, in this order; the number of them comes back."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(table).values(list(rows)).on_conflict_do_nothing()
    return len(connection.execute(statement.returning(*table.primary_key)).all())

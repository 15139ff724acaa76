"""`INSERT … ON CONFLICT DO NOTHING`, which SQLAlchemy spells differently for each database."""

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_if_absent(connection: Connection, table: Table, *rows: dict[str, Any]) -> int:
    """Insert the rows whose keys are not there, in this order; the number of them comes back."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(table).values(list(rows)).on_conflict_do_nothing()
    return len(connection.execute(statement.returning(*table.primary_key)).all())

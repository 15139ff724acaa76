"""The schema as the database itself tells it, steps from one revision to another, and rows."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, MetaData, Table, text, types

from shared.database import Database, new_id
from tests.services import ROOT

_COLUMNS = """
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
  AND NOT a.attisdropped
"""
_OPTIONS = """
SELECT 'options', relname, reloptions FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""
_CONSTRAINTS = """
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""
_INDEXES = """
SELECT 'index', tablename, indexname, indexdef, indisvalid
FROM pg_indexes JOIN pg_index ON indexrelid = indexname::regclass WHERE schemaname = 'public'
"""
_SQLITE = "SELECT type, tbl_name, name, sql FROM sqlite_master WHERE sql IS NOT NULL"


def schema_of(database: Database) -> set[tuple[Any, ...]]:
    """All that the database itself knows of its schema, Alembic's own table left out."""
    queries = [_SQLITE] if database.is_sqlite else [_COLUMNS, _OPTIONS, _CONSTRAINTS, _INDEXES]
    found = set()
    with database.read() as connection:
        for query in queries:
            for row in connection.execute(text(query)):
                if row[1] != "alembic_version":
                    found.add(tuple(_plain(value) for value in row))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(sorted(value))
    if isinstance(value, str) and value.startswith("CREATE TABLE"):
        # The table's columns and constraints may stand in any order.
        return tuple(sorted(re.sub(r"[\s()]+", " ", part).strip() for part in value.split(",")))
    return value


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    return config


def revisions() -> list[str]:
    """All of them, oldest first."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return [script.revision for script in scripts][::-1]


def upgrade_to(database: Database, revision: str) -> None:
    _move(database, revision, command.upgrade)


def downgrade_to(database: Database, revision: str) -> None:
    _move(database, revision, command.downgrade)


def _move(database: Database, revision: str, move: Callable[[Config, str], None]) -> None:
    config = _config()

    def run(connection: Connection) -> None:
        config.attributes["connection"] = connection
        move(config, revision)

    if database.is_sqlite:
        database.transact(run)
        return
    with database.engine.connect() as connection:
        run(connection)
        connection.commit()


# Rows, made for whatever tables and columns the schema has

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
SEVEN = [["n7", "seven", 0.75], ["n1", "one", 0.25]]
# What cannot be just anything, in a row where every column is filled, and in one with only the
# necessary ones.
_FULL = {
    ("jobs", "status"): "running",
    ("jobs", "lane"): "interactive",
    ("lanes", "lane"): "interactive",
    ("results", "predictions"): SEVEN,
    ("ingestions", "status"): "running",
    ("ingestions", "source_kind"): "list",
}
_SPARSE = {
    ("jobs", "status"): "queued",
    ("jobs", "lane"): "bulk",
    ("lanes", "lane"): "bulk",
    ("results", "predictions"): SEVEN,
    ("ingestions", "status"): "queued",
    ("ingestions", "source_kind"): "archive",
}
# By no foreign key
_NAMED = {("jobs", "ingestion"): "ingestions", ("models", "current_version"): "model_versions"}

Rows = dict[str, list[dict[str, Any]]]


def tables_of(connection: Connection) -> list[Table]:
    """As the database has them, those that others refer to first."""
    reflected = MetaData()
    reflected.reflect(connection)
    return [table for table in reflected.sorted_tables if table.name != "alembic_version"]


def rows_of(database: Database) -> Rows:
    """All rows of all tables, in the order of their keys."""
    with database.read() as connection:
        return {
            table.name: [
                dict(row._mapping)
                for row in connection.execute(table.select().order_by(*table.primary_key))
            ]
            for table in tables_of(connection)
        }


def add_rows(database: Database, number: int) -> None:
    """Add two rows to every table: one that is full, one with what is necessary alone."""

    def insert(connection: Connection) -> None:
        tables = tables_of(connection)
        for offset, fixed in enumerate((_FULL, _SPARSE)):
            made: dict[str, dict[str, Any]] = {}
            for table in tables:
                row = dict(_cells(table, 2 * number + offset, fixed, made))
                key = connection.execute(table.insert().values(row)).inserted_primary_key
                names = [column.name for column in table.primary_key]
                made[table.name] = row | dict(zip(names, key, strict=True))

    database.transact(insert)


def _cells(
    table: Table, number: int, fixed: dict[tuple[str, str], Any], made: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, Any]]:
    for column in table.columns:
        place = (table.name, column.name)
        if column is table.autoincrement_column:
            continue
        if place in fixed:
            yield column.name, fixed[place]
        elif column.foreign_keys:
            target = next(iter(column.foreign_keys)).column
            yield column.name, made[target.table.name][target.name]
        elif place in _NAMED:
            if _NAMED[place] in made:
                yield column.name, made[_NAMED[place]]["id"]
        elif fixed is _FULL or not (column.nullable or column.server_default is not None):
            yield column.name, _anything(column, number)


_ANYTHING: list[tuple[type[Any], Callable[[int], Any]]] = [
    (types.Uuid, lambda _: new_id()),
    (types.JSON, lambda number: {"z": [1.50, number], "a": "é"}),
    (types.LargeBinary, lambda number: bytes((0, 255, number))),
    (types.Boolean, lambda _: True),
    (types.BigInteger, lambda number: 2**40 + number),
    (types.Integer, lambda number: number + 1),
    (types.Float, lambda number: number + 0.5),
    (types.CHAR, lambda _: new_id().hex),  # an UUID, in SQLite
]


def _anything(column: Column[Any], number: int) -> Any:
    """A value of the column's type, another one for each number."""
    kind = column.type
    if isinstance(kind, types.DateTime):
        return MOMENT if kind.timezone else MOMENT.replace(tzinfo=None)
    for one, make in _ANYTHING:
        if isinstance(kind, one):
            return make(number)
    assert isinstance(kind, types.String), f"no value for {column.table}.{column.name}: {kind!r}"
    return f"{number} {column.name} é"[: kind.length]


def identity(value: Any) -> UUID:
    """An id, whichever way the database has it."""
    return value if isinstance(value, UUID) else UUID(value)

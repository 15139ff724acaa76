"""Migrations: they make what the tables say, can be undone, and may run twice at once."""

import re
import subprocess
import sys
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from shared import tables
from shared.database import Database
from shared.migrations import is_current, upgrade
from tests.services import ROOT


@pytest.fixture
def empty(database_url: str) -> Any:
    database = Database(database_url)
    yield database
    database.close()


def test_an_empty_database_is_brought_up_to_date(empty: Database) -> None:
    assert not is_current(empty)
    upgrade(empty)
    assert is_current(empty)
    upgrade(empty)  # and once more, which changes nothing
    assert is_current(empty)
    with empty.read() as connection:
        assert set(tables.metadata.tables) <= set(inspect(connection).get_table_names())


def test_migrations_and_tables_are_the_same(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, tables.metadata) == []


_COLUMNS = """
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
"""
_OPTIONS = """
SELECT 'options', relname, reloptions FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""
_CONSTRAINTS = """
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""
_INDEXES = (
    "SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
)
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
        # The table's constraints may stand in any order.
        return tuple(sorted(re.sub(r"[\s()]+", " ", part).strip() for part in value.split(",")))
    return value


def downgrade(database: Database) -> None:
    def run(connection: Any) -> None:
        config = Config()
        config.set_main_option("script_location", str(ROOT / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    database.transact(run)


def test_what_alembic_does_not_compare_is_the_same_too(database: Database) -> None:
    """Conditions of indexes, checks, storage options: what the database itself says of both."""
    migrated = schema_of(database)
    downgrade(database)
    database.transact(tables.metadata.create_all)
    assert schema_of(database) == migrated


def test_migrations_can_be_undone_and_done_again(database: Database) -> None:
    before = schema_of(database)
    downgrade(database)
    assert not is_current(database)
    assert schema_of(database) == set()
    upgrade(database)
    assert is_current(database)
    assert schema_of(database) == before


_UPGRADE = """
import sys
from shared.database import Database
from shared.migrations import upgrade
database = Database(sys.argv[1])
with database.read():
    print("ready", flush=True)
sys.stdin.readline()
upgrade(database)
"""


def test_processes_that_upgrade_at_once_do_it_once(empty: Database, database_url: str) -> None:
    command_line = [sys.executable, "-c", _UPGRADE, database_url]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command_line, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"now\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert is_current(empty)

"""Migrations: they make what the tables say, lose nothing, can be undone, and run twice at once."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from shared import tables
from shared.database import Database
from shared.jobs import recording
from shared.jobs.claiming import Claimant, LaneCursor, claim_batch
from shared.jobs.recording import Outcome
from shared.migrations import is_new_enough, upgrade
from tests.integration.helpers import SEVEN
from tests.integration.schema import (
    Rows,
    add_rows,
    downgrade_to,
    identity,
    revisions,
    rows_of,
    schema_of,
    upgrade_to,
)
from tests.services import ROOT


@pytest.fixture
def empty(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def test_an_empty_database_is_brought_up_to_date(empty: Database) -> None:
    assert not is_new_enough(empty)
    upgrade(empty)
    assert is_new_enough(empty)
    upgrade(empty)  # and once more, which changes nothing
    assert is_new_enough(empty)
    with empty.read() as connection:
        assert set(tables.metadata.tables) <= set(inspect(connection).get_table_names())


def test_migrations_and_tables_are_the_same(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, tables.metadata) == []


def test_what_alembic_does_not_compare_is_the_same_too(database: Database) -> None:
    """Conditions of indexes, checks, storage options: what the database itself says of both."""
    migrated = schema_of(database)
    downgrade_to(database, "base")
    assert not is_new_enough(database)
    assert schema_of(database) == set()
    database.transact(tables.metadata.create_all)
    assert schema_of(database) == migrated


# What an older schema has no place for, by the revision that is undone.
_LOST = {("0004", "jobs", "ingestion"): None}


def _assert_kept(before: Rows, after: Rows, undone: str | None = None) -> None:
    """Every row is still there, with all that both schemas have a place for."""
    for table in before.keys() & after.keys():
        columns = before[table][0].keys() & after[table][0].keys()
        assert [{key: row[key] for key in columns} for row in after[table]] == [
            {key: _LOST.get((undone or "", table, key), row[key]) for key in columns}
            for row in before[table]
        ], table


def test_no_row_is_lost_step_by_step_up_down_and_up_again(empty: Database) -> None:
    steps = revisions()
    rows: Rows = {}
    for number, revision in enumerate(steps):
        upgrade_to(empty, revision)
        if rows:
            _assert_kept(rows, rows_of(empty))
        add_rows(empty, number)
        rows = rows_of(empty)
    newest = schema_of(empty)
    assert set(rows) == set(tables.metadata.tables)
    assert {row["label"] for row in rows["results"]} >= {"seven"}

    for number, revision in reversed(list(enumerate(steps))[1:]):
        downgrade_to(empty, steps[number - 1])
        _assert_kept(rows, rows_of(empty), undone=revision)
        add_rows(empty, len(steps) + number)  # in the older schema's own way
        rows = rows_of(empty)

    for revision in steps[1:]:
        upgrade_to(empty, revision)
        _assert_kept(rows, rows_of(empty))
    assert schema_of(empty) == newest
    assert is_new_enough(empty)
    assert all(row["label"] == "seven" for row in rows_of(empty)["results"])


def test_jobs_of_ingestions_that_a_downgrade_removed_still_end(database: Database) -> None:
    add_rows(database, 0)
    downgrade_to(database, "0003")
    upgrade(database)
    (job,) = [row for row in rows_of(database)["jobs"] if row["status"] == "queued"]
    claim = claim_batch(
        database,
        LaneCursor(),
        version_id=job["model_version"],
        lane=job["lane"],
        limit=10,
        claimant=Claimant(identity(job["id"]), lease_seconds=60),
    )
    assert claim is not None
    outcomes = [Outcome(claimed.id, claimed.image, SEVEN) for claimed in claim.jobs]
    assert (
        recording.record(
            database, claim, outcomes, decode_ms=1, inference_ms=1, unreachable_hours=24
        )
        == 1
    )


def test_code_of_the_release_before_works_on_a_later_schema(database: Database) -> None:
    """While the next release is rolled out, and after it was taken back."""
    later = text("UPDATE alembic_version SET version_num = '9999'")
    database.transact(lambda connection: connection.execute(later))
    assert is_new_enough(database)
    before = schema_of(database)
    upgrade(database)
    assert is_new_enough(database)
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
    assert is_new_enough(empty)

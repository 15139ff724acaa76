"""Finding jobs reads few rows, whatever is asked for and however many jobs there are."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, make_url

from bench.cases import Stopwatch
from bench.filling import FilledQueue
from bench.listing import WANTED, list_page, poll_many
from bench.plans import captured
from shared.database import Database, new_id
from shared.jobs import finding, queries
from shared.jobs.finding import Wanted
from shared.migrations import upgrade
from tests.services import PostgresServer

_TABLES = frozenset({"jobs", "images", "results"})


@pytest.fixture(scope="module")
def filled(_postgres_server: PostgresServer) -> Iterator[FilledQueue]:
    """So many jobs on PostgreSQL that to read them all would show."""
    _postgres_server.start()
    with FilledQueue(make_url(_postgres_server.url()), 10_000) as queue:
        yield queue


@pytest.mark.parametrize("wanted", WANTED.values(), ids=list(WANTED))
def test_postgresql_reads_no_more_than_a_stretch(
    filled: FilledQueue, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.jobs.finding._STRETCH", 500)
    monkeypatch.setattr("bench.plans.MOST_ROWS", 502)
    with captured(filled.database) as capture:
        list_page(filled, wanted, Stopwatch())
        list_page(filled, wanted, Stopwatch(), old=True)
    assert capture.planned
    for planned in capture.planned:
        for plan in (planned.custom, planned.generic):
            assert plan.faults(_TABLES) == [], f"{planned.statement}\n{plan.text}"


def test_postgresql_polls_many_by_their_ids(filled: FilledQueue) -> None:
    with captured(filled.database) as capture:
        poll_many(filled, Stopwatch())
    [planned] = capture.planned
    assert planned.custom.faults(_TABLES) == planned.generic.faults(_TABLES) == []


def test_sqlite_searches_and_never_scans(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(sqlite_url)
    upgrade(database)
    steps: list[str] = []

    def explain(
        connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object
    ) -> None:
        driver: Any = connection.connection.driver_connection
        steps.extend(
            row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        )

    event.listen(database.engine, "before_cursor_execute", explain)
    with database.read() as connection:
        for most in (500, -1):  # each label is rare, then none is
            monkeypatch.setattr("shared.jobs.finding._RARE_RESULTS", most)
            for wanted in WANTED.values():
                finding.find(connection, "local", wanted, before=new_id(), limit=50)
        queries.find_many(connection, "local", [new_id(), new_id()])
    database.close()
    assert any(step.startswith("SEARCH results") for step in steps)
    own = {*_TABLES, "each_job"}
    assert [step for step in steps if step.startswith("SCAN ") and step.split()[1] in own] == []

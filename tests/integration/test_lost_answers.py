"""A commit that was done and whose answer never came: what is said again counts once.

On PostgreSQL: a commit to a file is answered.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, event

from shared.database import new_id
from shared.errors import Unavailable
from shared.ingestions import expansion
from shared.jobs.claiming import LaneCursor
from shared.tables import claims, items, jobs
from tests.integration.bulk import Bulk
from tests.integration.helpers import Stage

pytestmark = pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)


@pytest.fixture
def bulk(stage: Stage) -> Bulk:
    return Bulk(stage)


@contextmanager
def answer_lost(stage: Stage) -> Iterator[None]:
    """The next commit is done, and then the line is cut."""

    def commit_and_cut(connection: Connection) -> None:
        line = connection.connection.driver_connection
        assert line is not None
        line.commit()
        line.close()

    event.listen(stage.database.engine, "commit", commit_and_cut, once=True)
    with pytest.raises(Unavailable):
        yield


def test_what_is_recorded_again_counts_once(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", "b")
    claim = bulk.stage.must_claim(lane="bulk")
    with answer_lost(bulk.stage):
        bulk.stage.record(claim)
    recorded, counted = bulk.stage.jobs(), bulk.counts(ingestion)
    assert counted["succeeded"] == 2
    assert bulk.stage.record(claim) == 0
    assert (bulk.stage.jobs(), bulk.counts(ingestion)) == (recorded, counted)
    assert bulk.stage.count(claims) == 0
    assert {job.attempt for job in recorded.values()} == {1}


def test_a_worker_gives_back_what_it_did_not_know_to_be_its_own(stage: Stage) -> None:
    ids, cursor = stage.submit_each("a", "b"), LaneCursor()
    with answer_lost(stage):
        stage.claim(cursor=cursor)
    assert stage.statuses(ids) == ["running"] * 2
    assert stage.claim() is None
    again = stage.must_claim(cursor=cursor)
    assert [(job.id, job.suspect) for job in again.jobs] == [(job_id, False) for job_id in ids]
    assert [stage.job(job_id).attempt for job_id in ids] == [1, 1]
    assert stage.tokens() == {again.token}
    assert stage.count(claims) == 1


def test_what_is_submitted_again_with_its_key_is_one_job(stage: Stage) -> None:
    with answer_lost(stage):
        stage.submit(key="k")
    again = stage.submit(key="k")
    assert [again.job_id] == list(stage.jobs())


def test_a_step_of_an_expander_is_not_taken_twice(bulk: Bulk) -> None:
    ingestion = bulk.ingest()
    held = bulk.must_claim()
    with answer_lost(bulk.stage):
        bulk.step(held, ["a", "b"])
    expansion.release(bulk.database, held)
    again = bulk.must_claim()
    assert (again.row.expanded, again.row.checkpoint, again.row.lapses) == (2, 2, 0)
    bulk.step(again, ["c"], position=2, ended=True)
    assert bulk.stage.count(items) == bulk.stage.count(jobs) == 3
    assert bulk.row(ingestion).expanded == 3


def test_an_expander_takes_what_it_did_not_know_to_be_its_own(bulk: Bulk) -> None:
    """While it is busy with others its leases are renewed: nobody else could take it."""
    ingestion, token = bulk.ingest(), new_id()
    with answer_lost(bulk.stage):
        bulk.claim(token)
    assert bulk.claim(new_id()) is None
    held = bulk.claim(token, take_lapsed=False)
    assert held is not None
    assert (held.id, held.row.lapses) == (ingestion, 0)

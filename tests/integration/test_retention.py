"""What was kept long enough goes, in small steps, and nothing else, on both databases."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from shared.database import Database, new_id, utc_now
from shared.ingestions import retrying
from shared.jobs.recording import Failure
from shared.retention import Retention
from shared.settings import Settings
from shared.sweep import Sweep
from shared.tables import ingestion_counts, ingestions, items, jobs
from tests.integration.bulk import Bulk
from tests.integration.helpers import SEVEN, Stage, in_threads

LOST = Failure("inference_failed", "The forward pass failed.")


@pytest.fixture
def bulk(stage: Stage) -> Bulk:
    return Bulk(stage)


@pytest.fixture
def sweep(stage: Stage, tmp_path: Path) -> Sweep:
    """Keeps what has ended for a day."""
    settings = Settings(_env_file=None, data_dir=tmp_path, retention_days=1)
    return Sweep(stage.database, stage.storage, settings)


def ended(stage: Stage, ids: Iterable[UUID], *, days: float) -> None:
    """Have these jobs have ended that long ago."""
    then = utc_now() - timedelta(days=days)
    stage.change(jobs, finished_at=then, where=jobs.c.id.in_(list(ids)))


def settled(bulk: Bulk, ingestion: UUID, *, days: float) -> UUID:
    """Have an ingestion have settled that long ago; it began long before, and its jobs ended."""
    bulk.close(ingestion)
    then = utc_now() - timedelta(days=days)
    before = then - timedelta(days=9)
    this = ingestions.c.id == ingestion
    bulk.stage.change(ingestions, created_at=before, settled_at=then, where=this)
    bulk.stage.change(jobs, finished_at=before, where=jobs.c.ingestion == ingestion)
    return ingestion


def test_jobs_go_a_while_after_their_end(
    bulk: Bulk, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five old ones each page of two holds some; those of an ingestion lie in between."""
    monkeypatch.setattr("shared.retention.STEP_ROWS", 2)
    monkeypatch.setattr("shared.sweep._YOUNG_SECONDS", -60)
    stage = bulk.stage
    old = stage.submit_each("a", "b", "c", "d", "kept")
    for _ in old:
        stage.record(stage.must_claim(1), SEVEN)
    ended(stage, old, days=1.001)
    objects = {content: stage.image_object(content) for content in ("a", "kept")}
    young = stage.submit("kept").job_id
    assert stage.job(young).reused
    ended(stage, [young], days=0.999)
    waiting, taken = stage.submit("e").job_id, stage.submit("f").job_id
    stage.change(jobs, created_at=utc_now() - timedelta(days=9), where=jobs.c.id == waiting)
    stage.must_claim(1)
    bulk.expand("one", "two", "three")
    bulk.work(SEVEN, SEVEN)  # and the third one waits
    many = [row.id for row in stage.jobs().values() if row.ingestion is not None]
    ended(stage, many[:2], days=1.0005)

    sweep.step()
    assert set(stage.jobs()) == {young, waiting, taken, *many}
    # What nobody needs went with them; the image and the result of a younger job did not.
    assert (stage.result("a"), stage.result("kept")) == (None, SEVEN)
    assert objects["a"] not in stage.storage.objects
    assert objects["kept"] in stage.storage.objects

    ended(stage, [young], days=1.0001)  # time goes by
    sweep.step()
    assert set(stage.jobs()) == {waiting, taken, *many}


def test_what_was_passed_is_not_read_again_until_the_clock_is_set_back(bulk: Bulk) -> None:
    """A retention of more days looks as a clock does that was set back."""
    stage = bulk.stage
    first, second = stage.submit_many(2)
    stage.record(stage.must_claim(), SEVEN)
    retention = Retention(stage.database, 1)
    ended(stage, [first], days=2)
    assert retention.remove_jobs() == 1
    ended(stage, [second], days=40)
    assert retention.remove_jobs() == 0  # nothing ends so far back: not even looked at
    retention.days = 30
    assert retention.remove_jobs() == 1


def test_without_a_retention_nothing_goes(bulk: Bulk) -> None:
    stage = bulk.stage
    ids = stage.submit_many(1)
    stage.record(stage.must_claim(), SEVEN)
    ended(stage, ids, days=10_000)
    ingestion = bulk.expand("one")
    bulk.work(SEVEN)
    settled(bulk, ingestion, days=10_000)
    retention = Retention(stage.database, Settings(_env_file=None).retention_days)
    assert (retention.remove_jobs(), retention.hide_ingestions()) == (0, 0)


def test_an_ingestion_goes_with_its_jobs(
    bulk: Bulk, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.retention.STEP_ROWS", 2)
    stage = bulk.stage
    kept = bulk.expand("a", "b")
    bulk.work(SEVEN)  # one of two: it is not settled
    long_ago = utc_now() - timedelta(days=9)
    stage.change(ingestions, created_at=long_ago, where=ingestions.c.id == kept)
    source = f"sources/{new_id()}/{new_id()}"
    stage.storage.write(source, b"")
    gone = [bulk.expand("c", "d", None, object=source), bulk.expand("e"), bulk.expand("f")]
    young = bulk.expand("g")
    bulk.work(*[SEVEN] * 6)
    for ingestion in gone:
        settled(bulk, ingestion, days=1.001)
    settled(bulk, young, days=0.999)

    sweep.step()
    assert {bulk.row(id_).deleted_at for id_ in (kept, young)} == {None}
    assert {row.ingestion for row in stage.jobs().values()} == {kept, young}
    assert stage.count(ingestions) == 2
    assert stage.count(items) == 3
    assert stage.count(ingestion_counts) <= 2
    assert source not in stage.storage.objects


def test_a_retry_starts_the_time_anew(bulk: Bulk, sweep: Sweep) -> None:
    ingestion = bulk.expand("a", "b")
    bulk.work(LOST, SEVEN)
    settled(bulk, ingestion, days=2)
    assert retrying.retry(bulk.database, ingestion) == 1
    sweep.step()
    assert bulk.row(ingestion).deleted_at is None
    bulk.work(SEVEN)
    assert bulk.close(ingestion) == "succeeded"
    sweep.step()
    assert len(bulk.items(ingestion)) == 2
    settled(bulk, ingestion, days=2)
    sweep.step()
    assert bulk.stage.count(ingestions) == bulk.stage.count(jobs) == 0


def test_a_long_removal_goes_on_at_the_next_sweep(
    bulk: Bulk, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.sweep._KEYS", 2)
    ingestion = bulk.expand(*"abcde")
    bulk.work(*[SEVEN] * 5)
    settled(bulk, ingestion, days=2)
    monkeypatch.setattr("shared.sweep._STEP_SECONDS", 0.0)  # time for one transaction
    left = []
    while bulk.stage.count(ingestions):
        sweep.step()
        left.append(bulk.stage.count(items) + bulk.stage.count(jobs))
        assert len(left) < 20
    assert left[:3] == [8, 6, 5]
    assert left[-1] == 0


def test_two_sweeps_at_once_remove_each_job_once(
    stage: Stage, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.retention.STEP_ROWS", 2)
    ids = stage.submit_many(12)
    stage.record(stage.must_claim(), SEVEN)
    ended(stage, ids, days=2)
    databases = [Database(migrated_url) for _ in range(3)]
    removed = in_threads(3, lambda number: Retention(databases[number], 1).remove_jobs())
    for database in databases:
        database.close()
    assert sum(removed) == 12
    assert stage.count(jobs) == 0

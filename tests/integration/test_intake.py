"""Acceptance: one object an image, results shared, idempotency, and races with the sweep."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, delete, select

from shared.database import Database, new_id
from shared.errors import ProblemError, Unavailable
from shared.jobs import queries
from shared.jobs.recording import Failure
from shared.models import Target
from shared.tables import idempotency_keys, images, jobs
from tests.integration.helpers import SEVEN, MemoryStorage, Stage, in_threads

T = TypeVar("T")


def delete_jobs(stage: Stage) -> None:
    for job_id in stage.jobs():
        stage.database.transact(lambda c, job_id=job_id: queries.delete_job(c, "local", job_id))  # type: ignore[misc]


def sweep(connection: Connection) -> None:
    """What the sweep does to images that nothing refers to."""
    connection.execute(delete(images).where(images.c.sha256.not_in(select(jobs.c.image))))


def test_a_job_is_what_was_asked_for(stage: Stage) -> None:
    accepted = stage.submit(
        "seven",
        owner="anna",
        target=Target(stage.version_id, pinned=True),
        top_k=3,
        min_score=0.25,
        lane="bulk",
        deadline_seconds=3600,
        reference="order 7",
        metadata={"shelf": [1, "ü"]},
    )
    job = stage.job(accepted.job_id)
    assert accepted.queued
    assert (job.status, job.attempt, job.owner) == ("queued", 0, "anna")
    assert (job.model_version, job.pinned) == (stage.version_id, True)
    assert (job.top_k, job.min_score, job.lane) == (3, 0.25, "bulk")
    assert (job.reference, job.metadata) == ("order 7", {"shelf": [1, "ü"]})
    assert (job.filename, job.request_id) == ("seven.png", "request-1")
    assert job.deadline_at > job.created_at
    assert job.started_at is None
    assert job.finished_at is None


def test_the_same_image_twice_is_one_object(stage: Stage) -> None:
    first, second = stage.submit("seven"), stage.submit("seven", owner="another")
    other = stage.submit("one")
    assert first.job_id != second.job_id
    assert stage.count(images) == 2
    assert sorted(stage.storage.objects.values()) == [b"one", b"seven"]
    assert stage.statuses([first.job_id, second.job_id, other.job_id]) == ["queued"] * 3


def test_one_new_image_from_many_at_once_is_one_image(stage: Stage) -> None:
    accepted = in_threads(8, lambda n: stage.submit("seven", owner=f"owner {n}"))
    assert set(stage.jobs()) == {each.job_id for each in accepted}
    assert stage.count(images) == 1
    name = stage.image_object("seven")
    assert name is not None
    assert stage.storage.read(name) == b"seven"


def test_a_job_whose_result_is_there_is_born_succeeded(stage: Stage) -> None:
    stage.submit()
    stage.record(stage.must_claim(), SEVEN)
    accepted = stage.submit(owner="another")
    assert not accepted.queued
    job = stage.job(accepted.job_id)
    assert (job.status, job.reused, job.attempt) == ("succeeded", True, 0)
    assert (job.started_at, job.decode_ms, job.inference_ms) == (None, None, None)
    assert job.finished_at is not None
    assert stage.claim() is None
    with stage.database.read() as connection:
        found = queries.find(connection, "another", accepted.job_id)
    assert found is not None
    assert [tuple(prediction) for prediction in found.predictions] == SEVEN


def test_a_result_is_of_one_version_only(stage: Stage) -> None:
    stage.submit()
    stage.record(stage.must_claim())
    other = stage.install()
    assert stage.submit(target=Target(other, pinned=False)).queued


def test_a_failure_is_not_reused(stage: Stage) -> None:
    stage.submit()
    stage.record(stage.must_claim(), Failure("image_unreadable", "The image cannot be decoded."))
    assert stage.submit().queued


def test_a_key_stands_for_one_job(stage: Stage) -> None:
    first = stage.submit(key="k")
    second = stage.submit(key="k")
    assert second.job_id == first.job_id
    assert not second.queued  # nobody is to be woken a second time
    assert set(stage.jobs()) == {first.job_id}
    assert stage.submit(key="another").job_id != first.job_id
    assert stage.submit(key="k", owner="another").job_id != first.job_id


@pytest.mark.parametrize(
    "other",
    [{"content": "one"}, {"top_k": 1}, {"metadata": {"a": 1}}, {"lane": "bulk"}],
    ids=["image", "top_k", "metadata", "lane"],
)
def test_a_key_is_refused_for_another_request(stage: Stage, other: dict[str, Any]) -> None:
    stage.submit(key="k")
    with pytest.raises(ProblemError) as refused:
        stage.submit(key="k", **other)
    assert refused.value.code == "idempotency_mismatch"
    assert stage.count(jobs) == 1


def test_a_key_of_a_deleted_job_is_gone(stage: Stage) -> None:
    stage.submit(key="k")
    delete_jobs(stage)
    with pytest.raises(ProblemError) as refused:
        stage.submit(key="k")
    assert refused.value.code == "idempotency_gone"
    assert stage.count(jobs) == 0


def test_a_key_replays_a_job_that_has_ended(stage: Stage) -> None:
    first = stage.submit(key="k")
    stage.record(stage.must_claim())
    assert stage.submit(key="k").job_id == first.job_id
    assert stage.count(jobs) == 1


def test_fifty_replays_at_once_are_one_job(stage: Stage) -> None:
    accepted = in_threads(50, lambda n: stage.submit(key="k"))
    assert {each.job_id for each in accepted} == set(stage.jobs())
    assert stage.count(jobs) == 1
    assert sum(each.queued for each in accepted) == 1


class SweepingStorage(MemoryStorage):
    """The image's row is swept while its object is being written."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        self._database.transact(sweep)


class SweptDatabase(Database):
    """The sweep comes between our look at the image's row and our transaction, so many times."""

    def sweep_next(self, times: int) -> None:
        self._times = times

    def transact(self, work: Callable[[Connection], T]) -> T:
        if self._times:
            self._times -= 1
            super().transact(sweep)
        return super().transact(work)


def test_a_row_swept_during_the_write_is_made_again(stage: Stage) -> None:
    storage = SweepingStorage(stage.database)
    job_id = stage.submit(storage=storage).job_id
    assert stage.job(job_id).status == "queued"
    # Once more, now with a row whose object was lost.
    delete_jobs(stage)
    stage.change(images, where=images.c.object.is_not(None), object=None)
    job_id = stage.submit(storage=storage).job_id
    assert stage.job(job_id).status == "queued"
    assert storage.read(stage.image_object("seven") or "") == b"seven"


@pytest.fixture
def swept(stage: Stage, migrated_url: str) -> Any:
    """The stage's database, in which an image without a job can be swept at the worst moment."""
    stage.submit()
    delete_jobs(stage)
    database = SweptDatabase(migrated_url)
    yield database
    database.close()


def test_a_row_swept_between_look_and_insert_begins_it_again(
    stage: Stage, swept: SweptDatabase
) -> None:
    old = stage.image_object("seven")
    swept.sweep_next(1)
    job_id = stage.submit(database=swept).job_id
    assert stage.job(job_id).status == "queued"
    new = stage.image_object("seven")
    assert new not in (None, old)
    assert stage.storage.read(new or "") == b"seven"


def test_a_swept_row_and_a_key_still_make_one_job(stage: Stage, swept: SweptDatabase) -> None:
    swept.sweep_next(1)
    job_id = stage.submit(database=swept, key="k").job_id
    assert stage.submit(key="k").job_id == job_id
    assert set(stage.jobs()) == {job_id}


def test_an_image_whose_object_was_lost_gets_a_new_one(stage: Stage) -> None:
    stage.submit()
    lost = stage.image_object("seven")
    stage.change(images, where=images.c.object.is_not(None), object=None)
    stage.submit()
    found = stage.image_object("seven")
    assert found not in (None, lost)
    assert stage.storage.read(found or "") == b"seven"
    assert stage.count(images) == 1
    assert {job.object for job in stage.must_claim().jobs} == {found}


def test_an_image_found_guilty_begins_as_a_suspect_with_one_lapse_left(stage: Stage) -> None:
    first = stage.submit().job_id
    for _ in range(3):
        stage.lapse(trial=True)
    assert stage.job(first).error_code == "worker_lost"

    second = stage.submit(owner="another").job_id
    other = stage.submit("one").job_id
    assert stage.job(second).suspect
    assert not stage.job(other).suspect
    trial = next(job for job in stage.must_claim().jobs if job.id == second)
    assert trial.suspect

    third = stage.submit(owner="a third").job_id
    stage.lapse(trial=True)
    assert (stage.job(third).status, stage.job(third).error_code) == ("failed", "worker_lost")


def test_guilt_is_of_one_version_only(stage: Stage) -> None:
    stage.submit()
    for _ in range(3):
        stage.lapse(trial=True)
    other = stage.install()
    assert not stage.job(stage.submit(target=Target(other, pinned=False)).job_id).suspect


def test_a_storage_that_fails_accepts_nothing(stage: Stage) -> None:
    stage.storage.away = True
    with pytest.raises(Unavailable):
        stage.submit(key="k")
    assert [stage.count(table) for table in (jobs, images, idempotency_keys)] == [0, 0, 0]
    stage.storage.away = False
    assert stage.submit(key="k").queued


def test_a_refusal_keeps_no_key(stage: Stage) -> None:
    stage.submit(key="k")
    for _ in range(2):
        with pytest.raises(ProblemError):
            stage.submit("one", key="k")
    assert stage.count(idempotency_keys) == 1


def test_an_owner_sees_only_its_own_jobs(stage: Stage) -> None:
    mine = stage.submit(owner="mine").job_id
    with stage.database.read() as connection:
        assert queries.find(connection, "mine", mine) is not None
        assert queries.find(connection, "another", mine) is None
        assert queries.find(connection, "mine", new_id()) is None
    assert not stage.database.transact(lambda c: queries.delete_job(c, "another", mine))
    assert stage.job(mine).status == "queued"

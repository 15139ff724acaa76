"""The life of an ingestion in the database: steps, counts, lapses, cancel, retry, closing."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select

from shared import models
from shared.database import Database, new_id, utc_now
from shared.errors import ProblemError
from shared.ingestions import expansion, retrying, transitions, upkeep
from shared.ingestions.birth import ImageVanished
from shared.ingestions.expansion import Lost, NewItem
from shared.jobs import recovery
from shared.jobs.recording import Failure
from shared.tables import images, ingestions, items, jobs, model_versions
from tests.integration.bulk import Bulk, item
from tests.integration.helpers import SEVEN, Stage, in_threads

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
UNREADABLE = Failure("image_unreadable", "It is cut off.")


@pytest.fixture
def bulk(stage: Stage) -> Bulk:
    return Bulk(stage)


def test_a_step_writes_items_jobs_and_checkpoint_together(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", None, "b")
    first, refused, last = bulk.items(ingestion)
    assert (first.status, last.status) == ("queued", "queued")
    assert (refused.job, refused.error_code) == (None, "unsupported_image")
    assert refused.finished_at is not None
    row = bulk.row(ingestion)
    assert (row.status, row.expanded, row.refused, row.checkpoint) == ("running", 3, 1, 3)
    job = bulk.stage.job(first.job)
    assert (job.lane, job.flow, job.ingestion) == ("bulk", str(ingestion), ingestion)
    assert (job.position, job.filename, job.pinned) == (0, "0.png", True)
    assert job.metadata == {"of": "all", "number": 0}


def test_only_the_holder_at_its_position_writes(bulk: Bulk) -> None:
    bulk.ingest()
    held = bulk.must_claim()
    assert bulk.step(held, ["a"]) == 1
    with pytest.raises(Lost):  # the same step again
        bulk.step(held, ["a"])
    other = replace(held, token=new_id())
    with pytest.raises(Lost):
        bulk.step(other, ["b"], position=1)
    assert bulk.stage.count(items) == bulk.stage.count(jobs) == 1


def test_an_ingestion_that_was_cancelled_takes_no_step(bulk: Bulk) -> None:
    ingestion = bulk.ingest()
    held = bulk.must_claim()
    bulk.step(held, ["a", "b"])
    assert bulk.database.transact(lambda c: transitions.cancel(c, ingestion))
    with pytest.raises(Lost):
        bulk.step(held, ["c"], position=2)
    assert bulk.close(ingestion) == "canceled"
    assert bulk.counts(ingestion)["canceled"] == 2
    assert bulk.row(ingestion).settled_at is not None
    assert not bulk.database.transact(lambda c: transitions.cancel(c, ingestion))


def test_a_claim_cancels_jobs_of_what_was_stopped_and_takes_others(bulk: Bulk) -> None:
    stopped = bulk.expand("a", "b")
    other = bulk.expand("c")
    bulk.database.transact(lambda c: transitions.cancel(c, stopped))
    claimed = bulk.stage.must_claim(lane="bulk", limit=1)
    assert [job.id for job in claimed.jobs] == [bulk.items(other)[0].job]
    assert bulk.counts(stopped)["canceled"] > 0


def test_running_jobs_of_what_was_stopped_end_too(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", "b")
    claimed = bulk.stage.must_claim(lane="bulk", limit=1)
    bulk.database.transact(lambda c: transitions.cancel(c, ingestion))
    assert bulk.close(ingestion) == "canceled"
    bulk.stage.record(claimed, SEVEN)  # late
    assert bulk.counts(ingestion) == {"canceled": 2, "expired": 0, "failed": 0, "succeeded": 0}
    assert bulk.row(ingestion).settled_at is not None


@pytest.mark.parametrize(
    ("contents", "results", "status"),
    [
        ((), (), "succeeded"),
        (("a", "b"), (SEVEN, SEVEN), "succeeded"),
        (("a", "b"), (SEVEN, UNREADABLE), "partially_succeeded"),
        (("a", None), (SEVEN,), "partially_succeeded"),
        (("a", None), (UNREADABLE,), "failed"),
        ((None,), (), "failed"),
    ],
)
def test_an_ingestion_closes_when_its_last_job_has_ended(
    bulk: Bulk, contents: tuple[str | None, ...], results: tuple[Any, ...], status: str
) -> None:
    ingestion = bulk.expand(*contents)
    if results:
        assert bulk.close(ingestion) == "running"
    bulk.work(*results)
    assert bulk.close(ingestion) == status
    assert bulk.row(ingestion).finished_at is not None


def test_what_is_not_expanded_does_not_close(bulk: Bulk) -> None:
    ingestion = bulk.ingest()
    held = bulk.must_claim()
    bulk.step(held, ["a"])
    bulk.work(SEVEN)
    assert bulk.close(ingestion) == "running"
    bulk.step(held, [], position=1, ended=True, error=("source_damaged", "It is cut off."))
    assert bulk.close(ingestion) == "partially_succeeded"
    assert bulk.row(ingestion).error_code == "source_damaged"


def test_an_image_with_a_result_costs_nothing(bulk: Bulk) -> None:
    bulk.expand("a")
    bulk.work(SEVEN)
    ingestion = bulk.expand("a", "b", "a")
    assert [(i.status, i.reused) for i in bulk.items(ingestion)] == [
        ("succeeded", True),
        ("queued", False),
        ("succeeded", True),
    ]
    assert bulk.counts(ingestion)["succeeded"] == 2
    bulk.work(SEVEN)
    assert bulk.close(ingestion) == "succeeded"


def test_an_image_that_is_swept_meanwhile_begins_the_step_again(bulk: Bulk) -> None:
    bulk.ingest()
    held = bulk.must_claim()
    known = item("a", 0)
    assert known.image is not None
    gone = NewItem("0.png", replace(known.image, object=None), None)
    with pytest.raises(ImageVanished):
        expansion.record_step(bulk.database, held, position=0, new=[gone], checkpoint=1)
    assert bulk.stage.count(items) == 0
    bulk.step(held, ["a"])
    # A row that has lost its object is mended by a step that has written one.
    bulk.stage.change(images, where=images.c.object.is_not(None), object=None)
    with pytest.raises(ImageVanished):
        expansion.record_step(bulk.database, held, position=1, new=[gone], checkpoint=2)
    bulk.step(held, ["a"], position=1)
    with bulk.database.read() as connection:
        assert connection.scalar(select(images.c.object)) is not None


def test_a_third_lapse_at_one_place_ends_the_expansion(bulk: Bulk) -> None:
    ingestion, token = bulk.ingest(), new_id()
    held = bulk.claim(token)
    assert held is not None
    bulk.step(held, ["a"])
    for _ in range(2):
        assert expansion.end_claims(bulk.database, [token]) == 1
        assert bulk.claim(token) is not None
    assert bulk.row(ingestion).lapses == 2
    expansion.renew(bulk.database, [token], lease_seconds=-1)
    assert bulk.claim(take_lapsed=False) is None
    assert bulk.claim() is None
    row = bulk.row(ingestion)
    assert (row.error_code, row.expanded) == ("expander_lost", 1)
    assert bulk.close(ingestion) == "running"
    bulk.work(SEVEN)
    assert bulk.close(ingestion) == "failed"
    assert bulk.counts(ingestion)["succeeded"] == 1


def test_a_step_takes_the_lapses_away(bulk: Bulk) -> None:
    ingestion, token = bulk.ingest(), new_id()
    bulk.claim(token)
    expansion.end_claims(bulk.database, [token])
    held = bulk.claim(token)
    assert held is not None
    bulk.step(held, ["a"])
    assert bulk.row(ingestion).lapses == 0


def test_a_stop_is_no_lapse(bulk: Bulk) -> None:
    ingestion = bulk.ingest()
    for _ in range(4):
        expansion.release(bulk.database, bulk.must_claim())
    assert bulk.row(ingestion).lapses == 0


def test_an_error_of_ours_counts_as_a_lapse(bulk: Bulk) -> None:
    ingestion = bulk.ingest()
    for _ in range(3):
        expansion.release(bulk.database, bulk.must_claim(), lapse=True)
    assert bulk.claim() is None
    assert bulk.close(ingestion) == "failed"
    assert bulk.row(ingestion).error_code == "expander_lost"


def test_the_one_that_waited_longest_has_the_next_turn(bulk: Bulk) -> None:
    first, second = bulk.ingest(), bulk.ingest()
    held = bulk.must_claim()
    assert held.id == first
    assert expansion.others_wait(bulk.database)
    expansion.release(bulk.database, held)
    held = bulk.must_claim()
    assert held.id == second
    assert bulk.must_claim().id == first
    assert not expansion.others_wait(bulk.database)


def test_a_source_that_is_away_is_asked_later_and_not_for_ever(bulk: Bulk) -> None:
    ingestion = bulk.ingest()
    held = bulk.must_claim()
    assert expansion.pause(bulk.database, held, reason="no route", hours=1)
    assert bulk.claim() is None
    row = bulk.row(ingestion)
    assert row.unreachable_since is not None
    bulk.stage.change(
        ingestions,
        where=ingestions.c.id == ingestion,
        not_before=None,
        unreachable_since=LONG_AGO,
    )
    assert not expansion.pause(bulk.database, bulk.must_claim(), reason="no route", hours=1)
    assert bulk.close(ingestion) == "failed"
    assert bulk.row(ingestion).error_code == "source_unreachable"
    retrying.retry(bulk.database, ingestion)
    assert bulk.must_claim().id == ingestion


def test_too_many_failures_stop_it_early(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", "b", "c", "d", max_failures=1)
    bulk.work(UNREADABLE)
    assert bulk.close(ingestion) == "running"
    bulk.work(UNREADABLE)
    assert bulk.close(ingestion) == "failed"
    row = bulk.row(ingestion)
    assert row.error_code == "too_many_failures"
    assert bulk.counts(ingestion) == {"canceled": 2, "expired": 0, "failed": 2, "succeeded": 0}
    assert row.settled_at is not None


def test_too_many_refused_stop_the_expansion(bulk: Bulk) -> None:
    ingestion = bulk.ingest(max_failures=1)
    held = bulk.must_claim()
    bulk.step(held, [None, "a", None])
    with pytest.raises(Lost):
        bulk.step(held, ["b"], position=3)
    assert bulk.close(ingestion) == "failed"


def test_a_retry_makes_new_jobs_for_what_failed_and_counts_items(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", "b", "c", None)
    bulk.work(UNREADABLE, SEVEN, UNREADABLE)
    with pytest.raises(ProblemError, match="once it has ended"):
        retrying.retry(bulk.database, ingestion)
    assert bulk.close(ingestion) == "partially_succeeded"
    before = bulk.items(ingestion)
    assert retrying.retry(bulk.database, ingestion) == 2
    after = bulk.items(ingestion)
    assert [a.job == b.job for a, b in zip(after, before, strict=True)] == [
        False, True, False, True,
    ]  # fmt: skip
    assert bulk.row(ingestion).status == "running"
    assert bulk.counts(ingestion) == {"canceled": 0, "expired": 0, "failed": 0, "succeeded": 1}
    assert bulk.stage.job(before[0].job).status == "failed"
    with pytest.raises(ProblemError):
        retrying.retry(bulk.database, ingestion)
    bulk.work(SEVEN, UNREADABLE)
    assert bulk.close(ingestion) == "partially_succeeded"
    assert retrying.retry(bulk.database, ingestion) == 1
    bulk.work(SEVEN)
    assert bulk.close(ingestion) == "partially_succeeded"  # the one that is no image
    assert retrying.retry(bulk.database, ingestion) == 0


def test_a_retry_hands_what_could_not_be_fetched_to_the_expander(bulk: Bulk) -> None:
    ingestion = bulk.ingest(source_kind="list")
    held = bulk.must_claim()
    away = NewItem("http://there/0.png", None, ("source_unreachable", "It timed out."), "mine")
    expansion.record_step(
        bulk.database, held, position=0, new=[away, item("a", 1)], checkpoint=2, ended=True
    )
    bulk.work(SEVEN)
    assert bulk.close(ingestion) == "partially_succeeded"
    assert retrying.retry(bulk.database, ingestion) == 1
    held = bulk.must_claim()
    (again,) = expansion.unfetched(bulk.database, ingestion, after=-1, limit=10)
    assert (again.position, again.name, again.reference) == (0, "http://there/0.png", "mine")
    found = NewItem(again.name, item("b", 0).image, None, again.reference, {}, again.position)
    expansion.record_step(bulk.database, held, position=2, new=[found], checkpoint=2, ended=True)
    bulk.work(SEVEN)
    assert bulk.close(ingestion) == "succeeded"
    row = bulk.row(ingestion)
    assert (row.expanded, row.refused) == (2, 0)
    assert bulk.stage.job(bulk.items(ingestion)[0].job).reference == "mine"


def test_a_retry_leaves_what_is_deleted_meanwhile_alone(bulk: Bulk) -> None:
    """Between two steps of it the client's other request is served."""

    class Meanwhile(Database):
        def transact(self, work: Callable[[Connection], Any]) -> Any:
            done = bulk.database.transact(work)
            bulk.database.transact(lambda c: transitions.delete(c, "local", ingestion))
            return done

    ingestion = bulk.ingest(source_kind="list")
    away = NewItem("http://there/0.png", None, ("source_unreachable", "It timed out."))
    expansion.record_step(
        bulk.database, bulk.must_claim(), position=0, new=[away], checkpoint=1, ended=True
    )
    assert bulk.close(ingestion) == "failed"
    assert retrying.retry(Meanwhile(str(bulk.database.engine.url)), ingestion) == 0
    assert bulk.close(ingestion) == "failed"


def test_what_nobody_will_fetch_again_holds_up_no_end(bulk: Bulk) -> None:
    ingestion = bulk.ingest(source_kind="list")
    away = NewItem("http://there/0.png", None, ("source_unreachable", "It timed out."))
    expansion.record_step(
        bulk.database, bulk.must_claim(), position=0, new=[away], checkpoint=1, ended=True
    )
    assert bulk.close(ingestion) == "failed"
    assert retrying.retry(bulk.database, ingestion) == 1
    assert bulk.close(ingestion) == "running"  # an expander will come
    bulk.database.transact(lambda connection: transitions.cancel(connection, ingestion))
    assert bulk.close(ingestion) == "canceled"
    row = bulk.row(ingestion)
    assert (row.settled_at is not None, row.refused) == (True, 1)
    assert bulk.items(ingestion)[0].error_code == "source_unreachable"


def test_deadlines_expire_items_and_a_retry_gives_them_time_again(bulk: Bulk) -> None:
    ingestion = bulk.expand("a", deadline_at=utc_now() + timedelta(hours=1))
    bulk.stage.change(jobs, where=jobs.c.ingestion == ingestion, deadline_at=LONG_AGO)
    assert recovery.end_overdue(bulk.database) == 1
    assert bulk.counts(ingestion)["expired"] == 1
    assert bulk.close(ingestion) == "failed"
    assert retrying.retry(bulk.database, ingestion) == 1
    bulk.work(SEVEN)
    assert bulk.close(ingestion) == "succeeded"


def test_an_ingestion_is_pinned_with_its_model_and_its_jobs_go_there(bulk: Bulk) -> None:
    database = bulk.database
    database.transact(lambda c: models.register(c, "later"))
    with database.read() as connection:
        placeholder = connection.scalar(
            select(model_versions.c.id).where(
                model_versions.c.model == "later", model_versions.c.version.is_(None)
            )
        )
    assert placeholder is not None
    ingestion = bulk.expand("a", version=placeholder, pinned=False)
    first = bulk.stage.install("a" * 12, "later")
    second = bulk.stage.install("b" * 12, "later")
    assert first != second
    recovery.move_to_current(database)
    job = bulk.stage.job(bulk.items(ingestion)[0].job)
    assert (job.model_version, job.pinned) == (first, True)
    row = bulk.row(ingestion)
    assert (row.model_version, row.pinned) == (first, True)


def test_one_accepted_in_the_moment_of_the_switch_is_pinned_by_recovery(bulk: Bulk) -> None:
    database = bulk.database
    database.transact(lambda c: models.register(c, "later"))
    version = bulk.stage.install("a" * 12, "later")
    with database.read() as connection:
        placeholder = connection.scalar(
            select(model_versions.c.id).where(
                model_versions.c.model == "later", model_versions.c.version.is_(None)
            )
        )
    ingestion = bulk.expand("a", version=placeholder, pinned=False)
    assert upkeep.pin_to_current(database) == 1
    recovery.move_to_current(database)
    assert bulk.stage.job(bulk.items(ingestion)[0].job).model_version == version


def test_writers_that_count_at_once_lose_nothing(bulk: Bulk) -> None:
    ingestion = bulk.expand(*[f"{number}" for number in range(40)])

    def work(_: int) -> None:
        for _ in range(10):
            claimed = bulk.stage.must_claim(lane="bulk", limit=1)
            bulk.stage.record(claimed, SEVEN)

    in_threads(4, work)
    assert bulk.counts(ingestion)["succeeded"] == 40
    assert bulk.close(ingestion) == "succeeded"


def test_deleting_hides_and_ends_it(bulk: Bulk) -> None:
    ingestion = bulk.expand("a")
    assert not bulk.database.transact(lambda c: transitions.delete(c, "another", ingestion))
    assert bulk.database.transact(lambda c: transitions.delete(c, "local", ingestion))
    assert not bulk.database.transact(lambda c: transitions.delete(c, "local", ingestion))
    assert bulk.close(ingestion) == "canceled"

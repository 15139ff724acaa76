"""Recording: fenced on the claim, the first answer stays, and terminal states never change."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from inspect import getmembers, isfunction, signature
from math import inf
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import create_engine, select, text

from shared.database import Database, new_id, utc_now
from shared.jobs import queries, recording, recovery, transitions
from shared.jobs.claiming import Claim
from shared.jobs.recording import Failure, Outcome, Unread
from shared.tables import TERMINAL, claims, jobs, results
from tests.integration.helpers import ONE, SEVEN, Stage, in_threads

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
UNREADABLE = Failure("image_unreadable", "The image cannot be decoded.")


def cancel(stage: Stage, job_id: UUID) -> bool:
    return stage.database.transact(lambda c: transitions.cancel(c, job_id))


def delete(stage: Stage, job_id: UUID) -> bool:
    return stage.database.transact(lambda c: queries.delete_job(c, "local", job_id))


def requeue(stage: Stage) -> None:
    stage.change(claims, where=claims.c.lease_until.is_not(None), lease_until=LONG_AGO)
    assert recovery.requeue_lapsed(stage.database) > 0


def test_what_is_recorded_is_there(stage: Stage) -> None:
    job_id = stage.submit().job_id
    claim = stage.must_claim()
    assert stage.record(claim) == 1
    job = stage.job(job_id)
    assert (job.status, job.attempt, job.reused) == ("succeeded", 1, False)
    assert (job.decode_ms, job.inference_ms) == (1.5, 2.5)
    assert job.created_at <= job.started_at <= job.finished_at
    assert job.claim_token is None
    assert stage.result("seven") == SEVEN


def test_a_failure_has_its_code_and_leaves_no_result(stage: Stage) -> None:
    job_id = stage.submit().job_id
    assert stage.record(stage.must_claim(), UNREADABLE) == 1
    job = stage.job(job_id)
    assert (job.status, job.error_code) == ("failed", "image_unreadable")
    assert job.error_detail == "The image cannot be decoded."
    assert job.finished_at is not None
    assert stage.result("seven") is None


def test_jobs_of_a_batch_end_each_in_its_own_way(stage: Stage) -> None:
    good, bad, odd, unread = stage.submit_each("good", "bad", "odd", "unread")
    claim = stage.must_claim()
    outcome: dict[UUID, Any] = {
        good: SEVEN,
        bad: UNREADABLE,
        odd: Failure("image_missing", "The stored image is gone."),
        unread: Unread(),
    }
    recorded = recording.record(
        stage.database,
        claim,
        [Outcome(job.id, job.image, outcome[job.id]) for job in claim.jobs],
        decode_ms=1,
        inference_ms=1,
        unreachable_hours=24,
    )
    assert recorded == 3  # a parked job has not ended
    assert stage.statuses([good, bad, odd, unread]) == ["succeeded", "failed", "failed", "queued"]
    assert [stage.job(i).error_code for i in (bad, odd)] == ["image_unreadable", "image_missing"]
    assert stage.tokens() == set()


@pytest.mark.parametrize(
    ("take_away", "result"),
    [
        (requeue, SEVEN),
        (requeue, UNREADABLE),
        (requeue, Unread()),
        (cancel, SEVEN),
        (delete, SEVEN),
    ],
)
def test_a_late_writer_changes_nothing(
    stage: Stage, take_away: Callable[..., Any], result: Any
) -> None:
    job_id = stage.submit().job_id
    claim = stage.must_claim()
    take_away(stage) if take_away is requeue else take_away(stage, job_id)
    before = stage.jobs()
    assert stage.record(claim, result) == 0
    assert stage.jobs() == before
    assert stage.count(results) == 0


def test_a_late_writer_leaves_the_next_claim_alone(stage: Stage) -> None:
    job_id = stage.submit().job_id
    late = stage.must_claim()
    requeue(stage)
    present = stage.must_claim()
    assert stage.record(late, ONE) == 0
    assert stage.job(job_id).claim_token == present.token
    assert stage.record(present, SEVEN) == 1
    assert stage.record(late, ONE) == 0
    assert stage.job(job_id).status == "succeeded"
    assert stage.result("seven") == SEVEN


def test_only_what_was_taken_away_is_left_out(stage: Stage) -> None:
    kept, canceled, deleted = stage.submit_each("kept", "canceled", "deleted")
    claim = stage.must_claim()
    cancel(stage, canceled)
    delete(stage, deleted)
    assert stage.record(claim) == 1
    assert stage.statuses([kept, canceled]) == ["succeeded", "canceled"]
    assert stage.result("kept") == SEVEN
    assert stage.result("canceled") is None
    assert stage.result("deleted") is None


def test_the_first_result_stays(stage: Stage) -> None:
    ids = stage.submit_many(2)
    first, second = stage.must_claim(1), stage.must_claim(1)
    stage.record(first, ONE)
    assert stage.record(second, SEVEN) == 1
    assert stage.statuses(ids) == ["succeeded", "succeeded"]
    assert stage.result("seven") == ONE


def test_one_claim_may_hold_an_image_twice(stage: Stage) -> None:
    ids = stage.submit_many(3)
    assert stage.record(stage.must_claim()) == 3
    assert stage.statuses(ids) == ["succeeded"] * 3
    assert stage.count(results) == 1


WAYS: dict[str, Callable[[Stage, Claim, UUID], Any]] = {
    "recorded": lambda stage, claim, job_id: stage.record(claim, only=[job_id]),
    "failed": lambda stage, claim, job_id: stage.record(claim, UNREADABLE, only=[job_id]),
    "parked": lambda stage, claim, job_id: stage.record(claim, Unread(), only=[job_id]),
    "canceled": lambda stage, claim, job_id: cancel(stage, job_id),
    "deleted": lambda stage, claim, job_id: delete(stage, job_id),
    "given back": lambda stage, claim, job_id: recording.give_back(stage.database, claim, [job_id]),
}


@pytest.mark.parametrize("last", WAYS)
def test_a_claim_ends_with_its_last_job_and_not_before(stage: Stage, last: str) -> None:
    first_job, last_job = stage.submit_each("first", "last")
    claim = stage.must_claim()
    WAYS["recorded"](stage, claim, first_job)
    assert stage.tokens() == {claim.token}
    WAYS[last](stage, claim, last_job)
    assert stage.tokens() == set()


def test_a_job_given_back_waits_again_as_if_untouched(stage: Stage) -> None:
    job_id = stage.submit().job_id
    claim = stage.must_claim()
    recording.give_back(stage.database, claim, [job_id])
    job = stage.job(job_id)
    assert (job.status, job.attempt, job.suspect, job.claim_token) == ("queued", 0, False, None)
    assert [j.id for j in stage.must_claim().jobs] == [job_id]


def test_giving_back_late_changes_nothing(stage: Stage) -> None:
    job_id = stage.submit().job_id
    claim = stage.must_claim()
    cancel(stage, job_id)
    recording.give_back(stage.database, claim, [job_id])
    assert stage.job(job_id).status == "canceled"


def test_parking_doubles_up_to_five_minutes(stage: Stage) -> None:
    job_id = stage.submit().job_id
    for parks, pause in ((0, 1), (1, 2), (2, 4), (3, 8), (8, 256), (9, 300)):
        stage.change(jobs, where=jobs.c.id == job_id, parks=parks)
        claim = stage.must_claim()
        before = utc_now()
        stage.record(claim, Unread())
        after = utc_now()
        job = stage.job(job_id)
        assert (job.status, job.attempt) == ("queued", 0)
        # Kept as microseconds; the clocks are of one machine.
        tolerance = timedelta(milliseconds=5)
        assert before - tolerance <= job.not_before - timedelta(seconds=pause) <= after + tolerance
        assert stage.claim() is None
        stage.pause_over()


def test_a_job_is_parked_however_often_it_was_before(stage: Stage) -> None:
    """While a storage is away for weeks, no count may grow too large to be reckoned with."""
    job_id = stage.submit().job_id
    claim = stage.must_claim()
    stage.change(jobs, where=jobs.c.id == job_id, parks=5000)
    stage.record(claim, Unread())
    assert (stage.job(job_id).status, stage.job(job_id).parks) == ("queued", 5001)


def test_a_parked_job_goes_to_its_flows_tail(stage: Stage) -> None:
    first, second, third = stage.submit_many(3)
    stage.record(stage.must_claim(1), Unread())
    stage.pause_over()
    assert [job.id for job in stage.must_claim().jobs] == [second, third, first]


def test_a_job_unreadable_for_too_long_fails_while_others_can_be_read(stage: Stage) -> None:
    old, new = stage.submit_each("old", "new")
    stage.record(stage.must_claim(), Unread())
    stage.change(jobs, where=jobs.c.id == old, parked_at=utc_now() - timedelta(hours=25))
    stage.pause_over()
    stage.record(stage.must_claim(), Unread(), unreachable_hours=24)
    assert stage.statuses([old, new]) == ["failed", "queued"]
    assert stage.job(old).error_code == "image_unreachable"


def test_no_job_fails_while_no_image_can_be_read(stage: Stage) -> None:
    job_id = stage.submit().job_id
    stage.record(stage.must_claim(), Unread(), unreachable_hours=inf)
    stage.change(jobs, where=jobs.c.id == job_id, parked_at=LONG_AGO)
    stage.pause_over()
    stage.record(stage.must_claim(), Unread(), unreachable_hours=inf)
    assert stage.job(job_id).status == "queued"
    assert stage.job(job_id).not_before is not None


def test_batches_with_the_same_images_never_deadlock(stage: Stage) -> None:
    names = [f"image {number}" for number in range(12)]
    for round_ in range(2):
        contents = [f"{name} of round {round_}" for name in names]
        stage.submit_each(*contents, owner="one")
        forward = stage.must_claim()
        stage.submit_each(*reversed(contents), owner="two")
        backward = stage.must_claim()
        in_threads(2, lambda n, pair=(forward, backward): stage.record(pair[n]))  # type: ignore[misc]
    assert {job.status for job in stage.jobs().values()} == {"succeeded"}
    assert stage.count(results) == 12 * 2
    if not stage.database.is_sqlite:
        assert deadlocks_seen(stage.database) == 0


def deadlocks_seen(database: Database) -> int:
    """How many PostgreSQL had to resolve; its connections report when they end."""
    url = database.engine.url
    database.close()
    engine = create_engine(url)
    with engine.connect() as connection:
        seen = connection.scalar(
            text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        )
    engine.dispose()
    return int(seen or 0)


def test_the_object_is_forgotten_only_if_it_is_still_the_one(stage: Stage) -> None:
    stage.submit()
    name = stage.image_object("seven")
    assert name is not None
    image = stage.must_claim().jobs[0].image
    recording.forget_object(stage.database, image, "images/another")
    assert stage.image_object("seven") == name
    recording.forget_object(stage.database, image, name)
    assert stage.image_object("seven") is None


# Every function of the transition table, called on a job (and the claim it was in) that has ended.
ATTEMPTS: dict[str, Callable[[Any, UUID, UUID, int], Any]] = {
    "claim": lambda c, token, job_id, version: [
        transitions.claim(
            c,
            version_id=version,
            lane=lane,
            limit=9,
            most_lapses=9,
            from_clock=False,
            token=new_id(),
        )
        for lane in ("interactive", "bulk")
    ],
    "succeed": lambda c, token, job_id, version: transitions.succeed(
        c, token, [job_id], decode_ms=9, inference_ms=9
    ),
    "fail": lambda c, token, job_id, version: transitions.fail(
        c, token, [job_id], code="inference_failed", detail="late"
    ),
    "give_back": lambda c, token, job_id, version: transitions.give_back(c, token, [job_id]),
    "give_claim_back": lambda c, token, job_id, version: transitions.give_claim_back(c, token),
    "park": lambda c, token, job_id, version: transitions.park(
        c, token, [job_id], unreachable_hours=0.0
    ),
    "cancel": lambda c, token, job_id, version: transitions.cancel(c, job_id),
    "cancel_some": lambda c, token, job_id, version: transitions.cancel_some(
        c, select(jobs.c.id).where(jobs.c.id == job_id)
    ),
    "cancel_claimed": lambda c, token, job_id, version: transitions.cancel_claimed(
        c, token, [job_id]
    ),
    "requeue_lapsed": lambda c, token, job_id, version: transitions.requeue_lapsed(c, token),
    "end_overdue": lambda c, token, job_id, version: transitions.end_overdue(c),
    "end_removed": lambda c, token, job_id, version: transitions.end_removed(c),
    "end_unserved": lambda c, token, job_id, version: [
        transitions.end_unserved(c, version, lane, 0) for lane in ("interactive", "bulk")
    ],
    "drop_idle_claim": lambda c, token, job_id, version: transitions.drop_idle_claim(c, token),
}


def end_as(stage: Stage, status: str) -> tuple[UUID, UUID]:
    """A job in this terminal state, and the token of the claim it was in (or might have been)."""
    job_id = stage.submit(deadline_seconds=3600).job_id
    if status == "expired":
        stage.change(jobs, where=jobs.c.id == job_id, deadline_at=LONG_AGO)
        assert recovery.end_overdue(stage.database) == 1
        return job_id, new_id()
    claim = stage.must_claim()
    if status == "canceled":
        cancel(stage, job_id)
    else:
        stage.record(claim, SEVEN if status == "succeeded" else UNREADABLE)
    return job_id, claim.token


def test_every_transition_is_attempted_below() -> None:
    works = {
        name
        for name, function in getmembers(transitions, isfunction)
        if function.__module__ == transitions.__name__ and not name.startswith("_")
        # Others only make conditions, and can change nothing.
        if "connection" in signature(function).parameters
    }
    assert works - {"insert_job", "insert_jobs"} == set(ATTEMPTS)


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_terminal_state_never_changes(stage: Stage, status: str) -> None:
    job_id, token = end_as(stage, status)
    assert stage.job(job_id).status == status
    # As tempting as can be: overdue, its version removed, a lapsed claim of its token on trial.
    stage.change(jobs, where=jobs.c.id == job_id, deadline_at=LONG_AGO, parked_at=LONG_AGO)
    stage.install()
    stage.database.transact(
        lambda c: c.execute(
            text(
                "UPDATE model_versions SET removed_at = created_at FROM jobs"
                " WHERE model_versions.id = jobs.model_version"
            )
        )
    )
    stage.database.transact(
        lambda c: c.execute(
            claims.insert().values(token=token, worker=new_id(), lease_until=LONG_AGO, trial=job_id)
        )
    )
    before = stage.job(job_id)
    for name, attempt in ATTEMPTS.items():
        stage.database.transact(lambda c, do=attempt: do(c, token, job_id, stage.version_id))  # type: ignore[misc]
        assert stage.job(job_id) == before, name
    for step in (
        recovery.requeue_lapsed,
        recovery.unpark,
        recovery.end_overdue,
        recovery.move_to_current,
        recovery.end_removed,
        partial(recovery.end_unserved, hours=0),
    ):
        assert step(stage.database) == 0
        assert stage.job(job_id) == before, step

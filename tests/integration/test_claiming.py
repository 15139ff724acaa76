"""Claiming: each job once, in an order in which flows take turns; what is not to be claimed."""

from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

import pytest

from shared.database import new_id
from shared.jobs import recovery
from shared.jobs.claiming import LaneCursor, lapsed_claims, renew
from shared.jobs.recording import Unread
from shared.models import Target
from shared.tables import jobs
from tests.integration.helpers import Stage, in_threads

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def claimed_one_by_one(stage: Stage, count: int) -> list[str]:
    """The owners of the next jobs, in the order in which a batch size of one takes them."""
    owners = []
    for _ in range(count):
        claim = stage.must_claim(1)
        owners.append(stage.job(claim.jobs[0].id).owner)
        stage.record(claim)
    return owners


def test_a_claimed_job_belongs_to_its_claim(stage: Stage) -> None:
    ids = stage.submit_each("a", "b", "c")
    claim = stage.must_claim(2)
    assert [job.id for job in claim.jobs] == ids[:2]
    assert (claim.version_id, claim.lane) == (stage.version_id, "interactive")
    assert [job.object for job in claim.jobs] == [stage.image_object("a"), stage.image_object("b")]
    assert [job.request_id for job in claim.jobs] == ["request-1"] * 2
    for job_id in ids[:2]:
        job = stage.job(job_id)
        assert (job.status, job.claim_token, job.attempt) == ("running", claim.token, 1)
        assert job.started_at is not None
    assert stage.job(ids[2]).status == "queued"
    assert stage.tokens() == {claim.token}


def test_nothing_to_claim_leaves_no_claim(stage: Stage) -> None:
    assert stage.claim() is None
    assert stage.tokens() == set()


def test_many_claimers_take_each_job_once(stage: Stage) -> None:
    ids = stage.submit_many(500)

    def work_off(_: int) -> list[UUID]:
        cursor, taken = LaneCursor(), []
        while claim := stage.claim(7, cursor=cursor):
            taken += [job.id for job in claim.jobs]
        return taken

    taken = [job_id for part in in_threads(6, work_off) for job_id in part]
    # A claimer passes by what others hold at that moment, and may end early.
    taken += work_off(0)
    assert Counter(taken) == Counter(ids)
    assert {job.attempt for job in stage.jobs().values()} == {1}


def test_lanes_and_versions_are_apart(stage: Stage) -> None:
    other = stage.install()
    here = stage.submit("a").job_id
    bulk = stage.submit("b", lane="bulk").job_id
    there = stage.submit("c", target=Target(other, pinned=False)).job_id
    assert [job.id for job in stage.must_claim().jobs] == [here]
    assert stage.claim() is None
    assert [job.id for job in stage.must_claim(lane="bulk").jobs] == [bulk]
    assert stage.claim(version_id=other, lane="bulk") is None
    assert [job.id for job in stage.must_claim(version_id=other).jobs] == [there]


def test_an_overdue_job_is_not_claimed_and_expires(stage: Stage) -> None:
    overdue, waiting = stage.submit_many(2, deadline_seconds=3600)
    stage.change(jobs, where=jobs.c.id == overdue, deadline_at=LONG_AGO)
    assert [job.id for job in stage.must_claim().jobs] == [waiting]
    assert recovery.end_overdue(stage.database) == 1
    job = stage.job(overdue)
    assert (job.status, job.error_code, job.attempt) == ("expired", "deadline_passed", 0)
    assert job.finished_at is not None
    assert stage.job(waiting).status == "running"


def test_a_deadline_that_passes_after_an_attempt_is_a_failure(stage: Stage) -> None:
    job_id = stage.submit(deadline_seconds=3600).job_id
    stage.lapse()
    stage.change(jobs, where=jobs.c.id == job_id, deadline_at=LONG_AGO)
    assert stage.claim() is None
    assert recovery.end_overdue(stage.database) == 1
    job = stage.job(job_id)
    assert (job.status, job.error_code) == ("failed", "deadline_passed")


def test_a_deadline_does_not_end_a_job_that_is_worked_on(stage: Stage) -> None:
    job_id = stage.submit(deadline_seconds=3600).job_id
    claim = stage.must_claim()
    stage.change(jobs, where=jobs.c.id == job_id, deadline_at=LONG_AGO)
    assert recovery.end_overdue(stage.database) == 0
    assert stage.record(claim) == 1
    assert stage.job(job_id).status == "succeeded"


def test_a_parked_job_is_not_claimed_until_its_pause_is_over(stage: Stage) -> None:
    job_id = stage.submit().job_id
    stage.record(stage.must_claim(), Unread())
    stage.change(jobs, where=jobs.c.id == job_id, not_before=datetime(2100, 1, 1, tzinfo=UTC))
    assert recovery.unpark(stage.database) == 0
    assert stage.claim() is None
    stage.change(jobs, where=jobs.c.id == job_id, not_before=LONG_AGO)
    assert recovery.unpark(stage.database) == 1
    assert [job.id for job in stage.must_claim().jobs] == [job_id]


def test_a_renewed_claim_does_not_lapse(stage: Stage) -> None:
    stage.submit_many(2)
    kept, lost = (stage.must_claim(1, lease_seconds=-1) for _ in range(2))
    renew(stage.database, [kept.token], lease_seconds=60)
    assert list(lapsed_claims(stage.database)) == [lost.token]


def test_renewing_a_claim_that_has_ended_brings_nothing_back(stage: Stage) -> None:
    stage.submit()
    claim = stage.must_claim()
    stage.record(claim)
    renew(stage.database, [claim.token, new_id()], lease_seconds=60)
    renew(stage.database, [], lease_seconds=60)
    assert stage.tokens() == set()


def test_flows_take_turns(stage: Stage) -> None:
    stage.submit_many(100, owner="many")
    stage.submit_many(5, owner="few")
    assert Counter(claimed_one_by_one(stage, 10)) == {"many": 5, "few": 5}


def test_flows_take_turns_after_the_lane_was_empty(stage: Stage) -> None:
    stage.submit_many(20, owner="earlier")
    stage.record(stage.must_claim(20))
    assert stage.claim() is None
    # Fresh images: these have no result yet.
    stage.submit_each(*(f"many {n}" for n in range(30)), owner="many")
    stage.submit_each(*(f"few {n}" for n in range(5)), owner="few")
    assert Counter(claimed_one_by_one(stage, 10)) == {"many": 5, "few": 5}


def test_batches_hold_flows_alike(stage: Stage) -> None:
    stage.submit_many(20, owner="many")
    stage.submit_many(20, owner="another")
    owners = Counter(stage.job(job.id).owner for job in stage.must_claim(8).jobs)
    assert owners == {"many": 4, "another": 4}


def test_a_newcomer_starts_level_with_the_head(stage: Stage) -> None:
    stage.submit_many(40, owner="long here")
    stage.must_claim(20)
    stage.submit_many(20, owner="newcomer")
    owners = Counter(stage.job(job.id).owner for job in stage.must_claim(10).jobs)
    # Neither behind all that waits nor ahead of it for the time it was not there.
    assert set(owners) == {"long here", "newcomer"}
    assert abs(owners["long here"] - owners["newcomer"]) <= 1


@pytest.mark.parametrize("batch_size", [1, 8])
def test_resubmitting_as_jobs_finish_starves_nobody(stage: Stage, batch_size: int) -> None:
    """As many clients as a batch holds, each with one job at a time, beside one with a backlog."""
    rounds = 40 // batch_size
    stage.submit_each(*(f"patient {n}" for n in range(40)), owner="patient")
    eager = [f"eager {n}" for n in range(batch_size)]
    for owner in eager:
        stage.submit(owner, owner=owner)
    turns: Counter[str] = Counter()
    for round_ in range(rounds):
        claim = stage.must_claim(batch_size)
        owners = [stage.job(job.id).owner for job in claim.jobs]
        stage.record(claim)
        turns.update(owners)
        for owner in set(owners) - {"patient"}:
            stage.submit(f"{owner}, {round_}", owner=owner)
    fair = rounds * batch_size // (len(eager) + 1)
    assert turns["patient"] >= fair - 2
    assert min(turns[owner] for owner in eager) >= fair - 2


def test_submits_of_one_flow_at_once_get_a_turn_each(stage: Stage) -> None:
    stage.submit()  # the image is there, so that what follows is only the insert
    ids = in_threads(12, lambda n: stage.submit(owner="flow").job_id)
    assert len({stage.job(job_id).sequence for job_id in ids}) == 12


def test_a_job_below_the_clock_is_claimed_all_the_same(stage: Stage) -> None:
    stage.submit_many(10)
    cursor = LaneCursor()
    stage.must_claim(5, cursor=cursor)
    assert stage.clock() > 0
    late = stage.submit(owner="late").job_id
    stage.change(jobs, where=jobs.c.id == late, sequence=0)
    taken: list[UUID] = []
    for _ in range(4):  # an empty claim is followed by one that looks everywhere
        claim = stage.claim(5, cursor=cursor)
        taken += [job.id for job in claim.jobs] if claim else []
    assert late in taken
    assert len(taken) == 6


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_the_clock_never_goes_back(stage: Stage, limit: int) -> None:
    ids = stage.submit_many(12)
    stage.must_claim(6)
    clocks = [stage.clock()]
    assert clocks[0] > 0
    for job_id in ids[6:8]:
        stage.change(jobs, where=jobs.c.id == job_id, sequence=0)
    while stage.claim(limit):
        clocks.append(stage.clock())
    assert clocks == sorted(clocks)
    assert clocks[-1] == max(job.sequence for job in stage.jobs().values())


def test_a_requeued_job_is_level_with_the_head(stage: Stage) -> None:
    stage.submit_many(20, owner="others")
    lost = stage.submit(owner="lost").job_id
    stage.lapse(limit=2)  # the first job of each flow
    assert stage.job(lost).status == "queued"
    stage.must_claim(10)
    assert stage.job(lost).status == "running"

"""Recovery: lapsed claims, blame, slots, pauses, and versions that are no longer current."""

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from shared import models
from shared.database import new_id
from shared.errors import Unavailable
from shared.jobs import recording, recovery
from shared.jobs.claiming import end_trial, lapses_allowed, note_trial, renew
from shared.jobs.recording import Unread
from shared.jobs.recovery import Recovery
from shared.models import Target
from shared.settings import Settings
from shared.tables import jobs, model_versions, workers
from tests.integration.helpers import MODEL, Stage, in_threads
from tests.services import ROOT, wait_until
from worker import identity

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NEVER = 1e6  # seconds


def make_recovery(stage: Stage, *, recovery_seconds: float, renew_seconds: float) -> Recovery:
    settings = Settings(
        _env_file=None, recovery_seconds=recovery_seconds, renew_seconds=renew_seconds
    )
    return Recovery(stage.database, settings)


def test_jobs_of_a_lapsed_claim_wait_again_as_suspects(stage: Stage) -> None:
    ids = stage.submit_each("a", "b")
    lapsed = stage.must_claim(lease_seconds=-1)
    assert recovery.requeue_lapsed(stage.database) == 2
    for job_id in ids:
        job = stage.job(job_id)
        assert (job.status, job.attempt, job.claim_token) == ("queued", 1, None)
        assert (job.suspect, job.lapses) == (True, 0)
    assert stage.tokens() == set()
    again = stage.must_claim()
    assert again.token != lapsed.token
    assert [(job.id, job.suspect) for job in again.jobs] == [(job_id, True) for job_id in ids]
    assert stage.job(ids[0]).attempt == 2


def test_a_claim_within_its_lease_is_left_alone(stage: Stage) -> None:
    job_id = stage.submit().job_id
    claim = stage.must_claim()
    assert recovery.requeue_lapsed(stage.database) == 0
    assert stage.job(job_id).claim_token == claim.token


def test_a_claim_renewed_at_the_last_moment_stays(stage: Stage) -> None:
    job_id = stage.submit().job_id
    claim = stage.must_claim(lease_seconds=-1)
    renew(stage.database, [claim.token], lease_seconds=60)
    # Another process had seen it lapsed before it was renewed.
    assert recovery.requeue(stage.database, [claim.token]) == 0
    assert stage.job(job_id).claim_token == claim.token
    assert stage.record(claim) == 1


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)  # SQLite locks no rows
def test_what_a_vanished_worker_has_locked_holds_nothing_else_up(stage: Stage) -> None:
    """Cut off in the middle of a transaction, it keeps its locks until the server gives it up."""
    locked, free = stage.submit_each("a", "b")
    stage.must_claim(1, lease_seconds=-1)
    stage.must_claim(1, lease_seconds=-1)
    with stage.database.engine.begin() as vanished:
        vanished.execute(select(jobs).where(jobs.c.id == locked).with_for_update())
        assert recovery.requeue_lapsed(stage.database) == 1
        assert stage.statuses([locked, free]) == ["running", "queued"]
    assert recovery.requeue_lapsed(stage.database) == 1
    assert stage.statuses([locked, free]) == ["queued", "queued"]


def test_two_recoveries_at_once_requeue_each_job_once(stage: Stage) -> None:
    ids = stage.submit_many(12)
    while stage.claim(3, lease_seconds=-1):
        pass
    assert sum(in_threads(3, lambda n: recovery.requeue_lapsed(stage.database))) == len(ids)
    assert stage.statuses(ids) == ["queued"] * 12
    assert stage.tokens() == set()


def test_only_the_job_on_trial_is_blamed(stage: Stage) -> None:
    before, on_trial, after = stage.submit_each("before", "on trial", "after")
    claim = stage.must_claim(lease_seconds=-1)
    assert note_trial(stage.database, claim.token, on_trial)
    recovery.requeue_lapsed(stage.database)
    assert [stage.job(i).lapses for i in (before, on_trial, after)] == [0, 1, 0]
    assert [stage.job(i).suspect for i in (before, on_trial, after)] == [True] * 3


def test_a_trial_that_was_survived_is_not_counted(stage: Stage) -> None:
    tried, other = stage.submit_each("tried", "other")
    claim = stage.must_claim(lease_seconds=-1)
    note_trial(stage.database, claim.token, tried)
    end_trial(stage.database, claim.token)
    recovery.requeue_lapsed(stage.database)
    assert [stage.job(i).lapses for i in (tried, other)] == [0, 0]


def test_what_the_claim_has_lost_is_not_put_on_trial(stage: Stage) -> None:
    job_id = stage.submit().job_id
    claim = stage.must_claim(lease_seconds=-1)
    recovery.requeue_lapsed(stage.database)
    assert not note_trial(stage.database, claim.token, job_id)
    other = stage.must_claim()
    assert not note_trial(stage.database, claim.token, job_id)
    assert not note_trial(stage.database, other.token, new_id())


def test_the_third_lapse_on_trial_is_the_last(stage: Stage) -> None:
    guilty, innocent = stage.submit_each("guilty", "innocent")
    for lapses in (1, 2):
        stage.lapse(trial=True)
        assert (stage.job(guilty).status, stage.job(guilty).lapses) == ("queued", lapses)
    stage.lapse(trial=True)
    job = stage.job(guilty)
    assert (job.status, job.error_code, job.claim_token) == ("failed", "worker_lost", None)
    assert job.finished_at is not None
    assert stage.job(innocent).status == "queued"
    assert stage.tokens() == set()


def test_a_job_whose_trial_was_cut_off_is_left_to_a_process_that_has_served_a_while(
    stage: Stage,
) -> None:
    tried, other = stage.submit_each("tried", "other")
    for lapses in (1, 2):
        assert stage.lapse(trial=True).jobs[0].id == tried
        early = stage.must_claim(most_lapses=lapses - 1)
        assert [job.id for job in early.jobs] == [other]
        assert stage.claim(most_lapses=lapses - 1) is None
        stage.record(early)
        other = stage.submit(f"after lapse {lapses}").job_id
    late = stage.must_claim(most_lapses=2)
    assert [job.id for job in late.jobs] == [tried, other]


@pytest.mark.parametrize(
    ("served", "most"), [(0.0, 0), (1.9, 0), (2.0, 1), (9.9, 1), (10.0, 2), (1e6, 2)]
)
def test_the_longer_a_process_has_served_the_more_lapses_a_job_may_have(
    served: float, most: int
) -> None:
    assert lapses_allowed(served, calm_seconds=2) == most


def test_lapses_off_trial_never_fail_a_job(stage: Stage) -> None:
    job_id = stage.submit().job_id
    for _ in range(5):
        stage.lapse()
    assert (stage.job(job_id).status, stage.job(job_id).lapses) == ("queued", 0)


def test_a_fresh_process_takes_nothing_from_others(stage: Stage) -> None:
    job_id = stage.submit().job_id
    stage.must_claim(lease_seconds=-1)
    fresh = make_recovery(stage, recovery_seconds=NEVER, renew_seconds=NEVER)
    for _ in range(3):
        fresh.step()
    assert stage.job(job_id).status == "running"


def test_the_other_steps_of_a_fresh_process_go_on(stage: Stage) -> None:
    overdue = stage.submit(deadline_seconds=3600).job_id
    stage.change(jobs, where=jobs.c.id == overdue, deadline_at=LONG_AGO)
    make_recovery(stage, recovery_seconds=NEVER, renew_seconds=NEVER).step()
    assert stage.job(overdue).status == "expired"


def test_after_two_renewal_intervals_lapsed_claims_are_taken(stage: Stage) -> None:
    job_id = stage.submit().job_id
    stage.must_claim(lease_seconds=-1)
    process = make_recovery(stage, recovery_seconds=NEVER, renew_seconds=0.001)
    process.step()
    assert stage.job(job_id).status == "running"

    def taken() -> bool:
        process.step()
        return bool(stage.job(job_id).status == "queued")

    wait_until(taken, seconds=30, what="requeue by a process no longer fresh")


def test_a_process_that_was_away_takes_nothing_at_first(stage: Stage) -> None:
    process = make_recovery(stage, recovery_seconds=0.01, renew_seconds=0.001)
    first = stage.submit().job_id
    stage.must_claim(lease_seconds=-1)

    def taken() -> bool:
        process.step()
        return bool(stage.job(first).status == "queued")

    wait_until(taken, seconds=30, what="requeue by a process no longer fresh")
    stage.must_claim(lease_seconds=-1)  # its owner could not renew: the database was away
    time.sleep(1.5)  # more than two recovery intervals, and the second of grace beside them
    process.step()
    assert stage.job(first).status == "running"
    wait_until(taken, seconds=30, what="requeue by a process back for a while")


def test_a_slow_round_is_no_absence(stage: Stage) -> None:
    process = make_recovery(stage, recovery_seconds=0.01, renew_seconds=1.5)
    job_id = stage.submit().job_id
    stage.must_claim(lease_seconds=-1)

    def trusted() -> bool:
        process.step()
        return process.may_take_from_others()

    wait_until(trusted, seconds=30, what="a process no longer fresh")
    process.step()
    stage.must_claim(lease_seconds=-1)
    time.sleep(1.2)  # more than two intervals and a second, and less than owners take to renew
    process.step()
    assert stage.job(job_id).status == "queued"


def make_identity(slot: str = "slot:1") -> identity.Identity:
    return identity.Identity(new_id(), slot, lock=-1)


def test_what_a_database_says_that_was_away_meanwhile_is_not_believed(stage: Stage) -> None:
    """Leases that lapsed while it hung could not be renewed; their owners are there."""
    job_id = stage.submit().job_id
    claim = stage.must_claim(lease_seconds=-1)
    with pytest.raises(Unavailable):
        recovery.requeue_lapsed(stage.database, within_seconds=0)  # any answer takes longer
    assert stage.job(job_id).claim_token == claim.token
    assert recovery.requeue_lapsed(stage.database, within_seconds=60) == 1


def test_the_successor_in_a_slot_takes_over_at_once(stage: Stage, tmp_path: Path) -> None:
    mine, theirs = stage.submit_each("mine", "theirs")
    ended, neighbour = make_identity("slot:1"), make_identity("slot:2")
    for who in (ended, neighbour):
        assert identity.register(stage.database, who, device="cpu", max_batch=8) == 0
    stage.must_claim(1, worker=ended.id)
    kept = stage.must_claim(1, worker=neighbour.id)
    successor = make_identity("slot:1")
    assert identity.register(stage.database, successor, device="cpu", max_batch=8) == 1
    assert (stage.job(mine).status, stage.job(mine).suspect) == ("queued", True)
    assert stage.job(theirs).claim_token == kept.token
    with stage.database.read() as connection:
        assert set(connection.scalars(select(workers.c.id))) == {successor.id, neighbour.id}


def test_a_successor_counts_the_trial_that_ended_the_process(stage: Stage) -> None:
    job_id = stage.submit().job_id
    ended = make_identity()
    identity.register(stage.database, ended, device="cpu", max_batch=8)
    claim = stage.must_claim(worker=ended.id)
    note_trial(stage.database, claim.token, job_id)
    identity.register(stage.database, make_identity(), device="cpu", max_batch=8)
    assert stage.job(job_id).lapses == 1


def test_a_process_that_leaves_is_no_longer_listed(stage: Stage) -> None:
    who = make_identity()
    identity.register(stage.database, who, device="cpu", max_batch=8)
    identity.report(
        stage.database, who, versions=[stage.version_id], images_per_second=2.5, trouble=None
    )
    with stage.database.read() as connection:
        row = connection.execute(select(workers)).one()
    assert (row.versions, row.images_per_second) == ([stage.version_id], 2.5)
    identity.leave(stage.database, who)
    with stage.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(workers)) == 0


def test_a_process_that_leaves_keeps_nothing(stage: Stage) -> None:
    """A batch that could not be given back while the database was away, and now it is there."""
    ids = stage.submit_each("a", "b")
    who, neighbour = make_identity("slot:1"), make_identity("slot:2")
    for one in (who, neighbour):
        identity.register(stage.database, one, device="cpu", max_batch=8)
    stage.must_claim(1, worker=who.id)
    kept = stage.must_claim(1, worker=neighbour.id)
    identity.leave(stage.database, who)
    job = stage.job(ids[0])
    assert (job.status, job.attempt, job.suspect) == ("queued", 0, False)
    assert stage.job(ids[1]).claim_token == kept.token
    assert stage.tokens() == {kept.token}


_HOLD_A_SLOT = """
import sys, pathlib
from worker.identity import take_slot
print(take_slot(pathlib.Path(sys.argv[1])).slot, flush=True)
sys.stdin.read()
"""


def test_a_slot_is_free_again_when_its_process_has_ended_and_not_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLD_A_SLOT, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        theirs = process.stdout.readline().strip()
        ours = identity.take_slot(tmp_path)
        process.kill()
        process.wait()
    successor = identity.take_slot(tmp_path)
    assert theirs
    assert ours.slot != theirs
    assert successor.slot == theirs
    assert len({ours.id, successor.id}) == 2


def test_slots_of_two_data_directories_are_never_the_same(tmp_path: Path) -> None:
    first, second = (identity.take_slot(tmp_path / name) for name in ("a", "b"))
    assert first.slot != second.slot


def test_an_unparked_job_is_level_with_the_clock_at_least(stage: Stage) -> None:
    parked = stage.submit("parked", owner="parked").job_id
    stage.record(stage.must_claim(), Unread())
    stage.submit_each(*(f"other {n}" for n in range(12)), owner="other")
    stage.record(stage.must_claim(10))
    stage.pause_over()
    assert stage.job(parked).not_before is None
    assert stage.job(parked).sequence >= stage.clock()
    # Behind nothing but the head: the next claim has it, although others wait.
    assert parked in {job.id for job in stage.must_claim(2).jobs}


def test_unpinned_jobs_move_to_the_current_version_in_order(stage: Stage) -> None:
    ids = stage.submit_many(5)
    pinned = stage.submit(target=Target(stage.version_id, pinned=True)).job_id
    bulk = stage.submit(lane="bulk").job_id
    current = stage.install()
    ahead = stage.submit(target=Target(current, pinned=False)).job_id
    assert recovery.move_to_current(stage.database) == 6
    assert recovery.move_to_current(stage.database) == 0
    assert [job.id for job in stage.must_claim(version_id=current).jobs] == [ahead, *ids]
    assert [job.id for job in stage.must_claim(version_id=current, lane="bulk").jobs] == [bulk]
    assert [job.id for job in stage.must_claim().jobs] == [pinned]


def test_many_jobs_move_in_several_rounds(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_MOVE_ROWS", 2)
    stage.submit_many(23)
    current = stage.install()
    assert [recovery.move_to_current(stage.database) for _ in range(3)] == [20, 3, 0]
    assert len(stage.must_claim(8, version_id=current).jobs) == 8


def test_moved_flows_still_take_turns(stage: Stage) -> None:
    stage.submit_many(12, owner="many")
    stage.submit_many(3, owner="few")
    current = stage.install()
    recovery.move_to_current(stage.database)
    first = stage.must_claim(6, version_id=current)
    owners = [stage.job(job.id).owner for job in first.jobs]
    assert sorted(owners) == ["few"] * 3 + ["many"] * 3


def test_requeued_jobs_keep_their_order_when_they_move(stage: Stage) -> None:
    ids = stage.submit_many(12)
    claim = stage.must_claim()
    # One after the other and the last first, as their rows then lie in the table.
    for job_id in reversed(ids):
        recording.give_back(stage.database, claim, [job_id])
    current = stage.install()
    recovery.move_to_current(stage.database)
    assert [job.id for job in stage.must_claim(version_id=current).jobs] == ids


def test_running_and_parked_jobs_of_an_older_version(stage: Stage) -> None:
    parked = stage.submit("parked").job_id
    stage.record(stage.must_claim(), Unread())
    running = stage.submit("running").job_id
    claim = stage.must_claim()
    current = stage.install()
    recovery.move_to_current(stage.database)
    assert stage.job(parked).model_version == current
    assert stage.claim(version_id=current) is None  # moved, and parked still
    assert stage.job(running).model_version == stage.version_id
    assert stage.record(claim) == 1
    assert stage.result("running") is not None


def test_jobs_that_waited_for_a_download_move_to_what_was_downloaded(stage: Stage) -> None:
    token = new_id()

    def download(connection: object) -> Target:
        models.register(connection, "vgg16")  # type: ignore[arg-type]
        models.begin_download(connection, "vgg16", token, 60)  # type: ignore[arg-type]
        return models.resolve(connection, "vgg16")  # type: ignore[arg-type]

    target = stage.database.transact(download)
    ids = stage.submit_many(3, target=target)
    assert recovery.move_to_current(stage.database) == 0
    installed = stage.install("0" * 12, name="vgg16")
    assert recovery.move_to_current(stage.database) == 3
    assert [job.id for job in stage.must_claim(version_id=installed).jobs] == ids


def remove(stage: Stage, version_id: int) -> None:
    stage.change(model_versions, where=model_versions.c.id == version_id, removed_at=LONG_AGO)


def test_a_removed_version_fails_what_only_it_may_answer(stage: Stage) -> None:
    pinned = stage.submit("pinned", target=Target(stage.version_id, pinned=True)).job_id
    unpinned = stage.submit("unpinned").job_id
    current = stage.install()
    other = stage.submit("other", target=Target(current, pinned=True)).job_id
    assert recovery.end_removed(stage.database) == 0
    remove(stage, stage.version_id)
    assert recovery.end_removed(stage.database) == 1
    assert stage.statuses([pinned, unpinned, other]) == ["failed", "queued", "queued"]
    assert stage.job(pinned).error_code == "model_unavailable"
    recovery.move_to_current(stage.database)
    assert stage.job(unpinned).model_version == current


def test_a_model_without_any_version_fails_its_jobs(stage: Stage) -> None:
    job_id = stage.submit().job_id
    remove(stage, stage.version_id)
    stage.change(models.models, where=models.models.c.name == MODEL, current_version=None)
    assert recovery.end_removed(stage.database) == 1
    assert (stage.job(job_id).status, stage.job(job_id).error_code) == (
        "failed",
        "model_unavailable",
    )


def serve(stage: Stage, tmp_path: Path, version_id: int) -> identity.Identity:
    """A worker that says it lives and serves the version."""
    who = identity.take_slot(tmp_path)
    identity.register(stage.database, who, device="cpu", max_batch=8)
    identity.report(
        stage.database, who, versions=[version_id], images_per_second=None, trouble=None
    )
    return who


def test_jobs_of_a_version_that_nobody_serves_may_be_ended(stage: Stage, tmp_path: Path) -> None:
    old = stage.submit("old").job_id
    old_bulk = stage.submit("bulk", lane="bulk").job_id
    stage.change(jobs, where=jobs.c.id.in_([old, old_bulk]), created_at=LONG_AGO)
    young = stage.submit("young").job_id
    who = serve(stage, tmp_path, stage.version_id)
    assert recovery.end_unserved(stage.database, hours=24) == 0
    identity.leave(stage.database, who)
    assert recovery.end_unserved(stage.database, hours=24) == 2
    assert stage.statuses([old, old_bulk, young]) == ["failed", "failed", "queued"]
    assert stage.job(old).error_code == "model_unavailable"


def test_by_default_jobs_wait_for_a_worker_for_ever(stage: Stage) -> None:
    old = stage.submit("old").job_id
    stage.change(jobs, where=jobs.c.id == old, created_at=LONG_AGO)
    make_recovery(stage, recovery_seconds=2, renew_seconds=15).step()
    assert stage.job(old).status == "queued"


def test_only_lanes_with_something_to_claim_are_woken(stage: Stage) -> None:
    assert recovery.waiting_lanes(stage.database, [stage.version_id]) == set()
    stage.submit("parked")
    stage.record(stage.must_claim(), Unread())
    stage.submit("bulk", lane="bulk")
    assert recovery.waiting_lanes(stage.database, [stage.version_id]) == {"bulk"}
    stage.pause_over()
    assert recovery.waiting_lanes(stage.database, [stage.version_id]) == {"bulk", "interactive"}
    assert recovery.waiting_lanes(stage.database, []) == set()
    assert recovery.waiting_lanes(stage.database, [stage.install()]) == set()

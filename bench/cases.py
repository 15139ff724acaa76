"""What `bench.queue` measures: each case does one thing once, and leaves the queue as it was."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from bench.filling import FLOWS, LANE, FilledQueue
from shared.errors import ObjectMissing
from shared.jobs import depth, intake, queries, recording, recovery, statistics, transitions
from shared.jobs.claiming import Claim, Claimant, claim_batch
from shared.jobs.intake import Caller, JobOptions, NewImage
from shared.jobs.recording import Outcome
from shared.models import Target
from shared.settings import Settings
from shared.storage.protocol import StoredObject
from shared.sweep import Sweep

_PREDICTIONS = [(str(k), f"label {k}", 1 / (k + 1)) for k in range(10)]


class Stopwatch:
    """Only what happens within counts."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Count the time spent within."""
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


@dataclass(frozen=True)
class Case:
    """One thing to measure, or (a sweep walks through all images, in turns) only to explain."""

    name: str
    run: Callable[[FilledQueue, Stopwatch], None]
    timed: bool = True


class NoStorage:
    """A storage that costs nothing: only the database is measured."""

    def begin(self, *, is_new: bool) -> None:
        """Nothing has to be made ready."""

    def write(self, name: str, data: bytes) -> None:
        """Keep nothing."""

    def write_file(self, name: str, path: Path) -> None:
        """Keep nothing."""

    def read(self, name: str) -> bytes:
        """There is nothing."""
        raise ObjectMissing(name)

    def fetch_directory(self, prefix: str, cache: Path) -> Path:
        """There is nothing."""
        raise ObjectMissing(prefix)

    def delete(self, *names: str) -> None:
        """It is gone already."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """There is nothing."""
        return iter(())

    def check(self) -> None:
        """It takes everything."""


@dataclass
class Cases:
    """The cases, with what they remember of each queue between two rounds."""

    _ids: dict[tuple[int, str], list[UUID]] = field(default_factory=dict)
    _last: dict[int, UUID] = field(default_factory=dict)
    _recoveries: dict[int, recovery.Recovery] = field(default_factory=dict)

    def all(self) -> list[Case]:
        """In the order in which they are measured: the claims come last, since they use up jobs."""
        return [
            Case("poll, a queued job", lambda q, w: self._poll(q, w, "queued")),
            Case("poll, a succeeded job", lambda q, w: self._poll(q, w, "succeeded")),
            Case("poll, 8 jobs waited for", self._wait),
            Case("position of the last job", self._position),
            Case("status, a minute of the last hour", _minute),
            Case("status, what waits", _depth),
            Case("what waits, for the limits of a submit", _backlog),
            Case("recovery with nothing to do", self._recovery),
            Case("recovery that mends 15 jobs", self._recovery_with_work),
            Case("waiting lanes", self._waiting_lanes),
            Case("submit, a new image", lambda q, w: _submit(q, w, known=False)),
            Case("submit, a known result", lambda q, w: _submit(q, w, known=True)),
            Case("cancel a queued job", _cancel),
            Case("claim 8, from the clock", _claim(8, from_clock=True)),
            Case("claim 8, from the head", _claim(8, from_clock=False)),
            Case("claim 8, or none if fewer wait", _claim(8, from_clock=True, only_full=True)),
            Case("claim 64, from the clock", _claim(64, from_clock=True)),
            Case("claim 64, from the head", _claim(64, from_clock=False)),
            Case("record 8", _record(8)),
            Case("record 64", _record(64)),
            Case("give back 8", _give_back),
            Case("sweep that finds nothing", _sweep, timed=False),
        ]

    def _some(self, queue: FilledQueue, status: str) -> list[UUID]:
        key = (queue.rows, status)
        if key not in self._ids:
            self._ids[key] = queue.ids(status)
        return self._ids[key]

    def _poll(self, queue: FilledQueue, watch: Stopwatch, status: str) -> None:
        job_id = random.choice(self._some(queue, status))
        owner = _owner_of(queue, job_id)
        with watch(), queue.database.read() as connection:
            row = queries.find(connection, owner, job_id)
        assert row is not None

    def _wait(self, queue: FilledQueue, watch: Stopwatch) -> None:
        ids = random.sample(self._some(queue, "queued"), 8)
        with watch(), queue.database.read() as connection:
            queries.finished(connection, ids)

    def _position(self, queue: FilledQueue, watch: Stopwatch) -> None:
        if queue.rows not in self._last:
            self._last[queue.rows] = queue.last_id()
        job_id = self._last[queue.rows]
        owner = _owner_of(queue, job_id)
        with queue.database.read() as connection:
            row = queries.find(connection, owner, job_id)
            assert row is not None
            with watch():
                queries.position(connection, row)

    def _recovery(self, queue: FilledQueue, watch: Stopwatch) -> None:
        with watch():
            self._recovery_of(queue).step()

    def _recovery_with_work(self, queue: FilledQueue, watch: Stopwatch) -> None:
        queue.disturb()
        _take(queue, 3, from_clock=True, lease_seconds=-1)
        with watch():
            self._recovery_of(queue).step()
        queue.top_up(6)  # for those that ended

    def _recovery_of(self, queue: FilledQueue) -> recovery.Recovery:
        if queue.rows not in self._recoveries:
            # So short a renewal that the second step takes from others, as after half a minute.
            made = recovery.Recovery(queue.database, Settings(renew_seconds=1e-6))
            made.step()
            self._recoveries[queue.rows] = made
        return self._recoveries[queue.rows]

    def _waiting_lanes(self, queue: FilledQueue, watch: Stopwatch) -> None:
        with watch():
            found = recovery.waiting_lanes(queue.database, [queue.version_id])
        assert found == {LANE}


def _owner_of(queue: FilledQueue, job_id: UUID) -> str:
    return queue.own_scalar("SELECT owner FROM jobs WHERE id = %s", job_id)


def _minute(queue: FilledQueue, watch: Stopwatch) -> None:
    failed_at = queue.own_scalar("SELECT max(finished_at) FROM jobs WHERE status = 'failed'")
    with queue.database.read() as connection, watch():
        minute = statistics.read_minute(
            connection, datetime.fromisoformat(failed_at) - timedelta(seconds=30)
        )
    assert minute.failures


def _depth(queue: FilledQueue, watch: Stopwatch) -> None:
    with watch(), queue.database.read() as connection:
        assert depth.read_waiting(connection)
        depth.count_parked(connection)
        depth.count_running(connection)


def _backlog(queue: FilledQueue, watch: Stopwatch) -> None:
    with watch(), queue.database.read() as connection:
        assert depth.count_by_owner(connection, most=10_000)


def _submit(queue: FilledQueue, watch: Stopwatch, *, known: bool) -> None:
    # The image of item i is the digest of the number i.
    data = str(random.randint(1, queue.history)).encode() if known else uuid4().bytes
    owner = f"owner-{random.randrange(FLOWS)}"
    caller = Caller(owner, request_id=str(uuid4()), idempotency_key=str(uuid4()))
    with watch():
        accepted = intake.submit(
            queue.database,
            NoStorage(),
            NewImage(data, "image/png", 8, 8),
            "photo.png",
            JobOptions("digits"),
            Target(queue.version_id, pinned=False),
            caller,
        )
    assert accepted.queued is not known
    queue.database.transact(
        lambda connection: queries.delete_job(connection, owner, accepted.job_id)
    )


def _cancel(queue: FilledQueue, watch: Stopwatch) -> None:
    job_id = queue.last_id()
    with watch():
        done = queue.database.transact(lambda connection: transitions.cancel(connection, job_id))
    assert done
    queue.top_up(1)


def _take(
    queue: FilledQueue,
    limit: int,
    *,
    from_clock: bool,
    only_full: bool = False,
    lease_seconds: float = 60,
) -> Claim:
    queue.cursor.short = not from_clock
    queue.cursor.looked_below_at = time.monotonic()
    claim = claim_batch(
        queue.database,
        queue.cursor,
        version_id=queue.version_id,
        lane=LANE,
        limit=limit,
        claimant=Claimant(queue.worker, lease_seconds),
        only_full=only_full,
    )
    assert claim is not None
    assert len(claim.jobs) == limit
    return claim


def _finish(queue: FilledQueue, claim: Claim) -> None:
    recorded = recording.record(
        queue.database,
        claim,
        [Outcome(job.id, job.image, _PREDICTIONS) for job in claim.jobs],
        decode_ms=1.5,
        inference_ms=20,
        unreachable_hours=24,
    )
    assert recorded == len(claim.jobs)


def _claim(
    limit: int, *, from_clock: bool, only_full: bool = False
) -> Callable[[FilledQueue, Stopwatch], None]:
    def run(queue: FilledQueue, watch: Stopwatch) -> None:
        with watch():
            claim = _take(queue, limit, from_clock=from_clock, only_full=only_full)
        _finish(queue, claim)
        queue.top_up(limit)

    return run


def _record(limit: int) -> Callable[[FilledQueue, Stopwatch], None]:
    def run(queue: FilledQueue, watch: Stopwatch) -> None:
        claim = _take(queue, limit, from_clock=True)
        with watch():
            _finish(queue, claim)
        queue.top_up(limit)

    return run


def _give_back(queue: FilledQueue, watch: Stopwatch) -> None:
    claim = _take(queue, 8, from_clock=True)
    with watch():
        recording.give_back(queue.database, claim, [job.id for job in claim.jobs])


def _sweep(queue: FilledQueue, watch: Stopwatch) -> None:
    with watch():
        Sweep(queue.database, NoStorage(), Settings()).step()

"""A worker process: the calls of `worker/` in their order, with a pure function for a model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from sqlalchemy import select

from shared.errors import ObjectMissing, Unavailable
from shared.jobs import recording
from shared.jobs.claiming import (
    Claim,
    Claimant,
    ClaimedJob,
    LaneCursor,
    claim_batch,
    end_trial,
    lapses_allowed,
    note_trial,
    renew,
)
from shared.jobs.recording import Failure, Outcome, Result, Unread
from shared.jobs.recovery import Recovery, waiting_lanes
from shared.tables import model_versions
from tests.simulation.pictures import decoded, predict
from tests.simulation.stage import Actor, Process
from worker.identity import Identity, register, report

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

_READABLE_SECONDS = 3600.0


@dataclass
class Worker(Process):
    """What the threads of one worker process have in common."""

    world: "World" = field(kw_only=True)
    slot: str = field(kw_only=True)
    lanes: Sequence[str] = field(kw_only=True)
    id: UUID = field(kw_only=True)
    ready: bool = False
    began_at: float = 0.0
    versions: list[int] = field(default_factory=list)
    tokens: dict[int, UUID] = field(default_factory=dict)  # by loop
    loops: dict[str, list[Actor]] = field(default_factory=dict)  # by lane
    batches: int = 0
    trial: bool = False
    read_at: float = float("-inf")

    def start(self) -> None:
        """Begin as a process does."""
        enter = self.world.stage.enter
        enter(f"{self.name} leases", self, self._main).weight = 0.7
        enter(f"{self.name} recovery", self, self._recover).weight = 0.7
        for number, lane in enumerate(self.lanes):
            loop = Loop(self, number, lane)
            actor = enter(f"{self.name} {lane}-{number}", self, loop.run)
            actor.weight = 3.0
            self.loops.setdefault(lane, []).append(actor)

    def _main(self) -> None:
        world, identity = self.world, Identity(self.id, self.slot, -1)
        self._enter(identity)
        self.ready, self.began_at = True, world.clock.seconds
        while True:
            world.stage.sleep(world.settings.renew_seconds)
            tokens = list(self.tokens.values())
            try:
                renew(world.database, tokens, lease_seconds=world.settings.lease_seconds)
                report(
                    world.database,
                    identity,
                    versions=self.versions,
                    images_per_second=None,
                    trouble=None,
                )
            except Unavailable:
                continue

    def _enter(self, identity: Identity) -> None:
        try:
            register(self.world.database, identity, device="cpu", max_batch=8)
        except Unavailable:
            self.world.stage.die()  # a process that cannot begin ends, and is started again

    def _recover(self) -> None:
        world = self.world
        recovery = Recovery(world.database, world.settings)
        world.stage.wait(lambda: self.ready)
        while True:
            try:
                recovery.step()
                self._look_for_versions()
                for lane in waiting_lanes(world.database, self.versions):
                    world.wake(self, lane)
            except Unavailable:
                pass
            world.stage.sleep(world.settings.recovery_seconds)

    def _look_for_versions(self) -> None:
        installed = model_versions.c.version.is_not(None), model_versions.c.removed_at.is_(None)
        with self.world.database.read() as connection:
            self.versions = list(
                connection.scalars(
                    select(model_versions.c.id).where(*installed).order_by(model_versions.c.id)
                )
            )

    @contextmanager
    def batch_gate(self) -> Iterator[None]:
        """As `worker.trials.TrialGate`: ordinary batches together."""
        self.world.stage.wait(lambda: not self.trial)
        self.batches += 1
        try:
            yield
        finally:
            self.batches -= 1

    @contextmanager
    def trial_gate(self) -> Iterator[None]:
        """A trial alone."""
        self.world.stage.wait(lambda: not self.trial)
        self.trial = True
        self.world.stage.wait(lambda: not self.batches)
        try:
            yield
        finally:
            self.trial = False


@dataclass
class Loop:
    """As `worker.loops.Loop` and `worker.pipeline.Pipeline`."""

    worker: Worker
    number: int
    lane: str
    cursors: dict[int, LaneCursor] = field(default_factory=dict)

    def run(self) -> None:
        """Claim and work, for as long as the process lives."""
        world, worker = self.worker.world, self.worker
        world.stage.wait(lambda: worker.ready and bool(worker.versions))
        while True:
            try:
                claim = self._claim()
            except Unavailable:
                claim = None
            if claim is None:
                world.stage.sleep(world.dice.uniform(1.0, world.scenario.idle_seconds))
                continue
            worker.tokens[self.number] = claim.token
            try:
                self._work(claim)
            finally:
                del worker.tokens[self.number]

    def _claim(self) -> Claim | None:
        worker, world = self.worker, self.worker.world
        only_full = bool(worker.tokens) and world.dice.random() < 0.3
        versions = list(worker.versions)
        world.dice.shuffle(versions)
        for version_id in versions:
            claim = claim_batch(
                world.database,
                self.cursors.setdefault(version_id, LaneCursor()),
                version_id=version_id,
                lane=self.lane,
                limit=world.scenario.batch,
                claimant=Claimant(
                    worker.id,
                    world.settings.lease_seconds,
                    lapses_allowed(
                        world.clock.seconds - worker.began_at, world.settings.trial_calm_seconds
                    ),
                ),
                only_full=only_full,
            )
            if claim is not None:
                return claim
        return None

    def _work(self, claim: Claim) -> None:
        ordinary = [job for job in claim.jobs if not job.suspect]
        if ordinary:
            with self.worker.batch_gate():
                self._batch(claim, ordinary)
        for suspect in sorted((j for j in claim.jobs if j.suspect), key=lambda j: j.lapses):
            self._trial(claim, suspect)

    def _trial(self, claim: Claim, job: ClaimedJob) -> None:
        world = self.worker.world
        with self.worker.trial_gate():
            if not persist(world, lambda: note_trial(world.database, claim.token, job.id)):
                return
            self._batch(claim, [job])
            persist(world, lambda: end_trial(world.database, claim.token))

    def _batch(self, claim: Claim, jobs: Sequence[ClaimedJob]) -> None:
        world = self.worker.world
        if world.dice.random() < world.scenario.give_back_rate:
            ids = [job.id for job in jobs]
            persist(world, lambda: recording.give_back(world.database, claim, ids))
            return
        fetched = {job.image: self._fetch(job.image, job.object) for job in jobs}
        results = self._pass(claim, fetched)
        outcomes = [Outcome(job.id, job.image, results[job.image]) for job in jobs]
        persist(
            world,
            lambda: recording.record(
                world.database,
                claim,
                outcomes,
                decode_ms=1.0,
                inference_ms=2.0,
                unreachable_hours=self._hours_until_unreachable(),
            ),
        )

    def _fetch(self, image: str, name: str | None) -> bytes | Failure | Unread:
        world = self.worker.world
        try:
            if name is None:
                raise ObjectMissing(image)
            data = world.storage.read(name)
        except ObjectMissing:
            if name is not None:
                persist(world, lambda: recording.forget_object(world.database, image, name))
            return Failure("image_missing", "The stored image is gone.")
        except Unavailable:
            return Unread()
        self.worker.read_at = world.clock.seconds
        return data

    def _pass(
        self, claim: Claim, fetched: dict[str, bytes | Failure | Unread]
    ) -> dict[str, Result | Failure | Unread]:
        world = self.worker.world
        results: dict[str, Result | Failure | Unread] = {}
        for image, data in fetched.items():
            if not isinstance(data, bytes):
                results[image] = data
                continue
            picture = decoded(data)
            if picture.poisonous:
                world.stage.die()
            if picture.broken:
                results[image] = Failure("image_unreadable", "It is broken.")
        unknown = [image for image in fetched if image not in results]
        try:
            known = recording.known_results(world.database, claim.version_id, unknown)
        except Unavailable:
            known = {}
        world.stage.point("pass")
        return results | {
            image: known.get(image) or predict(image, claim.version_id) for image in unknown
        }

    def _hours_until_unreachable(self) -> float:
        readable = self.worker.world.clock.seconds - self.worker.read_at < _READABLE_SECONDS
        return self.worker.world.settings.unreachable_hours if readable else float("inf")


def persist(world: "World", write: Callable[[], T]) -> T:
    """Write, however long the database is away."""
    while True:
        try:
            return write()
        except Unavailable:
            world.stage.sleep(1.0)

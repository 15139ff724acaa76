"""Clients: the calls of web in their order, and a record of every answer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import Connection

from shared.errors import ProblemError, Unavailable
from shared.jobs import intake, queries, transitions
from shared.jobs.intake import Caller, JobOptions
from shared.models import resolve
from shared.tables import TERMINAL
from tests.simulation.ingesting import Ingesting
from tests.simulation.ledger import Told, Violation
from tests.simulation.pictures import Picture, predict

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass
class Client:
    """One client of one owner, request after request."""

    world: "World"
    owner: str

    def run(self) -> None:
        """Make requests."""
        world = self.world
        while True:
            world.stage.sleep(world.dice.expovariate(1 / world.scenario.think_seconds))
            if not world.chaos:
                continue
            act, weights = zip(*world.scenario.acts.items(), strict=True)
            try:
                self._act(world.dice.choices(act, weights)[0])
            except Unavailable:
                continue  # 503: nothing was promised

    def _act(self, name: str) -> None:
        ingesting = Ingesting(self.world, self.owner)
        {
            "submit": self._submit,
            "poll": self._poll,
            "cancel": self._cancel,
            "delete": self._delete,
            "ingest": ingesting.submit,
            "cancel ingestion": ingesting.cancel,
            "retry": ingesting.retry,
            "delete ingestion": ingesting.delete,
        }[name]()

    def _submit(self) -> None:
        world, dice = self.world, self.world.dice
        picture: Picture = dice.choice(world.pictures)
        key = dice.choice(world.scenario.keys) if dice.random() < 0.4 else None
        # What a key stands for is mostly the same request again.
        chosen = world.pictures[int(key[1:]) % len(world.pictures)] if key else picture
        image = picture if key and dice.random() < 0.1 else chosen
        options = JobOptions(
            dice.choice(world.scenario.named_models),
            lane=dice.choice(("interactive", "interactive", "bulk")) if key is None else "bulk",
            deadline_seconds=dice.choice((None, None, 5.0, 60.0)) if key is None else None,
        )
        begun_at = world.clock.seconds
        caller = Caller(self.owner, idempotency_key=key)
        try:
            job_id = self._accept(image, options, caller)
        except ProblemError as error:
            self._refused(error, key)
            return
        if key is not None:
            world.ledger.keyed(self.owner, key, job_id, begun_at=begun_at, now=world.clock.seconds)
        world.ledger.accepted(world.ledger.jobs, job_id, self.owner, image.sha256)
        world.stage.note(f"{self.owner} was given {job_id}")
        world.stage.changed = True

    def _accept(self, image: Picture, options: JobOptions, caller: Caller) -> UUID:
        """As `web.submission.accept`."""
        world = self.world
        with world.database.read() as connection:
            if caller.idempotency_key is not None:
                known = intake.replayed(connection, caller, image.sha256, options)
                if known is not None:
                    return known
            target = resolve(connection, options.model)
        accepted = intake.submit(
            world.database, world.storage, image.new, None, options, target, caller
        )
        if accepted.queued:
            world.ring(options.lane)
        return accepted.job_id

    def _refused(self, error: ProblemError, key: str | None) -> None:
        """Some refusals are due, and no others."""
        due = {"model_unavailable", "model_unknown", "service_unavailable"}
        if key is not None:
            due |= {"idempotency_mismatch"}
            known = self.world.ledger.keys.get((self.owner, key))
            told = self.world.ledger.jobs.get(known.made) if known is not None else None
            # Of a job that this client was never told of, too.
            if told is None or told.may_be_gone:
                due |= {"idempotency_gone"}
        if error.code not in due:
            raise Violation(f"{self.owner} was refused with {error.code}: {error}") from error

    def _some_job(self) -> tuple[UUID, Told] | None:
        own = [
            (id_, told) for id_, told in self.world.ledger.jobs.items() if told.owner == self.owner
        ]
        return self.world.dice.choice(own[-12:]) if own else None

    def _poll(self) -> None:
        chosen = self._some_job()
        if chosen is None:
            return
        job_id, told = chosen
        was_gone = told.is_gone
        with self.world.database.read() as connection:
            row = queries.find(connection, self.owner, job_id)
        if row is None:
            if not told.may_be_gone:
                raise Violation(f"{job_id} is not found, and nobody deleted it")
            return
        if was_gone:
            raise Violation(f"{job_id} was deleted, and is found")
        if row.status == "succeeded":
            right = predict(row.image, row.model_version)
            if [tuple(prediction) for prediction in row.predictions or []] != right:
                raise Violation(f"{job_id} is answered with {row.predictions}, not {right}")
        if row.status in TERMINAL and row.finished_at is None:
            raise Violation(f"{job_id} is {row.status}, and has no time")

    def _cancel(self) -> None:
        chosen = self._some_job()
        if chosen is None:
            return
        job_id, told = chosen
        self.world.database.transact(lambda connection: transitions.cancel(connection, job_id))
        with self.world.database.read() as connection:
            row = queries.find(connection, self.owner, job_id)
        if row is not None and row.status not in TERMINAL:
            raise Violation(f"{job_id} was cancelled, and is {row.status}")
        if row is None and not told.may_be_gone:
            raise Violation(f"{job_id} is not found, and nobody deleted it")

    def _delete(self) -> None:
        chosen = self._some_job()
        if chosen is None:
            return
        job_id, told = chosen
        told.may_be_gone = True

        def remove(connection: Connection) -> bool:
            return queries.delete_job(connection, self.owner, job_id)

        self.world.database.transact(remove)
        told.is_gone = True  # now, or before: 204 or 404
        self.world.stage.note(f"{self.owner} has deleted {job_id}")
        self.world.stage.changed = True

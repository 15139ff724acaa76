"""What clients do with ingestions: the calls of `web.ingesting` and `web.ingestions`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from shared.errors import ProblemError
from shared.ingestions import intake, retrying, transitions
from shared.ingestions.intake import IngestionOptions, NewSource
from shared.jobs.intake import Caller
from shared.models import resolve
from tests.simulation.ledger import Told, Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

_SUBMIT_REFUSALS = {"model_unavailable", "model_unknown", "service_unavailable"}


@dataclass
class Ingesting:
    """The ingestions of one owner."""

    world: "World"
    owner: str

    def submit(self) -> None:
        """Hand a source in, perhaps with a key."""
        world, dice = self.world, self.world.dice
        key = dice.choice(world.scenario.keys) + "-ingestion" if dice.random() < 0.3 else None
        names = sorted(world.sources)
        name = names[len(key) % len(names)] if key else dice.choice(names)
        options = IngestionOptions(
            "a" if key else dice.choice(world.scenario.named_models),
            deadline_seconds=None if key else dice.choice((None, None, 20.0, 60.0)),
            max_failures=None if key else dice.choice((None, None, 0, 2)),
        )
        caller = Caller(self.owner, idempotency_key=key)
        begun_at = world.clock.seconds
        try:
            made = self._accept(name, options, caller, dice.choice(("archive", "list")))
        except ProblemError as error:
            self._refused(error, key)
            return
        if key is not None:
            world.ledger.keyed(self.owner, key, made, begun_at=begun_at, now=world.clock.seconds)
        world.ledger.accepted(world.ledger.ingestions, made, self.owner, name)
        world.stage.note(f"{self.owner} was given ingestion {made}")
        world.stage.changed = True

    def _accept(self, name: str, options: IngestionOptions, caller: Caller, kind: str) -> UUID:
        world = self.world
        with world.database.read() as connection:
            if caller.idempotency_key is not None:
                known = intake.replayed(connection, caller, name, options)
                if known is not None:
                    return known
            target = resolve(connection, options.model)
        new, stored = world.new_id(), None
        if kind == "archive":
            stored = f"sources/{new}/{world.new_id()}"
            world.storage.write(stored, b"")
        return intake.submit(
            world.database,
            NewSource(kind, name, stored),
            options,
            target,
            caller,
            ingestion_id=new,
            content=name,
            part_rows=100,
        )

    def _refused(self, error: ProblemError, key: str | None) -> None:
        due = set(_SUBMIT_REFUSALS)
        if key is not None:
            known = self.world.ledger.keys.get((self.owner, key))
            told = self.world.ledger.ingestions.get(known.made) if known is not None else None
            if told is None or told.may_be_gone:
                due |= {"idempotency_gone"}
        if error.code not in due:
            raise Violation(f"{self.owner} was refused with {error.code}: {error}") from error

    def _some(self) -> tuple[UUID, Told] | None:
        known = self.world.ledger.ingestions.items()
        own = [(id_, told) for id_, told in known if told.owner == self.owner]
        return self.world.dice.choice(own[-4:]) if own else None

    def cancel(self) -> None:
        """Cancel one."""
        chosen = self._some()
        if chosen is not None:
            ingestion, _ = chosen
            self.world.database.transact(
                lambda connection: transitions.cancel(connection, ingestion)
            )

    def retry(self) -> None:
        """Retry what failed of one."""
        chosen = self._some()
        if chosen is None:
            return
        ingestion, told = chosen
        told.may_run_again = True
        try:
            retrying.retry(self.world.database, ingestion)
        except ProblemError as error:
            due = {"not_finished", "already_finished", "model_unavailable"}
            if told.may_be_gone:
                due |= {"not_found"}
            if error.code not in due:
                raise Violation(f"retry of {ingestion}: {error.code}: {error}") from error

    def delete(self) -> None:
        """Delete one, with its jobs."""
        chosen = self._some()
        if chosen is None:
            return
        ingestion, told = chosen
        told.may_be_gone = True
        self.world.database.transact(
            lambda connection: transitions.delete(connection, self.owner, ingestion)
        )
        told.is_gone = True  # hidden at once
        self.world.stage.note(f"{self.owner} has deleted ingestion {ingestion}")
        self.world.stage.changed = True

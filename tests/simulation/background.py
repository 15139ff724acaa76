"""The background worker: recovery, the sweep and expanders, as `ops.background` runs them."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, UUID, uuid5

from sqlalchemy import select

from shared.errors import Unavailable
from shared.ingestions import expansion as expanding
from shared.ingestions.birth import LANE, ImageVanished, StoredImage
from shared.ingestions.expansion import Expansion, Lost, NewItem
from shared.jobs.intake import object_name
from shared.jobs.recovery import Recovery
from shared.sweep import Sweep
from shared.tables import images
from tests.simulation.pictures import Picture
from tests.simulation.sources import Entry, Kind
from tests.simulation.stage import Process
from tests.simulation.worker import persist

if TYPE_CHECKING:
    from tests.simulation.world import World

_OURS_SECONDS = 5.0
_UNREACHABLE = ("source_unreachable", "It could not be reached.")
_REFUSED = ("entry_refused", "It is none.")


class SourceAway(Exception):
    """The source cannot be read right now."""


@dataclass
class Background(Process):
    """One background worker; its expanders' tokens are those of all before it in its slot."""

    world: "World" = field(kw_only=True)
    slot: str = field(kw_only=True)
    expanders: int = field(kw_only=True)
    ready: bool = False
    busy: set[UUID] = field(default_factory=set)
    recovery: Recovery = field(init=False)

    def start(self) -> None:
        """Begin as a process does."""
        self.recovery = Recovery(self.world.database, self.world.settings)
        enter = self.world.stage.enter
        enter(f"{self.name} recovery", self, self._recover).weight = 0.7
        enter(f"{self.name} sweep", self, self._sweep)
        if self.expanders:
            enter(f"{self.name} expanders", self, self._lead).weight = 0.7
        for number in range(self.expanders):
            expander = Expander(self, self._token(number))
            enter(f"{self.name} expander-{number}", self, expander.run).weight = 3.0

    def _token(self, number: int) -> UUID:
        return uuid5(NAMESPACE_OID, f"{self.slot}/{number}")

    def _recover(self) -> None:
        while True:
            with suppress(Unavailable):
                self.recovery.step()
            self.world.stage.sleep(self.world.settings.recovery_seconds)

    def _sweep(self) -> None:
        sweep = Sweep(self.world.database, self.world.storage, self.world.settings)
        while True:
            with suppress(Unavailable):
                sweep.step()
            self.world.stage.sleep(self.world.settings.sweep_seconds)

    def _lead(self) -> None:
        world = self.world
        tokens = [self._token(number) for number in range(self.expanders)]
        persist(world, lambda: expanding.end_claims(world.database, tokens))
        self.ready = True
        while True:
            world.stage.sleep(world.settings.renew_seconds)
            with suppress(Unavailable):
                expanding.renew(
                    world.database, sorted(self.busy), lease_seconds=world.settings.lease_seconds
                )


@dataclass
class Expander:
    """As `worker.expander.Expander`."""

    process: Background
    token: UUID

    def run(self) -> None:
        """Expand whatever waits, for as long as the process lives."""
        world, process = self.process.world, self.process
        world.stage.wait(lambda: process.ready)
        while True:
            try:
                expansion = expanding.claim(
                    world.database,
                    self.token,
                    lease_seconds=world.settings.lease_seconds,
                    take_lapsed=process.recovery.may_take_from_others(),
                )
            except Unavailable:
                expansion = None
            if expansion is None:
                world.stage.sleep(world.settings.recovery_seconds)
                continue
            process.busy.add(self.token)
            try:
                self._expand(expansion)
            finally:
                process.busy.discard(self.token)

    def _expand(self, expansion: Expansion) -> None:
        world = self.process.world
        try:
            self._go_on(expansion)
        except Lost:
            return
        except SourceAway:
            hours = world.settings.source_hours
            with suppress(Lost):
                persist(
                    world,
                    lambda: expanding.pause(world.database, expansion, reason="away", hours=hours),
                )
        except ImageVanished:
            self._release(expansion)
        except Unavailable:
            self._release(expansion, pause_seconds=_OURS_SECONDS)

    def _release(self, expansion: Expansion, *, pause_seconds: float = 0) -> None:
        world = self.process.world
        with suppress(Lost):
            persist(
                world,
                lambda: expanding.release(world.database, expansion, pause_seconds=pause_seconds),
            )

    def _go_on(self, expansion: Expansion) -> None:
        row = expansion.row
        place = row.checkpoint or {}
        self._fetch_again(expansion)
        if place.get("ended"):
            self._record(expansion, row.expanded, [], place.get("source"), ended=True)
            return
        position, read, ended = row.expanded, place.get("source") or 0, False
        while not ended:
            entries = self.process.world.sources[row.source]
            part = entries[read : read + self.process.world.scenario.step_items]
            new = self._take([(self._read(entry), entry.name) for entry in part])
            read += len(part)
            ended = read >= len(entries)
            position = self._record(expansion, position, new, read, ended=ended)
            if self._makes_room():
                break
        if ended:
            self._forget_file(expansion)
        else:
            expanding.release(self.process.world.database, expansion)

    def _makes_room(self) -> bool:
        world = self.process.world
        return world.dice.random() < 0.3 and expanding.others_wait(world.database)

    def _forget_file(self, expansion: Expansion) -> None:
        storage = self.process.world.storage
        storage.delete(*(found.name for found in storage.list(f"sources/{expansion.id}")))

    def _read(self, entry: Entry) -> Picture | tuple[str, str]:
        """An entry's image, or why there is none."""
        world = self.process.world
        world.stage.point("entry read")
        if world.dice.random() < world.scenario.source_away_rate:
            raise SourceAway
        if entry.kind is Kind.DEADLY:
            world.stage.die()
        if entry.kind is Kind.REFUSED:
            return _REFUSED
        if entry.kind is Kind.UNREACHABLE and world.chaos:
            return _UNREACHABLE
        return entry.picture

    def _take(
        self, read: list[tuple[Picture | tuple[str, str], str]], positions: list[int] | None = None
    ) -> list[NewItem]:
        """As `worker.taking_in.TakingIn`: an object for each image that has none."""
        world = self.process.world
        found = {p.sha256: p for p, _ in read if isinstance(p, Picture)}
        with world.database.read() as connection:
            known = set(
                connection.scalars(
                    select(images.c.sha256).where(
                        images.c.sha256.in_(sorted(found)), images.c.object.is_not(None)
                    )
                )
            )
        stored = {}
        for sha256, picture in found.items():
            image = StoredImage(sha256, "image/png", 8, 8, len(picture.data), False, object=None)
            if sha256 not in known:
                image = replace(image, object=object_name(sha256))
                world.storage.write(str(image.object), picture.data)
            stored[sha256] = image
        return [
            NewItem(
                name,
                stored[got.sha256] if isinstance(got, Picture) else None,
                None if isinstance(got, Picture) else got,
                position=None if positions is None else positions[number],
            )
            for number, (got, name) in enumerate(read)
        ]

    def _record(
        self, expansion: Expansion, position: int, new: list[NewItem], read: Any, *, ended: bool
    ) -> int:
        next_position = expanding.record_step(
            self.process.world.database,
            expansion,
            position=position,
            new=new,
            checkpoint={"source": read, "ended": ended},
            ended=ended,
        )
        self.process.world.ring(LANE)
        return next_position

    def _fetch_again(self, expansion: Expansion) -> None:
        """Items that a retry wants fetched again, by their names."""
        world, after = self.process.world, -1
        while chosen := expanding.unfetched(world.database, expansion.id, after=after, limit=2):
            named = {entry.name: entry for entry in world.sources[expansion.row.source]}
            read = [(self._read(named[item.name]), item.name) for item in chosen]
            new = self._take(read, [item.position for item in chosen])
            expanding.record_step(
                world.database,
                expansion,
                position=expansion.row.expanded,
                new=new,
                checkpoint=expansion.row.checkpoint,
            )
            after = chosen[-1].position

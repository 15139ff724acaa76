"""One seed: its scenario played on a database, checked after each step, and brought to rest."""

import random
from collections.abc import Callable
from functools import partial
from uuid import UUID

from shared import models
from tests.simulation.background import Background
from tests.simulation.checker import Checker
from tests.simulation.clients import Client
from tests.simulation.clock import Clock, make_id, replaced
from tests.simulation.database import StagedDatabase
from tests.simulation.ledger import Ledger
from tests.simulation.operator import Operator, install
from tests.simulation.rest import come_to_rest
from tests.simulation.scenario import draw, settings
from tests.simulation.stage import Process, Stage, dice_of
from tests.simulation.storage import StagedStorage
from tests.simulation.view import Eye
from tests.simulation.worker import Worker

_JUMPS = (1.0, 5.0, 20.0, 20.0, 60.0, 400.0, 4000.0)
_PAUSES = (5.0, 20.0, 20.0, 60.0)


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, database: StagedDatabase, eye: Eye) -> None:
        rng = self.rng = random.Random(seed)
        self.clock = Clock()
        self.stage = Stage(rng, self.clock, database)
        self.database = database
        drawn = draw(rng)
        self.scenario, self.pictures, self.sources = drawn.scenario, drawn.pictures, drawn.sources
        self.settings = settings(drawn.settings)
        self.storage = StagedStorage(self.stage)
        self.ledger = Ledger(keys_hours=self.settings.idempotency_hours)
        self.checker = Checker(eye, self.ledger, self.storage)
        self.chaos = True
        self.tick_seconds = self.scenario.tick_seconds
        self.processes: list[Process] = []
        self.rest_steps = 0
        self._away_until = 0.0
        self._ids = 0
        self._started = 0

    @property
    def dice(self) -> random.Random:
        """The random numbers of whoever asks."""
        return dice_of(self.stage)

    def new_id(self) -> UUID:
        """An id that sorts by its time of birth, and is the same whenever the seed is replayed."""
        actor = self.stage.me()
        if actor is None:
            self._ids += 1
            return make_id(self.clock, 0, self._ids)
        actor.ids += 1
        return make_id(self.clock, actor.number, actor.ids)

    def play(self, steps: int) -> None:
        """Chaos for so many steps, then rest.

        Raises:
            Violation: A promise was broken.
        """
        with replaced(self.clock, self.new_id, self.stage.sleep, lambda: self.dice):
            try:
                self._set_up()
                while self.stage.borders < steps:
                    self._nemesis()
                    self.step()
                self.rest_steps = come_to_rest(self)
            finally:
                for process in self.processes:
                    self.stage.end(process)
                self.database.stage = None

    def _set_up(self) -> None:
        self.database.stage = None
        self.database.empty()
        self.database.tell_time(0.0)
        for name in ("a", "b"):
            self.database.transact(partial(models.register, name=name))
        self.database.transact(lambda connection: install(connection, "a", "1"))
        self.database.stage = self.stage
        for number in range(self.scenario.workers):
            self.start_worker(f"slot-{number}")
        for number, owner in enumerate(self.scenario.clients):
            self.start(f"client-{number}", Client(self, owner).run)
        for number in range(self.scenario.backgrounds):
            self.start_background(f"background-{number}")
        if self.scenario.switch_rate:
            self.start("operator", Operator(self).run)
        self.stage.fault_rate = self.scenario.fault_rate
        self.checker.look()

    # Who is on

    def start_worker(self, slot: str) -> None:
        """A new worker process in a slot."""
        self._started += 1
        name = f"worker-{self._started}"
        worker = Worker(name, world=self, slot=slot, lanes=self.scenario.lanes, id=self.new_id())
        worker.start_again = lambda: self.start_worker(slot)
        self.processes.append(worker)
        worker.start()

    def start_background(self, slot: str) -> None:
        """A new background worker in a slot."""
        self._started += 1
        background = Background(
            f"{slot}/{self._started}",
            world=self,
            slot=slot,
            expanders=self.scenario.expanders,
        )
        background.start_again = lambda: self.start_background(slot)
        self.processes.append(background)
        background.start()

    def start(self, name: str, body: Callable[[], None]) -> None:
        """A process of one thread."""
        process = Process(name, start_again=lambda: self.start(name, body))
        self.processes.append(process)
        self.stage.enter(name, process, body)

    def ring(self, lane: str) -> None:
        """A bell for all loops of a lane, where it is not lost on its way."""
        if self.dice.random() < self.scenario.bell_rate:
            for process in self.processes:
                if isinstance(process, Worker):
                    self.wake(process, lane)

    def wake(self, worker: Worker, lane: str) -> None:
        """Set the event that a worker's loops of a lane sleep on."""
        for loop in worker.loops.get(lane, ()):
            loop.sleeps_until = min(loop.sleeps_until, self.clock.seconds)

    # What happens

    def step(self) -> bool:
        """One actor goes on to its next point, and all is looked at; False where none can."""
        self._restart()
        now = self.clock.seconds
        ready = [actor for actor in self.stage.actors if actor.may_run(now)]
        if not ready:
            self.skip()
            return False
        actor = self.rng.choices(ready, [actor.weight for actor in ready])[0]
        self.stage.resume(actor)
        if actor.failure is not None:
            raise actor.failure
        self.clock.advance(self.rng.random() * self.tick_seconds)
        if self.stage.changed:
            self.stage.changed = False
            self.checker.look()
        return True

    def skip(self) -> None:
        """Nobody can go on: to the time at which somebody can."""
        times = [actor.sleeps_until for actor in self.stage.actors if actor.waits_for is None]
        times += [process.paused_until for process in self.processes]
        times += [process.restarts_at or 0.0 for process in self.processes]
        later = [time for time in times if time > self.clock.seconds]
        self.clock.advance(min(later) - self.clock.seconds + 0.001 if later else 1.0)

    def _restart(self) -> None:
        for process in [process for process in self.processes if process.dead]:
            if process.restarts_at is None:
                pause = self.rng.choice((0.0, 2.0, 30.0)) if self.chaos else 0.0
                process.restarts_at = self.clock.seconds + pause
            elif process.restarts_at <= self.clock.seconds:
                self.processes.remove(process)
                assert process.start_again is not None
                process.start_again()

    def _nemesis(self) -> None:
        scenario, rng, stage = self.scenario, self.rng, self.stage
        if rng.random() < scenario.kill_rate:
            stage.end(rng.choice(self.processes))
        if rng.random() < scenario.doom_rate and stage.actors:
            rng.choice(stage.actors).dies_in = rng.randint(1, 12)
        if rng.random() < scenario.pause_rate:
            process = rng.choice(self.processes)
            process.paused_until = self.clock.seconds + rng.choice(_PAUSES)
            stage.note(f"{process.name} is frozen")
        if rng.random() < scenario.jump_rate:
            self.clock.advance(rng.choice(_JUMPS))
        if rng.random() < scenario.away_rate:
            self._away_until = self.clock.seconds + rng.choice(_PAUSES)
        self.storage.away = self.clock.seconds < self._away_until
        if rng.random() < scenario.lose_rate and self.storage.objects:
            self.storage.lose(rng.choice(sorted(self.storage.objects)))

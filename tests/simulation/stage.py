"""The stage: actors of which one runs at a time, from one of its points to the next.

A point is where another actor may go on instead, or where the actor's process may be killed: every
statement, and every call of the storage. On SQLite nobody else goes on within a transaction.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from greenlet import getcurrent, greenlet

from tests.simulation.clock import Clock


class Killed(Exception):
    """The process ends here, as by `kill -9`: nothing that follows is done.

    No `BaseException`: of one SQLAlchemy takes a connection to be lost. Whoever catches it meets
    it again at the next point.
    """


class Server(Protocol):
    """What the stage wants of the database."""

    is_sqlite: bool

    def tell_time(self, seconds: float) -> None:
        """Set its clock."""

    def is_blocked(self, pid: int) -> bool:
        """Whether a session waits for a lock."""


@dataclass
class Process:
    """Actors that live and die together, and what they share in memory."""

    name: str
    actors: "list[Actor]" = field(default_factory=list)
    dead: bool = False
    paused_until: float = float("-inf")
    restarts_at: float | None = None
    start_again: "Callable[[], object] | None" = None


class Actor:
    """What would be one thread of one process."""

    def __init__(
        self, number: int, name: str, process: Process, body: Callable[[], None], seed: int
    ) -> None:
        self.name = name
        self.number = number
        self.process = process
        self.label = "start"
        self.dice = random.Random(seed)
        self.ids = 0
        self.weight = 1.0
        self.sleeps_until = float("-inf")
        self.waits_for: Callable[[], bool] | None = None
        self.dies_in: int | None = None
        self.killed = False
        self.ended = False
        self.in_transaction = False
        self.failure: BaseException | None = None
        self.blocked_by: int | None = None  # its session, which waits for a lock
        self._body = body
        self.thread = greenlet(self._run)

    def _run(self) -> None:
        try:
            if not self.killed:
                self._body()
        except Killed:
            self.process.dead = True
        except Exception as error:
            self.failure = error
        self.ended = True

    def may_run(self, now: float) -> bool:
        """Whether there is something for it to go on with."""
        if (
            self.ended
            or self.blocked_by is not None
            or self.process.paused_until > now
            or self.sleeps_until > now
        ):
            return False
        return self.waits_for is None or self.waits_for()


class Stage:
    """Who is on, and what happened: the controller's side and the actors' side of the baton."""

    def __init__(self, rng: random.Random, clock: Clock, server: Server) -> None:
        self.rng = rng
        self.clock = clock
        self.actors: list[Actor] = []
        self.borders = 0  # between two transactions, or at a call of the storage
        self.transactions = 0
        self.crashes = 0
        self.faults = 0
        self.waits = 0
        self.changed = True
        self.fault_rate = 0.0
        self.trace: list[str] | None = None
        self.recent: list[str] = []
        self.hash = 0
        self._server = server
        self._numbers = 0
        self._main = getcurrent()
        self._current: Actor | None = None

    # The controller's side

    def enter(self, name: str, process: Process, body: Callable[[], None]) -> Actor:
        """A new actor, that runs when its turn comes."""
        self._numbers += 1
        actor = Actor(self._numbers, name, process, body, self.rng.getrandbits(64))
        process.actors.append(actor)
        self.actors.append(actor)
        return actor

    def resume(self, actor: Actor) -> None:
        """Let an actor run to its next point."""
        self.note(f"{actor.name}: {actor.label}")
        actor.waits_for = None
        self._switch(actor)
        self.settle(actor.process)
        self._free()

    def _switch(self, actor: Actor) -> None:
        self._server.tell_time(self.clock.seconds)
        self._current = actor
        actor.thread.switch()
        self._current = None

    def _free(self) -> None:
        """Let those go on to their next point who waited for locks that are free now."""
        waiting = True
        while waiting:
            waiting = False
            for actor in [actor for actor in self.actors if actor.blocked_by is not None]:
                if actor.blocked_by is not None and not self._server.is_blocked(actor.blocked_by):
                    self.note(f"{actor.name} has its lock")
                    actor.blocked_by = None
                    self._switch(actor)
                    self.settle(actor.process)
                    waiting = True

    def settle(self, process: Process) -> None:
        """A process of which one actor has died is dead altogether."""
        if process.dead and process.actors:
            self.end(process)

    def end(self, process: Process) -> None:
        """Kill a process where it is."""
        process.dead = True
        self.crashes += 1
        for actor in process.actors:
            actor.killed = True
        for actor in process.actors:
            while not actor.ended:
                self._switch(actor)
        self.note(f"{process.name} is dead")
        self._leave(process)
        self._free()

    def _leave(self, process: Process) -> None:
        self.actors = [actor for actor in self.actors if actor.process is not process]
        process.actors = []

    def note(self, line: str) -> None:
        """Remember what happened, for the trace and its hash."""
        line = f"{self.clock.seconds:.3f} {line}"
        self.hash = zlib.crc32(line.encode(), self.hash)
        self.recent.append(line)
        if len(self.recent) > 400:
            del self.recent[:200]
        if self.trace is not None:
            self.trace.append(line)

    # The actors' side

    def set_aside(self, pid: int) -> None:
        """The calling actor's session waits for a lock: the others go on."""
        actor = self.me()
        assert actor is not None
        actor.blocked_by = pid
        self.waits += 1
        self.note(f"{actor.name} waits for a lock")
        self._main.switch()
        actor.blocked_by = None

    def me(self) -> Actor | None:
        """The actor that calls; None for the controller."""
        return self._current

    def point(self, label: str, *, border: bool = True) -> None:
        """Others may go on here, and the process may be killed."""
        actor = self.me()
        if actor is None:
            return
        self._doom(actor)
        actor.label = label
        self._main.switch()
        self.borders += border
        self._doom(actor)

    def passing(self, label: str) -> None:
        """The process may be killed here, but nobody else goes on."""
        actor = self.me()
        if actor is not None:
            actor.label = label
            self._doom(actor)

    def statement(self, label: str) -> None:
        """A statement of a transaction is about to be run."""
        if not self._server.is_sqlite:
            self.point(label, border=False)
        else:
            self.passing(label)

    def _doom(self, actor: Actor) -> None:
        if actor.dies_in is not None:
            actor.dies_in -= 1
        if actor.killed or (actor.dies_in is not None and actor.dies_in <= 0):
            actor.killed = True
            raise Killed

    def fails(self) -> bool:
        """Whether the database goes away at this moment, as it sometimes does."""
        actor = self.me()
        if actor is None or not self.fault_rate or actor.dice.random() >= self.fault_rate:
            return False
        self.faults += 1
        return True

    def sleep(self, seconds: float) -> None:
        """Nothing more of this actor until so much time has passed, or somebody wakes it."""
        actor = self.me()
        if actor is not None:
            actor.sleeps_until = self.clock.seconds + seconds
            self.point("awake", border=False)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Nothing more of this actor until a condition holds."""
        actor = self.me()
        if actor is not None and not condition():
            actor.waits_for = condition
            self.point("goes on", border=False)

    def die(self) -> None:
        """The calling actor's process ends, by its own doing."""
        raise Killed


def dice_of(stage: Stage) -> random.Random:
    """The calling actor's random numbers."""
    actor = stage.me()
    return stage.rng if actor is None else actor.dice

"""A database of the simulation, used for seed after seed."""

import logging
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from shared import migrations
from tests.simulation.database import StagedDatabase
from tests.simulation.postgresql import postgresql_database
from tests.simulation.view import Eye, sqlite_eye
from tests.simulation.world import World

_MEMORY = Path("/dev/shm")
_TAIL = 40


@dataclass
class Played:
    """What came of one seed."""

    seed: int
    steps: int
    transactions: int
    waits: int
    crashes: int
    faults: int
    seconds: float
    hash: int
    rest_steps: int
    met: Counter[str]
    failure: str | None = None
    trace: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """A database and an eye on it."""

    database: StagedDatabase
    eye: Eye

    def play(self, seed: int, steps: int, *, trace: bool = False) -> Played:
        """Play one seed."""
        began = time.monotonic()
        world = World(seed, self.database, self.eye)
        stage = world.stage
        stage.trace = [] if trace else None
        failure = None
        try:
            world.play(steps)
        except Exception as error:
            failure = "".join(traceback.format_exception(error)) if trace else ""
            failure += f"{type(error).__name__}: {error}"
        return Played(
            seed,
            stage.borders,
            stage.transactions,
            stage.waits,
            stage.crashes,
            stage.faults,
            time.monotonic() - began,
            stage.hash,
            world.rest_steps,
            world.checker.met,
            failure,
            stage.trace if stage.trace is not None else stage.recent[-_TAIL:],
        )


@contextmanager
def sqlite_bench() -> Iterator[Bench]:
    """On SQLite, in memory where there is a place for files in memory."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as directory:
        path = Path(directory) / "simulation.db"
        database = StagedDatabase(f"sqlite:///{path}")
        migrations.upgrade(database)
        try:
            yield Bench(database, sqlite_eye(str(path)))
        finally:
            database.close()


@contextmanager
def postgresql_bench(url: str) -> Iterator[Bench]:
    """On the empty PostgreSQL database at `url`."""
    with postgresql_database(url) as (database, eye):
        yield Bench(database, Eye(eye, is_sqlite=False))


def play_seeds(
    url: str | None, seeds: Sequence[int], steps: int, *, trace: bool = False
) -> list[Played]:
    """Play these seeds, to the first that fails; on SQLite without a `url`."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    played = []
    with sqlite_bench() if url is None else postgresql_bench(url) as bench:
        for seed in seeds:
            played.append(bench.play(seed, steps, trace=trace))
            if played[-1].failure:
                break
    return played

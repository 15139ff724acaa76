"""What is drawn for a seed: who acts, how much of what goes wrong, and how often."""

import random
from dataclasses import dataclass
from typing import Any

from shared.settings import Settings
from tests.simulation.pictures import Picture
from tests.simulation.sources import Entry, draw_source

LANES_OF_A_WORKER = (
    ("interactive", "bulk"),
    ("interactive", "interactive", "bulk", "bulk"),
    ("interactive", "interactive", "bulk"),
)


@dataclass(frozen=True)
class Scenario:
    """The dice of one seed: some seeds have much of one thing and nothing of another."""

    workers: int
    lanes: tuple[str, ...]
    batch: int
    clients: tuple[str, ...]
    think_seconds: float
    acts: dict[str, float]
    keys: tuple[str, ...]
    named_models: tuple[str, ...]
    kill_rate: float
    doom_rate: float
    pause_rate: float
    jump_rate: float
    away_rate: float
    lose_rate: float
    fault_rate: float
    switch_rate: float
    give_back_rate: float
    expanders: int
    backgrounds: int
    step_items: int
    source_away_rate: float
    tick_seconds: float
    idle_seconds: float
    bell_rate: float


@dataclass(frozen=True)
class Drawn:
    """The dice, and what they are thrown for."""

    scenario: Scenario
    pictures: list[Picture]
    sources: dict[str, list[Entry]]
    settings: dict[str, Any]


def draw(rng: random.Random) -> Drawn:
    """What a seed is made of."""

    def sometimes(*rates: float) -> float:
        return rng.choice((0.0, *rates))

    ingest = sometimes(0.5, 3.0)
    scenario = Scenario(
        workers=rng.randint(1, 3),
        lanes=rng.choice(LANES_OF_A_WORKER),
        batch=rng.choice((1, 2, 4, 8)),
        clients=tuple(f"owner-{number % 2}" for number in range(rng.randint(1, 3))),
        think_seconds=rng.choice((0.1, 0.5, 2.0)),
        acts={
            "submit": 6.0,
            "poll": rng.choice((0.5, 2.0)),
            "cancel": sometimes(0.5, 2.0),
            "delete": sometimes(0.5, 2.0),
            "ingest": ingest,
            "cancel ingestion": sometimes(0.3) if ingest else 0.0,
            "retry": sometimes(2.0, 4.0) if ingest else 0.0,
            "delete ingestion": sometimes(0.5) if ingest else 0.0,
        },
        keys=tuple(f"k{number}" for number in range(rng.randint(1, 4))),
        named_models=rng.choice((("a",), ("a", "a", "b"), ("a", "a@1", "b"))),
        kill_rate=sometimes(0.01, 0.03),
        doom_rate=sometimes(0.02, 0.05),
        pause_rate=sometimes(0.01, 0.03),
        jump_rate=sometimes(0.01, 0.03),
        away_rate=sometimes(0.01),
        lose_rate=sometimes(0.01),
        fault_rate=sometimes(0.005, 0.02),
        switch_rate=sometimes(0.01, 0.03),
        give_back_rate=sometimes(0.1),
        expanders=rng.choice((1, 1, 2)) if ingest else 0,
        backgrounds=rng.choice((1, 1, 2)),
        step_items=rng.choice((1, 2, 5)),
        source_away_rate=sometimes(0.1),
        tick_seconds=rng.choice((0.002, 0.01, 0.04)),
        idle_seconds=rng.choice((3.0, 30.0)),
        bell_rate=rng.choice((0.0, 0.7, 1.0)),
    )
    poisonous, broken = rng.random() < 0.3, sometimes(0.2)
    pictures = [
        Picture(number, broken=rng.random() < broken, poisonous=number == 0 and poisonous)
        for number in range(rng.choice((2, 4, 8)))
    ]
    odd, deadly = sometimes(0.3), sometimes(0.05)
    sources = {
        f"source-{number}": draw_source(rng, pictures, odd=odd, deadly=deadly)
        for number in range(4)
    }
    return Drawn(
        scenario,
        pictures,
        sources,
        {"unreachable_hours": rng.choice((0.01, 24.0)), "source_hours": rng.choice((0.01, 24.0))},
    )


def settings(drawn: dict[str, Any]) -> Settings:
    """The service's settings, with times in which much happens within a few hundred steps."""
    return Settings(
        _env_file=None,
        lease_seconds=12,
        renew_seconds=5,
        recovery_seconds=5,
        sweep_seconds=20,
        **drawn,
    )

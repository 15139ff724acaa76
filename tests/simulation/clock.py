"""The simulation's time, ids and dice, in the place of those that `shared` takes from the host."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import shared.database

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_EPOCH_MS = int(EPOCH.timestamp() * 1000)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.on_change: Callable[[float], None] = lambda seconds: None

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds
        self.on_change(self.seconds)

    def now(self) -> datetime:
        """The time in UTC."""
        return EPOCH + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Seconds since the seed began."""
        return self.seconds


def make_id(clock: Clock, maker: int, number: int) -> UUID:
    """As a UUIDv7 is made, but of the maker's number and its count in place of random bits."""
    milliseconds = _EPOCH_MS + int(clock.seconds * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | maker << 32 | number)


@contextmanager
def replaced(
    clock: Clock,
    new_id: Callable[[], UUID],
    sleep: Callable[[float], None],
    dice: Callable[[], random.Random],
) -> Iterator[None]:
    """Every module of `shared` takes time, ids and random numbers from us."""
    time_ = SimpleNamespace(monotonic=clock.monotonic, sleep=sleep)
    random_ = SimpleNamespace(
        uniform=lambda low, high: dice().uniform(low, high),
        randrange=lambda end: dice().randrange(end),
    )
    ours: list[tuple[str, Any, Any]] = [
        ("utc_now", shared.database.utc_now, clock.now),
        ("new_id", shared.database.new_id, new_id),
        ("time", time, time_),
        ("random", random, random_),
    ]
    before: list[tuple[Any, str, Any]] = []
    for name, module in sorted(sys.modules.items()):
        # What else of the service is driven here takes these from the host, and none of it counts.
        if name.partition(".")[0] == "shared":
            for attribute, old, new in ours:
                if getattr(module, attribute, None) is old:
                    before.append((module, attribute, old))
                    setattr(module, attribute, new)
    try:
        yield
    finally:
        for module, attribute, old in before:
            setattr(module, attribute, old)

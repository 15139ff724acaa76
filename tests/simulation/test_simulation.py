"""The short form of `python -m tests.simulation`, and that a seed replays."""

from collections.abc import Iterator

import pytest

from tests.simulation.bench import Bench, sqlite_bench

pytestmark = pytest.mark.chaos

STEPS = 200


@pytest.fixture(scope="module")
def sqlite() -> Iterator[Bench]:
    with sqlite_bench() as bench:
        yield bench


@pytest.mark.timeout(600)  # of a machine that is busy with much else
def test_every_promise_holds_whatever_is_interrupted(sqlite: Bench) -> None:
    for seed in range(30):
        played = sqlite.play(seed, STEPS)
        assert played.failure is None, "\n".join([*played.trace, f"seed {seed}: {played.failure}"])


def test_a_seed_replays_exactly(sqlite: Bench) -> None:
    first, again = (sqlite.play(3, STEPS, trace=True) for _ in range(2))
    assert first.trace == again.trace
    assert sqlite.play(4, STEPS).hash != first.hash

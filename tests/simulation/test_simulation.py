"""The short form of `python -m tests.simulation`, and that a seed replays."""

from collections.abc import Iterator

import pytest

from tests.services import PostgresServer
from tests.simulation.bench import Bench, postgresql_bench, sqlite_bench

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),  # on a machine that is busy with much else
]

STEPS = 200


@pytest.fixture(scope="module")
def sqlite() -> Iterator[Bench]:
    with sqlite_bench() as bench:
        yield bench


@pytest.fixture
def postgresql(postgres_server: PostgresServer) -> Iterator[Bench]:
    url = postgres_server.create_database()
    with postgresql_bench(url) as bench:
        yield bench
    postgres_server.drop_database(url)


def _play(bench: Bench, seeds: range) -> None:
    for seed in seeds:
        played = bench.play(seed, STEPS)
        assert played.failure is None, "\n".join([*played.trace, f"seed {seed}: {played.failure}"])


def test_every_promise_holds_whatever_is_interrupted(sqlite: Bench) -> None:
    _play(sqlite, range(20))


def test_a_seed_replays_exactly(sqlite: Bench) -> None:
    first, again = (sqlite.play(3, STEPS, trace=True) for _ in range(2))
    assert first.trace == again.trace
    assert sqlite.play(4, STEPS).hash != first.hash


def test_every_promise_holds_within_transactions_too(postgresql: Bench) -> None:
    _play(postgresql, range(1000, 1004))
    first, again = (postgresql.play(0, STEPS, trace=True) for _ in range(2))
    assert first.trace == again.trace

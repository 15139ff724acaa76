"""Play seeds of the simulation, and say what came of them; exit 1 where one fails."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from tests.services import PostgresServer
from tests.simulation.bench import play_seeds


def main() -> int:
    """Play the seeds of the command line."""
    given = _arguments()
    first, last = (int(number) for number in given.seeds.split(":"))
    seeds = range(first, last) if given.seed is None else range(given.seed, given.seed + 1)
    began = time.monotonic()
    with _urls(given.database, given.processes) as urls:
        parts = [seeds[number :: len(urls)] for number in range(len(urls))]
        if len(urls) == 1:
            played = play_seeds(urls[0], parts[0], given.steps, trace=given.trace)
        else:
            with ProcessPoolExecutor(len(urls), get_context("spawn")) as pool:
                done = pool.map(play_seeds, urls, parts, [given.steps] * len(urls))
                played = [one for part in done for one in part]
    for one in played:
        if given.trace or one.failure:
            print("\n".join(one.trace))
        if one.failure:
            print(f"seed {one.seed}: {one.failure}")
    print(
        f"{len(played)} seeds, {sum(p.steps for p in played)} steps,"
        f" {sum(p.transactions for p in played)} transactions,"
        f" {sum(p.crashes for p in played)} crashes, {sum(p.faults for p in played)} faults,"
        f" {sum(p.waits for p in played)} waits for locks,"
        f" {max(p.rest_steps for p in played)} steps to rest at most,"
        f" {time.monotonic() - began:.1f} s"
    )
    met = sum((p.met for p in played), Counter())
    print(", ".join(f"{what}: {number}" for what, number in sorted(met.items())))
    return 1 if any(p.failure for p in played) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seeds", default="0:100", help="FIRST:LAST, the last one left out")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--steps", type=int, default=200, help="of chaos, before it comes to rest")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print every step of a --seed")
    given = parser.parse_args()
    if given.trace:
        given.processes = 1
    return given


@contextmanager
def _urls(database: str, processes: int) -> Iterator[Sequence[str | None]]:
    """A database for each process; None: an SQLite file of its own."""
    if database == "sqlite":
        yield [None] * processes
        return
    server = PostgresServer()
    try:
        server.start()
        yield [server.create_database() for _ in range(processes)]
    finally:
        server.close()


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # a set of strings has another order each time
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    sys.exit(main())

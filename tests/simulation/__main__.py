"""`python -m tests.simulation`: play seeds, and say what came of them."""

import argparse
import logging
import os
import sys
import time
from collections import Counter

import structlog

from tests.simulation.bench import Played, sqlite_bench


def main() -> int:
    """Play the seeds of the command line; 1 where one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seeds", default="0:100", help="FIRST:LAST, the last one left out")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print every step")
    given = parser.parse_args()
    first, last = (int(number) for number in given.seeds.split(":"))
    seeds = range(first, last) if given.seed is None else range(given.seed, given.seed + 1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    began = time.monotonic()
    played: list[Played] = []
    with sqlite_bench() as bench:
        for seed in seeds:
            one = bench.play(seed, given.steps, trace=given.trace)
            played.append(one)
            if given.trace or one.failure:
                print("\n".join(one.trace))
            if one.failure:
                print(f"seed {seed}: {one.failure}")
                break
    print(
        f"{len(played)} seeds, {sum(p.steps for p in played)} steps,"
        f" {sum(p.transactions for p in played)} transactions,"
        f" {sum(p.crashes for p in played)} crashes, {sum(p.faults for p in played)} faults,"
        f" {max(p.rest_steps for p in played)} steps to rest at most,"
        f" {time.monotonic() - began:.1f} s"
    )
    met = sum((p.met for p in played), Counter())
    print(", ".join(f"{what}: {number}" for what, number in sorted(met.items())))
    return 1 if any(p.failure for p in played) else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # a set of strings has another order each time
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    sys.exit(main())

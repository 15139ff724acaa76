"""Claim, submit, poll, list and recovery at different lengths of the queue, on PostgreSQL.

    .venv/bin/python -m bench.queue
    .venv/bin/python -m bench.queue --rows 1000 1000000 --database postgresql://…

Prints the times at all sizes side by side, then the plans of the statements at the largest size.
Exits with 1 if one of them scans a big table. Works in databases of its own, which it drops.
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import URL, make_url

from bench.cases import Case, Cases, Stopwatch
from bench.figures import percentile, table
from bench.filling import FilledQueue
from bench.listing import listing_cases
from bench.plans import Planned, captured
from tests.services import PostgresServer, ServiceMissing

_BIG_ROWS = 50_000  # a smaller table may be scanned: the sweep takes 5,000 rows at a time


@dataclass(frozen=True)
class Explained:
    """The statements of one case, planned at each size."""

    case: str
    by_size: dict[int, list[Planned]]


def main() -> int:
    """Measure and explain; 1 if a plan scans."""
    options = _options()
    # Ended either way, we drop our databases and stop our server first.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    try:
        with _server(options.database) as server, ExitStack() as stack:
            queues = []
            for rows in options.rows:
                _say(f"filling {rows:,} rows")
                queues.append(stack.enter_context(FilledQueue(server, rows)))
            version = queues[0].own_scalar("SHOW server_version")
            cases = [*listing_cases(), *Cases().all()]
            times = {
                case.name: _measure(case, queues, options.rounds) for case in cases if case.timed
            }
            generic = {queue.rows: queue.generic_plans() for queue in queues}
            for queue in queues:
                queue.vacuum()
            explained = [_explain(case, queues) for case in cases]
            big_tables = queues[-1].big_tables(_BIG_ROWS)
    except ServiceMissing as missing:
        _say(str(missing))
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    faults = list(_faults(explained, options.rows[-1], big_tables))
    if options.json:
        print(json.dumps(_as_json(version, times, explained, faults), indent=1))
    else:
        _print_times(version, times, options.rows, options.rounds)
        for rows, (used, prepared) in generic.items():
            print(f"At {rows:,}: {used} of {prepared} prepared statements run on a generic plan.")
        _print_plans(explained, options.rows)
        _print_verdict(faults, big_tables)
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--database",
        metavar="URL",
        help="a PostgreSQL server on which databases may be created; without it, one is started",
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=100, help="times each case is measured")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args()
    options.rows = sorted(set(options.rows))
    if options.rows[0] < 200 or options.rounds < 1:
        parser.error("at least 200 rows and one round are needed")
    if options.database and make_url(options.database).get_backend_name() != "postgresql":
        parser.error("--database takes a postgresql:// address")
    return options


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _server(url: str | None) -> Iterator[URL]:
    if url is not None:
        yield make_url(url)
        return
    server = PostgresServer()
    try:
        server.start()
        yield make_url(server.url())
    finally:
        server.close()


def _measure(case: Case, queues: Sequence[FilledQueue], rounds: int) -> dict[int, list[float]]:
    """Milliseconds by size. The sizes take turns: whatever else the machine does meets them all."""
    _say(f"measuring: {case.name}")
    times: dict[int, list[float]] = {queue.rows: [] for queue in queues}
    for number in range(-10, rounds):  # ten to warm up: the driver prepares what it sends often
        for queue in queues:
            watch = Stopwatch()
            case.run(queue, watch)
            if number >= 0:
                times[queue.rows].append(watch.seconds * 1000)
    return times


def _explain(case: Case, queues: Sequence[FilledQueue]) -> Explained:
    _say(f"explaining: {case.name}")
    by_size = {}
    for queue in queues:
        with captured(queue.database) as capture:
            case.run(queue, Stopwatch())
        by_size[queue.rows] = capture.planned
    return Explained(case.name, by_size)


def _faults(
    explained: Sequence[Explained], rows: int, big_tables: frozenset[str]
) -> Iterator[tuple[str, str, str]]:
    """Case, fault and statement; a statement that several cases send is named once."""
    seen: set[tuple[str, str]] = set()
    for one in explained:
        for planned in one.by_size[rows]:
            for kind, plan in (("custom", planned.custom), ("generic", planned.generic)):
                faults = plan.faults(big_tables)
                if faults and (planned.readable, kind) not in seen:
                    seen.add((planned.readable, kind))
                    yield one.case, f"{kind} plan: {'; '.join(faults)}", planned.readable


def _print_times(
    version: str, times: dict[str, dict[int, list[float]]], sizes: Sequence[int], rounds: int
) -> None:
    head = [f"ms, {rounds} rounds"]
    for label in ("p50", "p95"):
        head += [f"{label} {rows:,}" for rows in sizes] + ["ratio"]
    lines = []
    for name, by_size in times.items():
        line = [name]
        for share in (0.5, 0.95):
            values = [percentile(by_size[size], share) for size in sizes]
            line += [f"{value:.2f}" for value in values] + [f"{values[-1] / values[0]:.2f}"]
        lines.append(line)
    print(f"PostgreSQL {version}\n\n{table(head, lines)}\n")


def _print_plans(explained: Sequence[Explained], sizes: Sequence[int]) -> None:
    """Each statement once, and again where it is planned otherwise."""
    seen: set[tuple[str, str, str]] = set()
    for one in explained:
        largest = one.by_size[sizes[-1]]
        for index, planned in enumerate(largest):
            key = (planned.readable, planned.custom.shape, planned.generic.shape)
            if key in seen or "pg_advisory_xact_lock" in planned.statement:
                continue
            seen.add(key)
            pages = [
                f"{by_size[index].custom.buffers} at {rows:,}"
                for rows, by_size in one.by_size.items()
                if len(by_size) == len(largest)
            ]
            print(f"\n=== {one.case}: pages touched: {', '.join(pages)}\n{planned.readable}\n")
            print(planned.custom.text)
            if planned.generic.shape == planned.custom.shape:
                print(f"Generic plan: the same, {planned.generic.buffers} pages")
            else:
                print(f"--- Generic plan:\n{planned.generic.text}")


def _print_verdict(faults: Sequence[tuple[str, str, str]], big_tables: frozenset[str]) -> None:
    print(f"\nTables that must not be scanned: {', '.join(sorted(big_tables)) or 'none is big'}.")
    if not faults:
        print("No plan scans one of them.")
    for case, fault, statement in faults:
        print(f"\n!!! {case}: {fault}\n{statement}")


def _as_json(
    version: str,
    times: dict[str, dict[int, list[float]]],
    explained: Sequence[Explained],
    faults: Sequence[tuple[str, str, str]],
) -> dict[str, Any]:
    return {
        "postgresql": version,
        "milliseconds": {
            name: {
                str(rows): {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95)}
                for rows, values in by_size.items()
            }
            for name, by_size in times.items()
        },
        "plans": {
            one.case: {
                str(rows): [
                    {
                        "statement": planned.statement,
                        "custom": planned.custom.text,
                        "generic": planned.generic.text,
                    }
                    for planned in by_size
                ]
                for rows, by_size in one.by_size.items()
            }
            for one in explained
        },
        "faults": [
            {"case": case, "fault": fault, "statement": statement}
            for case, fault, statement in faults
        ],
    }


if __name__ == "__main__":
    sys.exit(main())

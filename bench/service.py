"""A running service over HTTP: how much it takes, how long a job needs, how full its batches are.

    .venv/bin/python -m bench.service --model digits --jobs 200 --concurrency 16 --log FILE
    .venv/bin/python -m bench.service --model vgg16 --jobs 100 --interactive-under-bulk --log FILE

FILE is the service's log as JSON lines (CLASSIFIER_LOG_FORMAT=json, stderr sent to a file). Exits
with 1 if a job did not succeed.
"""

import argparse
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from bench.client import Client, seconds_between, time_of
from bench.figures import percentile, table
from bench.passes import Pass, passes_since


def main() -> int:
    """Drive the service as asked; 1 if a job did not succeed."""
    options = _options()
    client = Client(options.url, options.model, options.size, options.timeout)
    log_start = options.log.stat().st_size if options.log else 0
    try:
        client.check()
        run = _interactive_under_bulk if options.interactive_under_bulk else _all_at_once
        return run(client, options, log_start)
    except (requests.RequestException, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--jobs", type=int, default=200, help="sent at once, or kept queued")
    parser.add_argument("--concurrency", type=int, default=16, help="connections that submit")
    parser.add_argument("--size", type=int, default=32, help="edge of an image, in pixels")
    parser.add_argument("--log", type=Path, help="the service's log, one JSON object a line")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one job at most")
    parser.add_argument(
        "--interactive-under-bulk",
        action="store_true",
        help="send interactive jobs one by one while --jobs bulk jobs are kept queued",
    )
    parser.add_argument("--interactive", type=int, default=20, help="how many of those")
    options = parser.parse_args()
    if min(options.jobs, options.concurrency, options.size, options.interactive) < 1:
        parser.error("numbers start at 1")
    if options.log and not options.log.is_file():
        parser.error(f"no such file: {options.log}")
    return options


def _all_at_once(client: Client, options: argparse.Namespace, log_start: int) -> int:
    images = [client.new_image() for _ in range(options.jobs)]
    answered: list[float] = []

    def submit(image: bytes) -> str:
        began = time.perf_counter()
        job_id = client.submit(image)
        answered.append(time.perf_counter() - began)
        return job_id

    began = time.perf_counter()
    with ThreadPoolExecutor(options.concurrency) as pool:
        ids = list(pool.map(submit, images))
    accepted_seconds = time.perf_counter() - began
    jobs = [client.ended(job_id) for job_id in ids]
    first = min(time_of(job, "created_at") for job in jobs)
    last = max(time_of(job, "finished_at") for job in jobs)
    lines = [
        ("accepted a second", f"{len(jobs) / accepted_seconds:.1f}"),
        ("finished a second", f"{len(jobs) / (last - first).total_seconds():.1f}"),
        *_spread("submit answered, ms", answered),
        *_spread("accepted to finished, ms", _latencies(jobs)),
        ("submits refused for a moment", str(client.refused)),
    ]
    if options.log:
        lines += _fullness(passes_since(options.log, log_start, options.model, first, last))
    print(table((f"{len(jobs)} jobs for {options.model}", ""), lines))
    return _verdict(jobs)


def _interactive_under_bulk(client: Client, options: argparse.Namespace, log_start: int) -> int:
    idle = _one_by_one(client, options.interactive)
    backlog = _Backlog(client, options.jobs, options.concurrency)
    with backlog.kept():
        busy = _one_by_one(client, options.interactive)
    print(f"Waiting for {backlog.waiting} bulk jobs to end.", file=sys.stderr)
    backlog.drain()
    lines = [
        *_spread("idle service, accepted to finished, ms", _latencies(idle)),
        *_spread(f"under {options.jobs} bulk jobs, ms", _latencies(busy)),
        ("ratio of the p50", f"{_p50(busy) / _p50(idle):.2f}"),
        ("fewest bulk jobs queued meanwhile", str(backlog.fewest)),
    ]
    if options.log:
        first, last = time_of(busy[0], "created_at"), time_of(busy[-1], "finished_at")
        passes = passes_since(options.log, log_start, options.model, first, last)
        lines += _overtaken(busy, passes)
        lines += _fullness([one for one in passes if one.lane == "bulk"])
    print(table((f"{len(busy)} interactive jobs for {options.model}", ""), lines))
    if backlog.fewest < 2:
        print("The service was faster than this client: it was not always busy. Send more at once.")
    return _verdict([*idle, *busy])


def _one_by_one(client: Client, count: int) -> list[dict[str, Any]]:
    return [client.ended(client.submit(client.new_image())) for _ in range(count)]


class _Backlog:
    """Bulk jobs, of which so many are kept waiting while others are measured."""

    def __init__(self, client: Client, size: int, concurrency: int) -> None:
        self._client = client
        self._size = size
        self._pool = ThreadPoolExecutor(concurrency)
        self._ids: deque[str] = deque()
        self._stopping = threading.Event()
        self.fewest = size

    @property
    def waiting(self) -> int:
        """Jobs not known to have ended."""
        return len(self._ids)

    @contextmanager
    def kept(self) -> Any:
        """Fill it, and keep it full until the end of the block."""
        self._fill()
        keeper = threading.Thread(target=self._keep, daemon=True)
        keeper.start()
        try:
            yield
        finally:
            self._stopping.set()
            keeper.join()

    def drain(self) -> None:
        """Wait for all of them, so that the next run finds an idle service."""
        while self._ids:
            self._client.ended(self._ids.popleft())
        self._pool.shutdown()

    def _keep(self) -> None:
        while not self._stopping.wait(0.05):
            # Bulk jobs of one client end about in the order in which they came.
            while self._ids and self._client.has_ended(self._ids[0]):
                self._ids.popleft()
            self.fewest = min(self.fewest, len(self._ids))
            self._fill()

    def _fill(self) -> None:
        images = [self._client.new_image() for _ in range(self._size - len(self._ids))]
        self._ids.extend(self._pool.map(lambda image: self._client.submit(image, "bulk"), images))


def _latencies(jobs: Sequence[dict[str, Any]]) -> list[float]:
    return [seconds_between(job, "created_at", "finished_at") for job in jobs]


def _p50(jobs: Sequence[dict[str, Any]]) -> float:
    return percentile(_latencies(jobs), 0.5)


def _spread(name: str, seconds: Sequence[float]) -> list[tuple[str, str]]:
    return [
        (f"{name}, {label}", f"{percentile(seconds, share) * 1000:.1f}")
        for label, share in (("p50", 0.5), ("p95", 0.95))
    ]


def _fullness(passes: Sequence[Pass]) -> list[tuple[str, str]]:
    if not passes:
        return [("batches in the log", "none: is it this service's log, as JSON lines?")]
    sizes = [one.size for one in passes]
    return [
        ("batches", str(len(sizes))),
        ("mean batch size", f"{sum(sizes) / len(sizes):.2f}"),
        ("largest batch", str(max(sizes))),
    ]


def _overtaken(jobs: Sequence[dict[str, Any]], passes: Sequence[Pass]) -> list[tuple[str, str]]:
    """How many bulk passes started between a submit and the job's own pass, as job: count."""
    counts: list[int] = []
    for job in jobs:
        created, finished = time_of(job, "created_at"), time_of(job, "finished_at")
        own = [
            one.started
            for one in passes
            if one.lane == "interactive" and created < one.started < finished
        ]
        if own:
            counts.append(_bulk_between(passes, created, own[-1]))
    return [
        ("own passes found in the log", str(len(counts))),
        ("bulk passes started before the own one, most", str(max(counts, default=0))),
        ("… how often each number", _counted(counts)),
    ]


def _bulk_between(passes: Sequence[Pass], after: datetime, before: datetime) -> int:
    return sum(one.lane == "bulk" and after < one.started < before for one in passes)


def _counted(counts: Sequence[int]) -> str:
    return ", ".join(f"{number}: {often}" for number, often in sorted(Counter(counts).items()))


def _verdict(jobs: Sequence[dict[str, Any]]) -> int:
    statuses = Counter(job["status"] for job in jobs)
    print(", ".join(f"{count} {status}" for status, count in statuses.items()))
    return 0 if set(statuses) == {"succeeded"} else 1


if __name__ == "__main__":
    sys.exit(main())

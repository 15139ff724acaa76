"""What the broker is worth: a service with one beside a service whose broker is never there.

    .venv/bin/python -m bench.broker --lone 40 --burst 200

Both run at once and are asked in turn, so that whatever else the machine does meets them alike.
Exits with 1 if a job did not succeed.
"""

import argparse
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.client import Client, seconds_between, time_of
from bench.figures import percentile, table
from bench.whole import whole_service

_MODEL = "digits"
_CONNECTIONS = 16
_ROUNDS = 4  # of the burst
_LONGEST_PAUSE_SECONDS = 2.0  # a lone job comes at any moment between two rounds of recovery


def main() -> int:
    """Ask both, print what each did and the ratios; 1 if a job did not succeed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lone", type=int, default=40, help="jobs sent one by one, to each")
    parser.add_argument("--burst", type=int, default=200, help="jobs sent at once, to each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack, _nobody() as nobody:
        places = {
            "with a broker": {},
            "without": {"redis_url": f"redis://{nobody}/0"},
        }
        clients = {
            name: Client(
                stack.enter_context(
                    whole_service(Path(directory, str(number)), _MODEL, **settings)
                ).url,
                _MODEL,
                size=32,
                timeout=300,
            )
            for number, (name, settings) in enumerate(places.items())
        }
        figures = {name: _Figures() for name in clients}
        for _ in range(options.lone):
            for name, client in clients.items():
                time.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))
                figures[name].lone(client)
        for _ in range(_ROUNDS):
            for name, client in clients.items():
                figures[name].burst(client, options.burst)
    with_broker, without = (figures[name].summary() for name in clients)
    rows = [
        (
            name,
            f"{value:.1f}",
            f"{without[name]:.1f}",
            f"{without[name] / value:.2f}",
        )
        for name, value in with_broker.items()
    ]
    print(table((f"{_MODEL}, SQLite", *clients, "ratio"), rows))
    failed = sum(one.failed for one in figures.values())
    print(f"{failed} jobs did not succeed")
    return 1 if failed else 0


class _Figures:
    """What one of the two did."""

    def __init__(self) -> None:
        self.failed = 0
        self._alone: list[float] = []
        self._answered: list[float] = []
        self._bursts: list[tuple[int, float]] = []

    def lone(self, client: Client) -> None:
        """One job, and nothing else."""
        job = client.ended(self._submit(client, client.new_image()))
        self._alone.append(seconds_between(job, "created_at", "finished_at"))
        self.failed += job["status"] != "succeeded"

    def burst(self, client: Client, number: int) -> None:
        """So many jobs at once."""
        images = [client.new_image() for _ in range(number)]
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            ids = list(pool.map(lambda image: self._submit(client, image), images))
        jobs = [client.ended(job_id) for job_id in ids]
        first = min(time_of(job, "created_at") for job in jobs)
        last = max(time_of(job, "finished_at") for job in jobs)
        self._bursts.append((number, (last - first).total_seconds()))
        self.failed += sum(job["status"] != "succeeded" for job in jobs)

    def _submit(self, client: Client, image: bytes) -> str:
        began = time.perf_counter()
        job_id = client.submit(image)
        self._answered.append(time.perf_counter() - began)
        return job_id

    def summary(self) -> dict[str, float]:
        """The figures by name."""
        jobs, seconds = (sum(column) for column in zip(*self._bursts, strict=True))
        return {
            "submit answered, ms, p50": percentile(self._answered, 0.5) * 1000,
            "submit answered, ms, p95": percentile(self._answered, 0.95) * 1000,
            "lone job, accepted to finished, ms, p50": percentile(self._alone, 0.5) * 1000,
            "lone job, accepted to finished, ms, p95": percentile(self._alone, 0.95) * 1000,
            "jobs a second of a burst": jobs / seconds,
        }


@contextmanager
def _nobody() -> Iterator[str]:
    """An address that refuses every connection, and that nobody else gets meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


if __name__ == "__main__":
    sys.exit(main())

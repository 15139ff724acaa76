"""A day of a service's life in minutes: whether anything grows while jobs come and go.

    .venv/bin/python -m bench.life --jobs 200000 --rate 200
    .venv/bin/python -m bench.life --jobs 200000 --rate 200 --database postgresql

Starts a service of its own (`classify up`, with a model that costs nothing) in a temporary
directory, and hands in distinct pictures over HTTP at a steady rate, or as fast as the service
takes them: half of them by themselves, the others in archives. What has ended is kept for a tenth
of the time that the rate takes. At each tenth of the jobs it notes the rows and the size of the
tables, the memory of each part and how long claims took, and prints them as Markdown. Exits with 1
if a job was not accepted, or was seen to end otherwise than well.
"""

import argparse
import http.client
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import psycopg

from bench.figures import markdown, percentile
from bench.passes import claim_milliseconds
from bench.pictures import pictures, write_tar
from bench.tables import Tables, look
from bench.whole import NO_COST, Whole, whole_service
from shared.database import Database
from tests.services import PostgresServer

_TENTHS = 10
_ARCHIVES = 2  # in each tenth
_EVERY_FOURTH = 4  # has an Idempotency-Key, and is polled
_REFUSALS = frozenset({429, 503})
_PARTS = ("web", "worker", "background")
_END_SECONDS = 300.0
_DAY_SECONDS = 24 * 3600.0
_ORPHAN_SECONDS = 120.0  # at least: an object is written some time before its row


@dataclass
class Load:
    """What is handed in, by several clients at a steady rate."""

    host: str
    jobs: int
    rate: float
    accepted: int = 0
    refused: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, number: int = 1) -> None:
        """So many more jobs were accepted."""
        with self._lock:
            self.accepted += number

    def send(self, client: int, clients: int) -> None:
        """Hand in every picture that is this client's, each when it is due."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        began, fresh = time.monotonic(), pictures(seed=client)
        for number in range(client, self.jobs, clients):
            if self.stopping.wait(max(0.0, began + number / self.rate - time.monotonic())):
                return
            # Of each client's own: clients that had all of them would fall behind the others.
            fourth = number // clients % _EVERY_FOURTH == 0
            job = self._post(connection, next(fresh), f"key {number}" if fourth else None)
            self.count()
            if fourth:
                connection.request("GET", f"/v1/jobs/{job}")
                _read(connection, 200)

    def _post(self, connection: http.client.HTTPConnection, data: bytes, key: str | None) -> str:
        headers = {"Content-Type": "image/png"}
        if key is not None:
            headers["Idempotency-Key"] = key
        while True:
            connection.request("POST", f"/v1/jobs?model={NO_COST}", body=data, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status not in _REFUSALS:
                break
            with self._lock:
                self.refused += 1
            time.sleep(float(answer.getheader("Retry-After", "1")))
        if answer.status not in (200, 202):
            raise RuntimeError(f"{answer.status}: {body[:500].decode(errors='replace')}")
        return str(json.loads(body)["id"])


@dataclass(frozen=True)
class Tenth:
    """What was found at the end of one tenth."""

    accepted: int
    seconds: float
    tables: Tables
    objects: int
    files_bytes: int
    memory: dict[str, int]
    claims: list[float]


def main() -> int:
    """Let the time go by; 1 if a job did not succeed."""
    options = _options()
    # Ended either way, we stop our service and our server first.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bench-life-") as name, _database(options) as url:
        directory = Path(name)
        seconds = options.jobs / options.rate
        kept = seconds / _TENTHS
        settings = {
            "database_url": url or f"sqlite:///{directory / 'service/data/classifier.db'}",
            "retention_days": kept / _DAY_SECONDS,
            "idempotency_hours": kept / 3600,
            "orphan_hours": max(_ORPHAN_SECONDS, kept) / 3600,
            # As often as every 10 minutes of a day.
            "sweep_seconds": max(0.5, seconds / 144),
        }
        _say(f"kept for {kept:.0f} s, swept every {settings['sweep_seconds']:.1f} s")
        with whole_service(directory / "service", NO_COST, **settings) as service:
            database = Database(settings["database_url"], pool_size=2)
            try:
                return _live(options, service, database, directory)
            finally:
                database.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--rate", type=float, default=200, help="jobs a second that are handed in")
    parser.add_argument("--archived", type=float, default=0.5, help="share of all jobs")
    parser.add_argument("--clients", type=int, default=8, help="connections")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options = parser.parse_args()
    if not 0 <= options.archived <= 1:
        parser.error("--archived is a share, from 0 to 1")
    if min(options.jobs / 1000, options.rate, options.clients) < 1:
        parser.error("at least 1,000 jobs, one a second and one connection are needed")
    return options


@contextmanager
def _database(options: argparse.Namespace) -> Iterator[str | None]:
    if options.database == "sqlite":
        yield None
        return
    server = PostgresServer()
    try:
        server.start()
        with psycopg.connect(server.url(), autocommit=True) as connection:
            # A minute by default: of a day's 1,440 rounds only a few would be left.
            connection.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
            connection.execute("SELECT pg_reload_conf()")
        yield server.create_database()
    finally:
        server.close()


def _live(options: argparse.Namespace, service: Whole, database: Database, directory: Path) -> int:
    archived = int(options.jobs * options.archived) // (_TENTHS * _ARCHIVES)
    alone = options.jobs - archived * _TENTHS * _ARCHIVES
    rate = options.rate * alone / options.jobs
    load = Load(service.url.removeprefix("http://"), alone, rate)
    tenths, offset, began = [], service.log.stat().st_size, time.monotonic()
    with ThreadPoolExecutor(options.clients + 1) as pool:
        clients = [
            pool.submit(load.send, number, options.clients) for number in range(options.clients)
        ]
        clients.append(pool.submit(_ingest, load, service, directory, archived, options))
        try:
            for number in range(1, _TENTHS + 1):
                _until_accepted(load, options.jobs * number // _TENTHS, clients)
                tenths.append(_look(load, service, database, time.monotonic() - began, offset))
                offset = service.log.stat().st_size
                _say(" ".join(_row(number, tenths)))
        finally:
            load.stopping.set()
    left = _end(database)
    print(
        f"{options.jobs:,} jobs at {options.rate:g}/s, kept for a tenth of that; {load.refused} "
        f"refused for a moment\n"
    )
    print(markdown(_head(database), [_row(number, tenths[:number]) for number in range(1, 11)]))
    wrong = sum(one.tables.wrong for one in tenths) + left.wrong
    print(f"\nAt the end: {left.unfinished} unfinished; ended otherwise than well: {wrong}.")
    return 1 if left.unfinished or wrong or load.accepted != options.jobs else 0


def _ingest(
    load: Load, service: Whole, directory: Path, images: int, options: argparse.Namespace
) -> None:
    """Hand in an archive whenever the jobs that came by themselves have got as far."""
    fresh, archive = pictures(seed=options.clients), directory / "images.tar"
    each = options.jobs // (_TENTHS * _ARCHIVES)
    for number in range(_TENTHS * _ARCHIVES if images else 0):
        while load.accepted < number * each:
            if load.stopping.wait(0.2):
                return
        write_tar(archive, islice(fresh, images))
        service.ingest(NO_COST, path=archive)
        load.count(images)


def _until_accepted(load: Load, number: int, clients: list["Future[None]"]) -> None:
    """Wait for so many; what goes wrong in a client goes wrong here."""
    while load.accepted < number:
        done = wait(clients, timeout=0.2, return_when=FIRST_EXCEPTION).done
        for client in done:
            client.result()
        if len(done) == len(clients) and load.accepted < number:
            raise RuntimeError(f"{load.accepted} of {number} were accepted")


def _end(database: Database) -> Tables:
    """What is left once every job has ended, or too long after the last was handed in."""
    give_up = time.monotonic() + _END_SECONDS
    while (left := look(database)).unfinished and time.monotonic() < give_up:
        time.sleep(1)
    return left


def _look(load: Load, service: Whole, database: Database, seconds: float, offset: int) -> Tenth:
    # While it is walked through, directories vanish; `os.walk` passes over them.
    objects = os.walk(service.directory / "data/objects/images")
    return Tenth(
        load.accepted,
        seconds,
        look(database),
        sum(len(files) for _, _, files in objects),
        service.database_bytes(),  # with its log; of none but SQLite
        service.memory(),
        claim_milliseconds(service.log, offset),
    )


def _head(database: Database) -> list[str]:
    rows = ["jobs", "images", "results", "items", "keys", "objects"]
    sizes = ["files, MiB", "tables, MiB", "free, MiB"]
    if not database.is_sqlite:
        tables = [f"{name}, MiB" for name in ("jobs", "images", "results", "items")]
        sizes = ["database, MiB", *tables, "dead jobs", "other dead rows"]
    memory = [f"{part}, MiB" for part in _PARTS]
    return ["tenth", "jobs/s", "unfinished", *rows, *sizes, *memory, "claim p50, ms", "p95"]


def _row(number: int, tenths: list[Tenth]) -> list[str]:
    one = tenths[-1]
    jobs, seconds = one.accepted, one.seconds
    if len(tenths) > 1:
        jobs, seconds = jobs - tenths[-2].accepted, seconds - tenths[-2].seconds
    tables = one.tables
    names = ("jobs", "images", "results", "items", "idempotency_keys")
    return [
        str(number),
        f"{jobs / seconds:.0f}",
        f"{tables.unfinished:,}",
        *(f"{tables.rows[name]:,}" for name in names),
        f"{one.objects:,}",
        *_sizes(one),
        *(_mib(one.memory.get(part, 0)) for part in _PARTS),
        *(f"{percentile(one.claims, share):.1f}" if one.claims else "-" for share in (0.5, 0.95)),
    ]


def _sizes(one: Tenth) -> list[str]:
    parts, size = one.tables.parts, one.tables.size_bytes
    if "free" in parts:
        return [_mib(one.files_bytes), _mib(size - parts["free"]), _mib(parts["free"])]
    dead = {name: rows for name, rows in parts.items() if name.endswith(", dead")}
    of_jobs = dead.pop("jobs, dead")
    sizes = [_mib(parts[name]) for name in ("jobs", "images", "results", "items")]
    return [_mib(size), *sizes, f"{of_jobs:,}", f"{sum(dead.values()):,}"]


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _read(connection: http.client.HTTPConnection, status: int) -> None:
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != status:
        raise RuntimeError(f"{answer.status}: {body[:500].decode(errors='replace')}")


if __name__ == "__main__":
    sys.exit(main())

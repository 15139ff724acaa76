"""Bulk ingestion: what it costs as it grows, and what others notice of it.

    .venv/bin/python -m bench.bulk memory --entries 1000 100000
    .venv/bin/python -m bench.bulk latency --entries 100000 --interactive 50
    .venv/bin/python -m bench.bulk list --lines 1000000 --images 10000

Each starts a service of its own in a temporary directory, and ends it. `memory` and `list` use a
model that costs nothing. Exits with 1 if an image did not succeed.
"""

import argparse
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import requests

from bench.figures import percentile, table
from bench.passes import claim_milliseconds, passes_since
from bench.pictures import pictures, write_tar
from bench.whole import NO_COST, Whole, whole_service
from shared.database import utc_now

_PARTS = ("web", "background", "worker")
_SETTLED_SECONDS = 5.0


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    memory = commands.add_parser("memory", help="memory and time as an archive grows")
    memory.add_argument("--entries", type=int, nargs="+", default=[1000, 100_000])
    memory.set_defaults(run=_memory)
    latency = commands.add_parser("latency", help="interactive jobs while bulk jobs wait")
    latency.add_argument("--entries", type=int, default=100_000)
    latency.add_argument("--interactive", type=int, default=50)
    latency.add_argument("--model", default="digits")
    latency.set_defaults(run=_latency)
    lines = commands.add_parser("list", help="a long list over few pictures")
    lines.add_argument("--lines", type=int, default=1_000_000)
    lines.add_argument("--images", type=int, default=10_000)
    lines.set_defaults(run=_list)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-bulk-") as directory:
        return int(options.run(options, Path(directory)))


def _memory(options: argparse.Namespace, directory: Path) -> int:
    rows, good = [], True
    for number in options.entries:
        archive = directory / f"{number}.tar"
        write_tar(archive, islice(pictures(seed=1), number))
        with whole_service(directory / f"service-{number}", NO_COST) as service:
            time.sleep(_SETTLED_SECONDS)
            began = time.monotonic()
            ended = service.ended(service.ingest(NO_COST, path=archive))
            seconds = time.monotonic() - began
            peaks = service.peaks()
        good &= ended["counts"]["succeeded"] == number
        rows.append(
            [
                f"{number:,}",
                *(f"{peaks[part] / 2**20:.0f}" for part in _PARTS),
                f"{seconds:.1f}",
                f"{1000 * seconds / number:.2f}",
            ]
        )
        archive.unlink()
        print(rows[-1], file=sys.stderr)
    print(table(["entries", *(f"{part}, MiB" for part in _PARTS), "s", "ms an image"], rows))
    return 0 if good else 1


def _latency(options: argparse.Namespace, directory: Path) -> int:
    archive = directory / "bulk.tar"
    write_tar(archive, islice(pictures(seed=1), options.entries))
    with whole_service(directory / "service", options.model) as service:
        time.sleep(_SETTLED_SECONDS)
        fresh = pictures(seed=2)
        idle = [
            _job_seconds(service, options.model, next(fresh)) for _ in range(options.interactive)
        ]
        with service.worker_paused():
            ingestion = service.ingest(options.model, path=archive)
            while service.ingestion(ingestion)["expanded_at"] is None:
                time.sleep(0.5)
        time.sleep(_SETTLED_SECONDS)
        waiting = service.ingestion(ingestion)["counts"]["pending"]
        first, offset = utc_now(), service.log.stat().st_size
        busy = [
            _job_seconds(service, options.model, next(fresh)) for _ in range(options.interactive)
        ]
        last = utc_now()
        left = service.ingestion(ingestion)["counts"]["pending"]
        passes = [
            one.seconds
            for one in passes_since(service.log, offset, options.model, first, last)
            if one.lane == "bulk"
        ]
        requests.post(f"{service.url}/v1/ingestions/{ingestion}/cancel", timeout=60)
    bound = percentile(idle, 0.95) + percentile(passes, 0.95)
    rows = [
        ["idle service, p50", f"{1000 * percentile(idle, 0.5):.0f}"],
        ["idle service, p95", f"{1000 * percentile(idle, 0.95):.0f}"],
        ["a bulk pass, p95", f"{1000 * percentile(passes, 0.95):.0f}"],
        ["under bulk, p50", f"{1000 * percentile(busy, 0.5):.0f}"],
        ["under bulk, p95", f"{1000 * percentile(busy, 0.95):.0f}"],
        ["under bulk, p95 : (idle p95 + pass p95)", f"{percentile(busy, 0.95) / bound:.2f}"],
        ["bulk jobs that waited, first and last", f"{waiting:,}, {left:,}"],
        ["bulk passes meanwhile", f"{len(passes)}"],
    ]
    print(table([f"{options.interactive} interactive jobs, {options.model}", "ms"], rows))
    return 0


def _list(options: argparse.Namespace, directory: Path) -> int:
    folder = directory / "pictures"
    folder.mkdir()
    for number, data in zip(range(options.images), pictures(seed=1), strict=False):
        (folder / f"{number}.png").write_bytes(data)
    listed = directory / "list.txt"
    with listed.open("w") as file:
        for number in range(options.lines):
            file.write(f"{(folder / f'{number % options.images}.png').as_uri()}\n")
    rows: list[list[str]] = []
    with whole_service(directory / "service", NO_COST, source_roots=folder) as service:
        time.sleep(_SETTLED_SECONDS)
        began, seen = time.monotonic(), 0
        ingestion = service.ingest(NO_COST, path=listed)
        marks = [share * options.lines // 4 for share in (1, 2, 3, 4)]
        while marks:
            found = service.ingestion(ingestion)
            done = found["counts"]["total"] - found["counts"]["pending"]
            over = found["status"] not in ("queued", "running")
            if done >= marks[0] or over:
                marks = [] if over else marks[1:]
                rows.append(_state(service, done, time.monotonic() - began, seen))
                seen = service.log.stat().st_size
                print(rows[-1], file=sys.stderr)
            time.sleep(1)
        ended = service.ended(ingestion)
        seconds = time.monotonic() - began
    print(
        table(
            ["images", "s", *(f"{part}, MiB" for part in _PARTS), "database, MiB", "claim, ms"],
            rows,
        )
    )
    print(f"{ended['status']}, {ended['counts']['succeeded']:,} in {seconds:.0f} s")
    return 0 if ended["counts"]["succeeded"] == options.lines else 1


def _state(service: Whole, done: int, seconds: float, offset: int) -> list[str]:
    peaks, claims = service.peaks(), claim_milliseconds(service.log, offset)
    return [
        f"{done:,}",
        f"{seconds:.0f}",
        *(f"{peaks[part] / 2**20:.0f}" for part in _PARTS),
        f"{service.database_bytes() / 2**20:.0f}",
        f"{percentile(claims, 0.5):.1f}" if claims else "-",
    ]


def _job_seconds(service: Whole, model: str, picture: bytes) -> float:
    """From the upload to the answer with the result."""
    began = time.perf_counter()
    answer = requests.post(
        f"{service.url}/v1/jobs",
        files={"image": ("picture.png", picture, "image/png")},
        data={"model": model},
        headers={"Prefer": "wait=60"},
        timeout=120,
    )
    answer.raise_for_status()
    if answer.json()["status"] != "succeeded":
        raise RuntimeError(answer.text)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

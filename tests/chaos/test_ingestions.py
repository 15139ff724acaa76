"""Ingestions from every kind of source, undisturbed and killed again and again: the same lines.

`--images 10000 --kills 10` makes it long.
"""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.functional.service import Service, running
from tests.pictures_in_bulk import (
    pictures,
    served,
    write_bucket,
    write_directory,
    write_tar_gz,
    write_zip,
)
from tests.services import BrokerServer, S3Server, wait_until

# With many images it takes as long as they do.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

SOURCES = ("zip", "tar.gz", "directory", "bucket", "list")
_SECONDS_AN_IMAGE = 0.1  # at the very most


@dataclass
class Place:
    """A service, and where its sources lie."""

    service: Service
    directory: Path
    bucket: str
    s3: S3Server
    web: str
    log_at: int = 0

    def ingest(self, kind: str, files: dict[str, bytes], **options: Any) -> str:
        """Hand the files in by this kind of source."""
        name = f"{kind}-{len(files)}-{time.monotonic_ns()}"
        path = self.directory / name
        if kind == "zip":
            return self.service.ingest(write_zip(path, files), **options)
        if kind == "tar.gz":
            return self.service.ingest(write_tar_gz(path, files), **options)
        if kind == "bucket":
            url = f"{self.bucket}/{name}"
            write_bucket(url, self.s3.settings, files)
            return self.service.ingest_from(url, **options)
        write_directory(path, files)
        if kind == "directory":
            return self.service.ingest_from(path.as_uri(), **options)
        lines = "".join(f"{self.web}/{name}/{file}\n" for file in files)
        return self.service.ingest(lines.encode(), **options)

    def passed(self) -> int:
        """How many images went through the model since it was asked last."""
        events = self.service.worker.events("batch")
        new, self.log_at = events[self.log_at :], len(events)
        return sum(event["passed"] for event in new)


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    _broker_server: BrokerServer,
    _s3_server: S3Server,
) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("ingestions")
    _broker_server.start()
    _s3_server.start()
    bucket = _s3_server.url()
    sources = directory / "sources"
    sources.mkdir()
    with (
        served(sources) as web,
        running(
            directory,
            f"sqlite:///{directory / 'classifier.db'}",
            _broker_server.url,
            source_roots=sources,
            source_prefixes=bucket,
            source_hosts=web.removeprefix("http://"),
            **_s3_server.settings,
        ) as service,
    ):
        yield Place(service, sources, bucket, _s3_server, web)


def option(request: pytest.FixtureRequest, name: str) -> int:
    return int(request.config.getoption(name))


def short(name: str) -> str:
    """A name without what its source has put before it."""
    return "/".join(name.split("/")[-2:])


def outcomes(lines: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What two runs may not differ in."""
    return [
        (
            line["position"],
            short(line["name"]),
            line["status"],
            line["error"] and line["error"]["code"],
            [found["label"] for found in line["predictions"] or ()],
        )
        for line in lines
    ]


def scores(lines: list[dict[str, Any]]) -> list[float]:
    return [found["score"] for line in lines for found in line["predictions"] or ()]


def test_every_kind_of_source_gives_the_same(place: Place, request: pytest.FixtureRequest) -> None:
    number = option(request, "--images")
    seen = []
    for run, kind in enumerate(SOURCES):
        made = pictures(number, seed=run)  # others each time: nothing is known already
        place.passed()
        ingestion = place.ingest(kind, made.files)
        done = place.service.wait_for_ingestion(ingestion, seconds=60 + number * _SECONDS_AN_IMAGE)
        lines = place.service.results(ingestion)
        assert {short(line["name"]) for line in lines} == set(made.files), kind
        failed = {short(line["name"]): line for line in lines if line["status"] == "failed"}
        assert set(failed) == made.broken, kind
        for line in failed.values():
            assert line["error"]["code"] in {"unsupported_image", "image_unreadable"}, line
        # A broken one may be decoded for some way, and is passed by none.
        assert made.distinct <= place.passed() <= made.distinct * 1.001, kind
        del done["counts"]["not_images"]  # how much of a picture is left depends on its pixels
        seen.append((done["status"], done["counts"]))
    assert seen == [seen[0]] * len(SOURCES)
    assert seen[0][0] == "partially_succeeded"
    assert seen[0][1]["failed"] == max(1, number // 100)


def test_killed_again_and_again_it_ends_with_the_same_lines(
    place: Place,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    _broker_server: BrokerServer,
    postgresql_url: str,
) -> None:
    number, kills = option(request, "--images"), option(request, "--kills")
    made = pictures(number, seed=99)
    calm = place.ingest("zip", made.files)
    place.service.wait_for_ingestion(calm, seconds=60 + number * _SECONDS_AN_IMAGE)
    expected = place.service.results(calm)
    output = tmp_path / "output"
    with running(
        tmp_path,
        postgresql_url,
        _broker_server.url,
        output_prefixes=output.as_uri(),
        output_part_rows=number // 3,
    ) as service:
        archive = write_zip(tmp_path / "pictures.zip", made.files)
        ingestion = service.ingest(archive, output=output.as_uri())
        dice = random.Random(7)
        for kill in range(kills):
            time.sleep(dice.uniform(0.2, 2.5))
            part = service.background if kill % 2 == 0 else service.worker
            part.kill()
            part.start()
        done = service.wait_for_ingestion(ingestion, seconds=120 + number * _SECONDS_AN_IMAGE)
        lines = service.results(ingestion)
        assert done["counts"] == place.service.ingestion(calm)["counts"]
        assert outcomes(lines) == outcomes(expected)
        assert scores(lines) == pytest.approx(scores(expected), abs=1e-5)
        wait_until(
            lambda: service.ingestion(ingestion)["output"]["written_at"] is not None,
            seconds=60,
            what="the result files",
        )
        assert_same_files(output / ingestion, lines)


def assert_same_files(directory: Path, lines: list[dict[str, Any]]) -> None:
    """The files hold these lines, each once, and the manifest tells of every file."""
    manifest = json.loads((directory / "manifest.json").read_text())
    parts = sorted(directory.glob("part-*.jsonl"))
    written = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    assert written == lines
    rows = [row for part in sorted(directory.glob("*.parquet")) for row in read_rows(part)]
    assert [(row["position"], row["job"]) for row in rows] == [
        (line["position"], line["job"]) for line in lines
    ]
    assert {file.name for file in directory.iterdir()} == {
        "manifest.json",
        *(file["name"] for file in manifest["parts"]),
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows

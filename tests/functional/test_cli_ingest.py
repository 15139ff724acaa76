"""`classify ingest`, `classify ingestions` and `classify watch` against a running service."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.functional.service import ROOT, Service, digit_png, running
from tests.pictures_in_bulk import write_directory, write_zip
from tests.services import BrokerServer, wait_until

FILES = {f"{n % 2}/{n}.png": digit_png(n) for n in range(8)}


@pytest.fixture(scope="module")
def service(
    _broker_server: BrokerServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("commands")
    _broker_server.start()
    with running(
        directory,
        f"sqlite:///{directory / 'classifier.db'}",
        _broker_server.url,
        default_model="digits",
        source_roots=directory,
    ) as found:
        yield found


def names(lines: list[dict[str, Any]]) -> list[str]:
    return [line["name"] for line in lines]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_becomes_one_ingestion_and_its_results_a_file(
    service: Service, tmp_path: Path
) -> None:
    folder = write_directory(tmp_path / "pictures", FILES)
    (folder / "link.png").symlink_to(folder / "0/0.png")
    (folder / ".DS_Store").write_bytes(b"junk")
    output = tmp_path / "results.jsonl"
    done = service.command("ingest", str(folder), "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "8 succeeded" in done.stdout
    lines = read_lines(output)
    assert names(lines) == sorted(FILES)
    assert all(line["predictions"] for line in lines)


def test_an_archive_with_a_broken_picture_ends_with_three(service: Service, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "pictures.zip", FILES | {"notes.txt": b"nothing"})
    for kind in ("csv", "parquet"):
        output = tmp_path / f"results.{kind}"
        done = service.command("ingest", str(archive), "--output", str(output), "--json")
        assert done.returncode == 3, done.stderr
        assert json.loads(done.stdout)["counts"]["failed"] == 1
        assert not output.with_name(f"{output.name}.part").exists()
    assert (tmp_path / "results.csv").read_text().count("\n") == 10
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["name"] for row in rows] == [*FILES, "notes.txt"]
    assert rows[-1]["error_code"] == "unsupported_image"


def test_pictures_lists_and_addresses_are_taken(service: Service, tmp_path: Path) -> None:
    folder = write_directory(tmp_path / "pictures", FILES)
    done = service.command("ingest", str(folder / "0/0.png"), str(folder / "1/1.png"), "--output=-")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert names(lines) == ["0/0.png", "1/1.png"]  # else two of one name could not be told apart
    own = write_directory(service.directory / "own", FILES)
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{(own / name).as_uri()}\n" for name in FILES))
    for source in (str(listed), own.as_uri()):
        done = service.command("ingest", source, "--wait", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["counts"]["succeeded"] == len(FILES)


def test_refusals_are_one_sentence(service: Service, tmp_path: Path) -> None:
    large = tmp_path / "large" / "list.txt"
    large.parent.mkdir()
    large.write_bytes(b"a.png\n" * 5_000_000)
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, code, said in (
        (["ingest", str(tmp_path / "nowhere")], 1, "is not there"),
        (["ingest", __file__, "--output", "nowhere/results.csv"], 2, "no folder"),
        # Refused before all of it was sent.
        (["ingest", str(large), "--top-k", "99"], 1, "top_k"),
        (["ingest", "s3://bucket/x"], 1, "CLASSIFIER_SOURCE_PREFIXES"),
        (["ingest", __file__, "--output", "results.xls"], 2, ".parquet"),
        (["ingest", str(empty)], 1, "no files in"),
        (["ingest", __file__, "--model", "unheard-of"], 1, "no model 'unheard-of'"),
    ):
        done = service.command(*arguments)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_ingestions_are_listed_cancelled_and_their_results_fetched(
    service: Service, tmp_path: Path
) -> None:
    archive = write_zip(tmp_path / "pictures.zip", FILES)
    made = json.loads(service.command("ingest", str(archive), "--json").stdout)
    service.wait_for_ingestion(made["id"])
    assert made["id"] in service.command("ingestions", "list").stdout
    done = service.command("ingestions", "results", made["id"])
    assert len(done.stdout.splitlines()) == len(FILES)
    done = service.command("ingestions", "cancel", made["id"])
    assert (done.returncode, "already" in done.stderr) == (1, True), done.stderr
    assert service.command("ingestions", "retry", made["id"]).returncode == 0


@pytest.fixture
def watch(service: Service) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `classify watch`; it is ended at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ops.cli", "watch", "--interval", "0.2", *arguments]
        started.append(subprocess.Popen(command, cwd=ROOT, env=service.environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_what_appears_in_a_watched_folder_is_classified_once(
    service: Service, tmp_path: Path, watch: Callable[..., subprocess.Popen[bytes]]
) -> None:
    folder = write_directory(tmp_path / "inbox", FILES)
    results = folder / "results"
    before = len(service.jobs(limit=100))
    process = watch(str(folder), "--results", str(results))
    wait_until(lambda: len(list(results.glob("*/*.json"))) > 1, seconds=60, what="results")
    process.kill()  # at any point
    process.wait()
    (folder / "late.png").write_bytes(digit_png(20))
    (folder / "broken.png").write_bytes(b"no picture")
    process = watch(str(folder), "--results", str(results))
    expected = {f"{name}.json" for name in (*FILES, "late.png", "broken.png")}

    def found() -> set[str]:
        return {str(path.relative_to(results)) for path in results.rglob("*.json")}

    wait_until(lambda: found() == expected, seconds=60, what="all results")
    late = json.loads((results / "late.png.json").read_text())
    assert (late["file"], late["status"]) == ("late.png", "succeeded")
    assert json.loads((results / "broken.png.json").read_text())["error"]["code"] == (
        "unsupported_image"
    )
    time.sleep(1)
    assert found() == expected
    assert len(service.jobs(limit=100)) == before + len(FILES) + 1
    (folder / "late.png").write_bytes(digit_png(21))
    wait_until(
        lambda: json.loads((results / "late.png.json").read_text())["sha256"] != late["sha256"],
        seconds=60,
        what="the new result",
    )
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_folder_is_classified_once_for_cron(service: Service, tmp_path: Path) -> None:
    folder = write_directory(tmp_path / "inbox", {"a.png": digit_png(30), "b.png": b"nothing"})
    # A picture is not to blame for what is asked.
    done = service.command("watch", str(folder), "--once", "--interval", "0.2", "--model", "none")
    assert done.returncode == 1, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png"]
    done = service.command("watch", str(folder), "--once", "--interval", "0.2")
    assert done.returncode == 3, done.stderr
    assert {path.name for path in folder.iterdir()} == {
        "a.png", "a.png.json", "b.png", "b.png.json",
    }  # fmt: skip
    before = len(service.jobs(limit=100))
    (folder / "a.png").touch()
    assert service.command("watch", str(folder), "--once", "--interval", "0.2").returncode == 0
    assert len(service.jobs(limit=100)) == before

"""The background worker as a process: it mends, it sweeps, it says why a model is missing."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Row, func, select, update

from ops.environment import child_environment
from ops.models import prepare
from shared import models
from shared.database import Database, utc_now
from shared.jobs.intake import Caller, JobOptions, NewImage, submit
from shared.models import resolve
from shared.settings import Settings, load_settings
from shared.storage.local import LocalStorage
from shared.tables import images, jobs, workers
from tests.integration.arenas import share_one_arena
from tests.integration.bulk import Bulk
from tests.integration.helpers import Stage
from tests.services import ROOT, free_port, wait_until


class Background:
    """One `classify background` on a database of its own."""

    def __init__(self, directory: Path) -> None:
        self.data = directory
        self.log = directory / "log"
        self.database = Database(f"sqlite:///{directory / 'classifier.db'}")
        self.storage = LocalStorage(directory / "objects")
        prepare(self.database, self.storage, ["mobilenet_v2", "vgg16"])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str, **settings: str) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.data / "home"),
            "CLASSIFIER_DATA_DIR": str(self.data),
            "CLASSIFIER_LOG_FORMAT": "json",
            "CLASSIFIER_RECOVERY_SECONDS": "0.1",
            "CLASSIFIER_SWEEP_SECONDS": "0.1",
            "CLASSIFIER_DOWNLOAD": "",
            "no_proxy": "*",
            **{f"CLASSIFIER_{name.upper()}": value for name, value in settings.items()},
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(command or ("-m", "ops.cli", "background"))],
                cwd=ROOT,
                env=environment,
                stderr=log,
            )

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0

    def submit(self, data: bytes, deadline_seconds: float | None = None) -> None:
        with self.database.read() as connection:
            target = resolve(connection, "digits")
        submit(
            self.database,
            self.storage,
            NewImage(data, "image/png", 1, 1),
            None,
            JobOptions("digits", deadline_seconds=deadline_seconds),
            target,
            Caller("local"),
        )

    def ingest_nothing(self, **values: Any) -> UUID:
        """An ingestion whose source had nothing."""
        with self.database.read() as connection:
            version_id = resolve(connection, "digits").version_id
        bulk = Bulk(Stage(self.database, version_id))
        ingestion = bulk.expand(**values)
        bulk.close(ingestion)
        return ingestion

    def model(self, name: str) -> Row[tuple[object, ...]]:
        with self.database.read() as connection:
            [row] = [row for row in models.states(connection) if row.name == name]
        return row

    def events(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Background]:
    background = Background(tmp_path)
    yield background
    if background.process is not None and background.process.poll() is None:
        background.process.kill()
        background.process.wait()
    background.database.close()


def test_it_recovers_and_sweeps_and_stops(background: Background) -> None:
    files = background.data / "files"
    ingestion = background.ingest_nothing(output=files.as_uri())
    background.submit(b"overdue", deadline_seconds=0.001)
    background.submit(b"unused")
    then = utc_now() - timedelta(seconds=61)

    def leave_unused(connection: object) -> None:
        unused = NewImage(b"unused", "image/png", 1, 1).sha256
        connection.execute(jobs.delete().where(jobs.c.image == unused))  # type: ignore[attr-defined]
        connection.execute(update(images).values(created_at=then))  # type: ignore[attr-defined]

    background.database.transact(leave_unused)
    background.start(
        heartbeat_dir=str(background.data / "heartbeat"), output_prefixes=files.as_uri()
    )

    def done() -> bool:
        with background.database.read() as connection:
            statuses = connection.scalars(select(jobs.c.status)).all()
            left = connection.scalar(select(func.count()).select_from(images))
        written = (files / str(ingestion) / "manifest.json").exists()
        return statuses == ["expired"] and left == 1 and written

    wait_until(done, seconds=30, what="recovery, sweep and result files")
    with background.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(workers)) == 0
    assert [file.name for file in (background.data / "heartbeat").iterdir()] == ["background"]
    assert background.process is not None
    assert share_one_arena(background.process.pid)
    background.stop()
    assert set(background.events()) >= {"recovery", "sweep", "result_files_written"}


def test_it_works_on_where_no_sign_of_life_can_be_written(background: Background) -> None:
    background.submit(b"overdue", deadline_seconds=0.001)
    (background.data / "full").touch()  # in the place of the directory
    background.start(heartbeat_dir=str(background.data / "full"))

    def ended() -> bool:
        with background.database.read() as connection:
            return connection.scalars(select(jobs.c.status)).all() == ["expired"]

    wait_until(ended, seconds=30, what="recovery")
    background.stop()
    assert "no_heartbeat" in background.events()


BROKEN = """
import sys
from ops import cli
from worker import expander

def claim(*arguments, **options):
    raise ZeroDivisionError("a mistake of ours")

expander.expanding.claim = claim
sys.argv = ["classify", "background"]
cli.main()
"""


def test_an_expander_that_fails_ends_the_process_so_that_another_is_started(
    background: Background,
) -> None:
    background.start("-c", BROKEN)
    assert background.process is not None
    assert background.process.wait(30) == 70
    assert "thread_failed" in background.events()


def test_it_says_why_a_model_is_missing_and_tries_again(background: Background) -> None:
    port = free_port()
    background.start(
        download="mobilenet_v2,vgg16,resnet50-avg,unheard-of",
        weights_url=f"http://127.0.0.1:{port}",
        download_retry_seconds="0.1",
    )
    for name in ("mobilenet_v2", "vgg16"):
        wait_until(
            lambda name=name: background.model(name).download_error is not None,  # type: ignore[misc]
            seconds=30,
            what="reason",
        )
        row = background.model(name)
        assert row.download_error == "127.0.0.1 could not be reached (connection refused)."
        assert not row.downloading
    wait_until(
        lambda: background.events().count("download_failed") > 3, seconds=30, what="second try"
    )
    assert "download_unknown" in background.events()
    background.stop()


def test_stop_during_a_download_gives_it_back(background: Background) -> None:
    release = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "50000000")
            self.end_headers()
            while not release.wait(0.05):
                try:
                    self.wfile.write(b"x" * 300_000)
                except OSError:
                    return

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        background.start(download="vgg16", weights_url=f"http://127.0.0.1:{server.server_port}")
        wait_until(
            lambda: (background.model("vgg16").download_bytes or 0) > 0, seconds=30, what="bytes"
        )
        background.stop()
        row = background.model("vgg16")
        assert not row.downloading
        assert row.download_error is None
        partial = background.data / "downloads" / "vgg16.part"
        assert partial.stat().st_size > 0
    finally:
        release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_children_read_the_settings_that_we_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("CLASSIFIER_", "AWS_")) or name in ("DATABASE_URL", "REDIS_URL"):
            monkeypatch.delenv(name)
    ours = Settings(
        data_dir=Path("here"),
        bind="127.0.0.1:9000",
        models=("a", "b"),
        source_roots=(Path("in"), Path("/out")),
        source_hosts=("one.example", "two.example:81"),
        download=(),
        max_batch_size=3,
        web_threads=5,
        storage_url="s3://pictures",
        aws_endpoint_url="http://127.0.0.1:9000",
        aws_access_key_id="key",
        aws_secret_access_key=SecretStr("secret"),
    )
    for name, value in child_environment(ours, "redis+socket:///x").items():
        monkeypatch.setenv(name, value)
    theirs = load_settings()
    assert theirs.data_dir == tmp_path / "here"
    assert theirs.broker == "redis+socket:///x"
    assert theirs.database == f"sqlite:///{tmp_path / 'here' / 'classifier.db'}"
    assert theirs.source_roots == (tmp_path / "in", Path("/out"))
    told = {"data_dir", "database_url", "redis_url", "source_roots"}
    assert theirs.model_dump(exclude=told) == ours.model_dump(exclude=told)

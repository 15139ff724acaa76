"""`classify web` as a process: it stops soon, writes nothing elsewhere, and loads no TensorFlow."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from PIL import Image

from tests.integration.arenas import share_one_arena
from tests.integration.helpers import in_threads
from tests.services import ROOT, free_port, wait_until


class Web:
    """One `classify web` on an empty, migrated database."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.elsewhere = directory / "elsewhere"
        self.home.mkdir()
        self.elsewhere.mkdir()
        self.port = free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.home),
            "CLASSIFIER_DATA_DIR": str(directory / "data"),
            "CLASSIFIER_BIND": f"127.0.0.1:{self.port}",
            "CLASSIFIER_WEB_PROCESSES": "1",
            "CLASSIFIER_LOG_FORMAT": "json",
        }
        self.log = directory / "log"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ops.cli", *arguments]

    def start(self) -> None:
        subprocess.run(
            self.command("db", "upgrade"),
            env=self.environment,
            cwd=self.elsewhere,
            check=True,
            timeout=60,
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command("web"),
                env=self.environment,
                cwd=self.elsewhere,
                stdout=log,
                stderr=log,
            )
        wait_until(self.answers, seconds=60, what="web")

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5).ok
        except requests.ConnectionError:
            return False

    def hand_in(self) -> dict[str, Any]:
        """Make a job of one picture; it stays queued, for there is no worker."""
        picture = io.BytesIO()
        Image.new("L", (8, 8)).save(picture, "PNG")
        answer = requests.post(
            f"http://127.0.0.1:{self.port}/v1/jobs?model=digits",
            data=picture.getvalue(),
            headers={"Content-Type": "image/png"},
            timeout=20,
        )
        assert answer.status_code == 202
        job: dict[str, Any] = answer.json()
        return job

    def stop(self) -> None:
        """SIGTERM. It ends before its patience with connections does, which is 25 s."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    web = Web(tmp_path)
    web.start()
    yield web
    if web.process.poll() is None:
        web.process.kill()
        web.process.wait()


def test_idle_connection_does_not_hold_the_stop(web: Web) -> None:
    with socket.create_connection(("127.0.0.1", web.port)) as idle, requests.Session() as session:
        assert session.get(f"http://127.0.0.1:{web.port}/healthz", timeout=5).ok
        assert idle.fileno() >= 0  # connected, and never says anything
        web.stop()
    assert list(web.home.iterdir()) == []
    assert list(web.elsewhere.iterdir()) == []
    assert web.log.read_text() == ""


def test_request_that_waits_for_a_job_is_answered_at_the_stop(web: Web) -> None:
    base = f"http://127.0.0.1:{web.port}"
    made = web.hand_in()
    assert made["status"] == "queued"
    answers: list[str] = []

    def wait() -> None:
        answer = requests.get(
            base + made["links"]["self"], headers={"Prefer": "wait=60"}, timeout=70
        )
        answers.append(answer.json()["status"])

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(1)
    assert answers == []
    web.stop()
    waiting.join()
    assert answers == ["queued"]


def test_no_process_of_it_has_loaded_tensorflow(web: Web) -> None:
    arbiter = psutil.Process(web.process.pid)
    for process in (arbiter, *arbiter.children()):
        mapped = {Path(found.path).name for found in process.memory_maps()}
        assert not any("tensorflow" in name for name in mapped)
    web.stop()


def test_its_threads_share_their_memory(web: Web) -> None:
    # Each with an arena of its own, they hold more of it from hour to hour.
    in_threads(8, lambda _: [web.hand_in() for _ in range(5)])
    [process] = psutil.Process(web.process.pid).children()
    assert process.num_threads() > 4
    assert share_one_arena(process.pid)
    web.stop()


def test_application_that_cannot_be_made_ends_it(tmp_path: Path) -> None:
    web = Web(tmp_path)
    ended = subprocess.run(
        web.command("web"),
        env=web.environment | {"DATABASE_URL": "nonsense://"},
        cwd=web.elsewhere,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode in (1, 3)
    assert "nonsense" in ended.stderr

"""`classify up` for real: one command starts all of it, one Ctrl-C ends all of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from PIL import Image

from tests.services import AS_INSTALLED, ROOT, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PARTS = ("web", "worker", "background")


class Up:
    """A `classify up` on a directory; it may be started again there."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.log = directory / "log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(AS_INSTALLED),
            "CLASSIFIER_DOWNLOAD": "",
            "CLASSIFIER_WEB_PROCESSES": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, **options: str) -> list[str]:
        chosen = {"data_dir": str(self.data), "bind": f"127.0.0.1:{self.port}"} | options
        words = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
        return [sys.executable, "-m", "ops.cli", "up", *words]

    def start(self) -> None:
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        wait_until(
            lambda: f"Ready: {self.url}" in self.log.read_text() and set(PARTS) <= set(self.parts),
            seconds=90,
            what="start of everything",
        )

    def again(self, **options: str) -> subprocess.CompletedProcess[str]:
        """A second `up`, to its end."""
        return subprocess.run(
            self.command(**options),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def processes(self) -> list[psutil.Process]:
        """Every process of the service, the supervisor's own left out."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    @property
    def parts(self) -> dict[str, int]:
        """The process id of each part."""
        assert self.process is not None
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                words = child.cmdline()
            except psutil.Error:
                continue  # it has just ended
            for name in PARTS:
                if name in words:
                    found[name] = child.pid
            if words and ("valkey" in words[0] or "redis" in words[0]):
                found["broker"] = child.pid
        return found

    def answers(self, path: str = "/healthz") -> bool:
        try:
            return requests.get(self.url + path, timeout=5).ok
        except requests.RequestException:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(60)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    yield up
    if up.process is not None and up.process.poll() is None:
        left = up.processes
        up.process.kill()
        up.process.wait()
        for process in left:
            if process.is_running():
                process.kill()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes
    )


def submit(up: Up) -> str:
    """Submit a picture to `digits`; the job's address."""
    picture = up.data.parent / "picture.png"
    Image.new("L", (8, 8)).save(picture)
    with picture.open("rb") as file:
        answer = requests.post(
            f"{up.url}/v1/jobs", files={"image": file}, data={"model": "digits"}, timeout=20
        )
    assert answer.status_code in (200, 202), answer.text
    location: str = answer.json()["links"]["self"]
    return location


def answer_of(up: Up, job: str) -> str:
    return str(requests.get(up.url + job, timeout=20).json()["status"])


def test_it_starts_ends_and_survives_as_a_whole(up: Up) -> None:
    """One story, since every start of all of it takes long."""
    up.start()
    assert up.answers("/readyz")
    a_second_service_is_refused(up)
    job = submit(up)
    wait_until(lambda: answer_of(up, job) == "succeeded", seconds=120, what="an answer")
    processes = up.processes
    assert len(processes) >= 5  # broker, web and its process, worker, background worker
    up.signal(signal.SIGINT)
    assert up.wait() == 130
    assert gone(processes)
    said = up.log.read_text()
    assert "Ctrl-C stops everything" in said
    assert "Model digits: installed." in said
    assert "Model vgg16: not installed: its weights have not been downloaded. Run" in said
    assert "Traceback" not in said

    up.start()
    assert answer_of(up, job) == "succeeded"
    killed_parts_are_started_again(up)
    children_of_a_killed_supervisor_end(up)

    up.start()
    processes = up.processes
    up.signal(signal.SIGTERM)
    assert up.wait() == 0
    assert gone(processes)


def a_second_service_is_refused(up: Up) -> None:
    assert up.process is not None
    refused = up.again(bind=f"127.0.0.1:{free_port()}")
    assert refused.returncode == 1
    assert f"in use by another `classify up` (process {up.process.pid})" in refused.stderr
    refused = up.again(data_dir=str(up.data.with_name("other")))
    assert refused.returncode == 1
    assert f"the address 127.0.0.1:{up.port} is in use by another program" in refused.stderr


def killed_parts_are_started_again(up: Up) -> None:
    before = up.parts
    assert set(before) == {*PARTS, "broker"}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: (
            up.parts.keys() == before.keys() and not set(up.parts.values()) & set(before.values())
        ),
        seconds=60,
        what="new parts",
    )
    wait_until(up.answers, seconds=60, what="web")


def children_of_a_killed_supervisor_end(up: Up) -> None:
    processes = up.processes
    up.signal(signal.SIGKILL)
    up.wait()
    wait_until(lambda: gone(processes), seconds=60, what="end of the children")

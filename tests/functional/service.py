"""A whole service of real processes, for tests that talk to it over HTTP and do it harm."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image
from sklearn.datasets import load_digits

from shared.settings import variable_of
from tests.services import AS_INSTALLED, HERE, Place, free_port, wait_until

ROOT = Path(__file__).parents[2]
HELD_OUT = 1437  # the digits before it trained the model
START_SECONDS = 90
TERMINAL = {"succeeded", "failed", "canceled", "expired"}


@cache
def _digits() -> Any:
    return load_digits()  # read from a text, each time


def digit_png(index: int, *, scale: int = 8) -> bytes:
    """Held-out digit `index` of 0-359 as a PNG of 8 x 8 blocks."""
    pixels = (_digits().images[HELD_OUT + index] * 255 / 16).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(file, "PNG")
    return file.getvalue()


def digit_targets() -> list[str]:
    return [str(target) for target in _digits().target[HELD_OUT:]]


def distinct_image(number: int, size: int = 16) -> bytes:
    """A small picture that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _prefer(wait_seconds: int) -> dict[str, str]:
    """Who asks again and again takes the processor from those who work."""
    return {"Prefer": f"wait={wait_seconds}"} if wait_seconds else {}


class Part:
    """One process of the service, with its log.

    Attributes:
        own_session: Whether it has a session of its own, so that all it has started can be ended.
    """

    own_session = False

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        log: Path,
        place: Place = HERE,
    ):
        self.name = name
        self._command = [*place.words, sys.executable, "-m", "ops.cli", *arguments]
        self._environment = environment
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.running
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self.own_session,
            )

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, *, seconds: float = 60) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(seconds)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name that the log has so far."""
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            if line.startswith("{") and f'"event": "{name}"' in line:
                found.append(json.loads(line))
        return found


class Service:
    """Web, worker and background worker over a database, a broker and a data directory."""

    def __init__(
        self, directory: Path, database_url: str, broker_url: str | None, **settings: Any
    ) -> None:
        self.directory = directory
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CLASSIFIER_")},
            "PYTHONPATH": str(AS_INSTALLED),
            "CLASSIFIER_DATA_DIR": str(directory / "data"),
            "CLASSIFIER_BIND": f"127.0.0.1:{port}",
            "CLASSIFIER_LOG_FORMAT": "json",
            "CLASSIFIER_HEARTBEAT_DIR": str(directory / "heartbeat"),
            "CLASSIFIER_DOWNLOAD": "",  # no test waits for the internet
            "DATABASE_URL": database_url,
            **({"REDIS_URL": broker_url} if broker_url else {}),
            **{variable_of(name): str(value) for name, value in settings.items()},
        }
        self.web = self._part("web")
        self.worker = self._part("worker")
        self.background = self._part("background")
        self._http = requests.Session()

    def _part(self, name: str) -> Part:
        return Part(name, [name], self.environment, self.directory / f"{name}.log")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one `classify` command to its end."""
        return subprocess.run(
            self._command_words(*arguments),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def _command_words(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ops.cli", *arguments]

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of its processes."""
        return (self.web, self.worker, self.background)

    def start(self, *parts: Part) -> None:
        """Migrate, then start these parts, or all; return when web answers."""
        migrated = self.command("db", "upgrade")
        assert migrated.returncode == 0, migrated.stderr
        for part in parts or self.parts:
            part.start()
        wait_until(self.is_ready, seconds=START_SECONDS, what="readiness of web")

    def is_ready(self) -> bool:
        assert self.web.running, self.web.log.read_text(encoding="utf-8")[-4000:]
        try:
            return self._http.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def wait_until_served(self, model: str) -> None:
        """Wait until a worker says that it serves the model's current version."""
        wait_until(
            lambda: self._serves(self.worker, model),
            seconds=START_SECONDS,
            what=f"a worker that serves {model}",
        )

    def _serves(self, worker: Part, model: str) -> bool:
        assert worker.running, worker.log.read_text(encoding="utf-8")[-4000:]
        return any(
            event["model"].startswith(f"{model}@") for event in worker.events("model_loaded")
        )

    def submit(
        self, image: bytes, *, headers: dict[str, str] | None = None, **options: str
    ) -> dict[str, Any]:
        """Send one image; the job."""
        answer = self.post(image, headers=headers, **options)
        assert answer.status_code in {200, 202}, answer.text
        return dict(answer.json())

    def post(
        self, image: bytes, *, headers: dict[str, str] | None = None, **options: str
    ) -> requests.Response:
        return requests.post(
            f"{self.url}/v1/jobs",
            files={"image": ("picture", image)},
            data={"model": "digits", **options},
            headers=headers,
            timeout=90,
        )

    def job(self, job_id: str, *, wait_seconds: int = 0) -> dict[str, Any]:
        headers = _prefer(wait_seconds)
        answer = self._http.get(f"{self.url}/v1/jobs/{job_id}", timeout=30, headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def jobs(self, **filters: Any) -> list[dict[str, Any]]:
        """The newest jobs that the filters let through."""
        answer = self._http.get(f"{self.url}/v1/jobs", params=filters, timeout=30)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    def wait(self, ids: Iterable[str], *, seconds: float = 100) -> dict[str, dict[str, Any]]:
        """Poll until all of these jobs are in a terminal state; the jobs by id."""
        waiting = list(ids)
        done: dict[str, dict[str, Any]] = {}
        give_up = time.monotonic() + seconds
        while waiting:
            job = self.job(waiting[0], wait_seconds=2)
            if job["status"] in TERMINAL:
                done[waiting.pop(0)] = job
            elif time.monotonic() > give_up:
                raise AssertionError(f"{len(waiting)} jobs have not ended, the first is {job}")
            else:
                time.sleep(0.05)
        return done

    def ask(self, method: str, path: str, *, status: int = 200, **how: Any) -> Any:
        """One call that is answered with this status; its JSON."""
        answer = requests.request(method, f"{self.url}{path}", timeout=90, **how)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def ingest(self, archive: bytes | Path, **options: Any) -> str:
        """Send an archive or list; the id of the ingestion."""
        data = archive.read_bytes() if isinstance(archive, Path) else archive
        made = self.ask(
            "POST",
            "/v1/ingestions",
            status=202,
            files={"archive": ("pictures", data)},
            data={"model": "digits", **options},
        )
        return str(made["id"])

    def ingest_from(self, source: str, **options: Any) -> str:
        """Name a source; the id of the ingestion."""
        body = {"source": source, "model": "digits", **options}
        return str(self.ask("POST", "/v1/ingestions", status=202, json=body)["id"])

    def ingestion(self, ingestion: str, *, wait_seconds: int = 0) -> dict[str, Any]:
        headers = _prefer(wait_seconds)
        return dict(self.ask("GET", f"/v1/ingestions/{ingestion}", headers=headers))

    def wait_for_ingestion(self, ingestion: str, *, seconds: float = 100) -> dict[str, Any]:
        """Poll until it has ended; the ingestion."""
        last: dict[str, Any] = {}

        def ended() -> bool:
            last.update(self.ingestion(ingestion, wait_seconds=2))
            return last["status"] not in {"queued", "running"}

        wait_until(ended, seconds=seconds, what=f"the end of ingestion {ingestion}")
        return last

    def results(self, ingestion: str, **how: Any) -> list[dict[str, Any]]:
        """The lines of its results."""
        answer = requests.get(
            f"{self.url}/v1/ingestions/{ingestion}/results", params=how, timeout=90
        )
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    def freeze(self, part: Part) -> None:
        """Stop the part, but not in the middle of a write to SQLite, which would stop them all."""
        while True:
            part.signal(signal.SIGSTOP)
            if not self._sqlite_is_locked():
                return
            part.signal(signal.SIGCONT)
            time.sleep(0.01)

    def _sqlite_is_locked(self) -> bool:
        url = self.environment["DATABASE_URL"]
        if not url.startswith("sqlite:"):
            return False
        with Path(url.removeprefix("sqlite:///") + ".lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def close(self) -> None:
        """End what still runs, without mercy."""
        for part in self.parts:
            part.kill()
        self._http.close()


@contextmanager
def running(
    directory: Path, database_url: str, broker_url: str | None, **settings: Any
) -> Iterator[Service]:
    """A whole service that serves digits, ended at the end."""
    with serving(Service(directory, database_url, broker_url, **settings)) as service:
        yield service


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    """The service while it runs and serves digits."""
    try:
        service.start()
        service.wait_until_served("digits")
        yield service
    finally:
        service.close()

"""A whole service of its own for a benchmark, with a model that costs nothing."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

from shared.settings import variable_of

ROOT = Path(__file__).parents[1]
NO_COST = "nothing"
_START_SECONDS = 120
_TOML = """name = "nothing"
description = "The mean colour of 8 x 8 pixels: a model that costs next to nothing."

[input]
height = 8
width = 8
resize = "nearest"

[preprocessing]
kind = "scale"
scale = 0.00392156862745098
offset = 0.0

[output]
activation = "softmax"
"""
_MAKE = """
import sys
import keras
keras.utils.set_random_seed(1)
layers = keras.layers
keras.Sequential([
    layers.Input((8, 8, 3)), layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax"),
]).save(sys.argv[1])
"""


class Whole:
    """`classify up` in a directory of its own."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.log = directory / "log"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CLASSIFIER_")},
            "CLASSIFIER_DATA_DIR": str(directory / "data"),
            "CLASSIFIER_BIND": self.url.removeprefix("http://"),
            "CLASSIFIER_DOWNLOAD": "",
            "CLASSIFIER_LOG_FORMAT": "json",
            **{variable_of(name): str(value) for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def import_no_cost(self) -> None:
        """Install the model that costs nothing."""
        model = self.directory / NO_COST
        model.mkdir(parents=True)
        (model / "model.toml").write_text(_TOML)
        (model / "labels.txt").write_text("red\ngreen\nblue\n")
        self._run("-c", _MAKE, str(model / "model.keras"))
        self.command("db", "upgrade")
        self.command("models", "import", NO_COST, str(model))

    def command(self, *arguments: str) -> None:
        """Run one `classify` command."""
        self._run("-m", "ops.cli", *arguments)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])

    def start(self, model: str) -> None:
        """Start all of it; return when a worker serves the model."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ops.cli", "up"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + _START_SECONDS
        while not self._serves(model):
            if time.monotonic() > give_up or self._process.poll() is not None:
                raise RuntimeError(f"it did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.5)

    def _serves(self, model: str) -> bool:
        try:
            return bool(self.get(f"/v1/models/{model}")["workers"])
        except (requests.RequestException, KeyError):
            return False

    def get(self, path: str, **how: Any) -> Any:
        """The JSON of one call."""
        answer = requests.get(f"{self.url}{path}", timeout=60, **how)
        answer.raise_for_status()
        return answer.json()

    def ingest(self, model: str, *, path: Path | None = None, source: str | None = None) -> str:
        """Hand in an archive or list, or name a source; the id of the ingestion."""
        if path is not None:
            kind = "text/plain" if path.suffix == ".txt" else "application/x-tar"
            if path.suffix in {".zip", ".gz"}:
                kind = {".zip": "application/zip", ".gz": "application/gzip"}[path.suffix]
            with path.open("rb") as file:
                answer = requests.post(
                    f"{self.url}/v1/ingestions",
                    params={"model": model},
                    data=file,
                    headers={"Content-Type": kind},
                    timeout=600,
                )
        else:
            answer = requests.post(
                f"{self.url}/v1/ingestions", json={"source": source, "model": model}, timeout=60
            )
        answer.raise_for_status()
        return str(answer.json()["id"])

    def ingestion(self, ingestion: str) -> Any:
        """How far it is."""
        return self.get(f"/v1/ingestions/{ingestion}")

    def ended(self, ingestion: str, *, pause_seconds: float = 0.5) -> Any:
        """The ingestion, once it has ended."""
        while True:
            found = self.ingestion(ingestion)
            if found["status"] not in ("queued", "running"):
                return found
            time.sleep(pause_seconds)

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """The processes of web, worker and background worker, by part."""
        assert self._process is not None
        for process in psutil.Process(self._process.pid).children(recursive=True):
            part = re.search(r"ops\.cli (web|worker|background)", " ".join(process.cmdline()))
            if part is not None:
                yield part[1], process

    @contextmanager
    def worker_paused(self) -> Iterator[None]:
        """Nothing is classified meanwhile; to be entered while no job waits."""
        [worker] = [process for part, process in self.processes() if part == "worker"]
        worker.suspend()
        try:
            yield
        finally:
            worker.resume()

    def peaks(self) -> dict[str, int]:
        """The most memory that each part has had so far, in bytes; of web, its largest process."""
        found: dict[str, int] = {}
        for part, process in self.processes():
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = re.search(r"VmHWM:\s+(\d+) kB", status)
            if peak is not None:
                found[part] = max(int(peak[1]) * 1024, found.get(part, 0))
        return found

    def memory(self) -> dict[str, int]:
        """The memory that the processes of each part have now, in bytes."""
        found: dict[str, int] = {}
        for part, process in self.processes():
            found[part] = found.get(part, 0) + process.memory_info().rss
        return found

    def database_bytes(self) -> int:
        """The size of the database's files."""
        return sum(file.stat().st_size for file in (self.directory / "data").glob("classifier.db*"))

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None


@contextmanager
def whole_service(directory: Path, model: str, **settings: Any) -> Iterator[Whole]:
    """A running service of its own, ended at the end."""
    service = Whole(directory, **settings)
    directory.mkdir(parents=True, exist_ok=True)
    if model == NO_COST:
        service.import_no_cost()
    try:
        service.start(model)
        yield service
    finally:
        service.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

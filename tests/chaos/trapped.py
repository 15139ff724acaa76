"""A service whose worker steps into traps: pictures that end, hang or starve its process.

The worker is the real one but for two of our own interfaces. Its engine costs nothing and loads no
TensorFlow, and pictures of certain colours spring a trap while they are decoded or passed. It is
forked from a process that has imported everything, so that one that was killed is soon replaced.
"""

import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import worker.app
import worker.loader
import worker.pipeline
from ops import cli
from shared.models import ModelSpec
from tests.functional.service import ROOT, Part, Service
from tests.services import wait_until
from worker.engines.protocol import OutOfMemory

FEW = 2  # images that pass although memory is short

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload([__name__, "ops.parent"])
_widths = count(8)


class Trap(Enum):
    """What a picture does; the value is its blue, and all of it is of that one colour."""

    DIES_DECODED = 1
    DIES_PASSED = 2
    HANGS = 3
    WAITS = 4
    TAKES_MEMORY = 5

    def is_in(self, row: Any) -> bool:
        """Whether a decoded image, shape (height, width, 3), springs it."""
        return bool((row == (250, 0, self.value)).all())

    def picture(self) -> bytes:
        """One that nobody has handed in before."""
        file = io.BytesIO()
        Image.new("RGB", (next(_widths), 8), (250, 0, self.value)).save(file, "PNG")
        return file.getvalue()


class TrappedEngine:
    """Says by the mean of an image which of ten classes it is; see `Engine`."""

    def __init__(self, directory: Path, pass_seconds: float) -> None:
        self._directory = directory
        self._pass_seconds = pass_seconds
        self._memory_is_short = False

    def load(self, spec: ModelSpec, directory: Path) -> None:
        """Nothing to load."""

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.forward`."""
        sprung = {trap for trap in Trap for row in batch if trap.is_in(row)}
        if Trap.DIES_PASSED in sprung:
            _die()
        if Trap.HANGS in sprung:
            time.sleep(3600)
        if Trap.WAITS in sprung:
            (self._directory / "waits").touch()
            while not (self._directory / "goes on").exists():
                time.sleep(0.02)
        self._memory_is_short |= Trap.TAKES_MEMORY in sprung
        if self._memory_is_short and len(batch) > FEW:
            raise OutOfMemory(f"no memory for a batch of {len(batch)}")
        time.sleep(self._pass_seconds)
        return np.eye(10, dtype=np.float32)[batch.mean((1, 2, 3)).astype(int) * 10 // 256]


def _die() -> None:
    """End as a crash in a C library does: at once, and nothing is said or tidied."""
    os.kill(os.getpid(), signal.SIGKILL)


def _work(environment: dict[str, str], log: Path, directory: Path, pass_seconds: float) -> None:
    """`classify worker` with traps, in a process of its own."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    real = worker.pipeline.decode

    def decode(data: bytes, spec: ModelSpec, max_pixels: int) -> Any:
        row = real(data, spec, max_pixels)
        if Trap.DIES_DECODED.is_in(row):
            _die()
        return row

    worker.pipeline.decode = decode
    worker.loader.make_engine = lambda name: TrappedEngine(directory, pass_seconds)
    sys.argv = ["classify", "worker"]
    cli.main()


class TrappedWorker(Part):
    """The worker's part in it, with the ways of any other."""

    def __init__(self, service: Service, number: int, pass_seconds: float) -> None:
        log = service.directory / f"worker-{number}.log"
        super().__init__("worker", [], service.environment, log)
        self._given = service.environment, log, service.directory, pass_seconds
        self._child: BaseProcess | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        assert self._child.pid is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.is_alive()

    def start(self) -> None:
        assert not self.running
        self._child = _forkserver.Process(target=_work, args=self._given)
        self._child.start()

    def start_and_serve(self) -> None:
        """Start it; returns when it serves."""
        before = self.times_served()
        self.start()
        wait_until(lambda: self.times_served() > before, seconds=90, what="a worker that serves")

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.join()

    def stop(self, *, seconds: float = 60) -> int:
        assert self._child is not None
        self._child.terminate()
        self._child.join(seconds)
        assert self._child.exitcode is not None
        return self._child.exitcode

    def times_served(self) -> int:
        """How many processes of it have come to serve so far."""
        written = self.log.read_bytes() if self.log.exists() else b""
        return written.count(b'"event": "model_loaded"')


class TrappedService(Service):
    """Web and background worker as ever, and a worker with traps."""

    def __init__(
        self, directory: Path, database_url: str, broker_url: str | None = None, **settings: Any
    ) -> None:
        self._pass_seconds = settings.pop("pass_seconds", 0)
        super().__init__(directory, database_url, broker_url, **settings)
        self.worker: TrappedWorker = self.another_worker(1)

    def another_worker(self, number: int) -> TrappedWorker:
        """A worker beside the first."""
        return TrappedWorker(self, number, self._pass_seconds)


@contextmanager
def kept_running(part: Part) -> Iterator[None]:
    """Start the part whenever it has ended, as a supervisor does, and without its pauses."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(0.02):
            if not part.running:
                part.start()

    thread = threading.Thread(target=keep, name="keeper")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

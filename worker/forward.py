"""The forward pass: whose turn it is, one row for one distinct image, and what a failure means."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import structlog
from numpy.typing import NDArray

from shared.errors import ServiceError
from shared.jobs.recording import Failure, Unread
from worker.engines.protocol import OutOfMemory
from worker.serving import LoadedModel

_INTERACTIVE_IN_A_ROW = 4

Row = NDArray[np.uint8]
Scores = NDArray[np.float32]

log = structlog.get_logger(__name__)


class Stopping(ServiceError):
    """The process stops: what has not been passed is given back."""


class EngineBroken(ServiceError):
    """The engine fails on the warm-up image too: the fault is ours, and the process ends."""


class ForwardLock:
    """One pass at a time; interactive first, bulk after at most four interactive in a row."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = False
        self._closed = False
        self._waiting = {"interactive": 0, "bulk": 0}
        self._in_a_row = 0

    @contextmanager
    def hold(self, lane: str) -> Iterator[None]:
        """Wait for the lane's turn, and keep others out.

        Raises:
            Stopping: The lock was closed before the turn came.
        """
        with self._changed:
            self._waiting[lane] += 1
            try:
                while not self._closed and (self._held or not self._has_turn(lane)):
                    self._changed.wait()
            finally:
                self._waiting[lane] -= 1
            if self._closed:
                raise Stopping
            self._held = True
            self._in_a_row = self._in_a_row + 1 if lane == "interactive" else 0
        try:
            yield
        finally:
            with self._changed:
                self._held = False
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more; who is in finishes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_turn(self, lane: str) -> bool:
        if lane == "interactive":
            return self._in_a_row < _INTERACTIVE_IN_A_ROW or not self._waiting["bulk"]
        return self._in_a_row >= _INTERACTIVE_IN_A_ROW or not self._waiting["interactive"]


def forward_pass(model: LoadedModel, rows: dict[str, Row]) -> dict[str, Scores | Failure | Unread]:
    """Scores by image, each distinct image once.

    A pass that raises is split, down to single images, so that an image fails by itself. Out of
    device memory halves the model's batch for as long as the process lives.

    Raises:
        EngineBroken: The warm-up image fails too.
    """
    names = list(rows)
    outcome: dict[str, Scores | Failure | Unread] = {}
    parts = [names]
    while parts:
        part = parts.pop()
        if len(part) > model.batch_limit:
            parts += [part[: model.batch_limit], part[model.batch_limit :]]
            continue
        try:
            scores = model.engine.forward(np.stack([rows[name] for name in part]))
        except OutOfMemory:
            if len(part) == 1:
                outcome[part[0]] = Unread()
                continue
            model.batch_limit = max(1, len(part) // 2)
            log.warning("batch_halved", model=model.version.name, limit=model.batch_limit)
            parts.append(part)
        except Exception as error:  # whatever an engine raises, the other images go on
            log.exception("pass_failed", model=model.version.name, size=len(part))
            if not _works(model):
                raise EngineBroken(f"{model.version.name} fails on the warm-up image") from error
            if len(part) == 1:
                outcome[part[0]] = Failure("inference_failed", f"The model failed: {error}.")
            else:
                middle = len(part) // 2
                parts += [part[:middle], part[middle:]]
        else:
            if len(scores) != len(part):
                raise EngineBroken(f"{len(part)} images in, {len(scores)} scores out")
            outcome.update(zip(part, scores, strict=True))
    return outcome


def warm_up(model: LoadedModel) -> None:
    """One pass at the largest batch, so that the first job waits for nothing that is made lazily.

    Raises:
        EngineBroken: Not even a single image passes.
    """
    spec = model.version.spec
    blank = np.zeros((spec.height, spec.width, 3), np.uint8)
    outcome = forward_pass(model, {str(index): blank for index in range(model.batch_limit)})
    classes = len(model.version.labels)
    for output in outcome.values():
        if not isinstance(output, np.ndarray) or output.ndim != 1:
            raise EngineBroken(f"{model.version.name} does not give one row of numbers an image")
        if spec.output == "scores" and len(output) != classes:
            raise EngineBroken(f"{model.version.name} does not give {classes} scores")


def _works(model: LoadedModel) -> bool:
    spec = model.version.spec
    try:
        model.engine.forward(np.zeros((1, spec.height, spec.width, 3), np.uint8))
    except Exception:  # the question is only whether it works
        log.exception("warm_up_failed", model=model.version.name)
        return False
    return True

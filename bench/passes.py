"""The forward passes that a worker's log tells of."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

_SETTLE_SECONDS = 1.0  # a batch is logged after its jobs are recorded


@dataclass(frozen=True)
class Pass:
    """One batch, when its forward pass began, and how long it took."""

    lane: str
    size: int
    started: datetime
    seconds: float


def passes_since(log: Path, offset: int, model: str, first: datetime, last: datetime) -> list[Pass]:
    """The passes of a model that began between two moments, in order of their beginning.

    Args:
        log: The log; lines that are no JSON are passed over.
        offset: How many bytes it had before the jobs were sent.
        model: The model's name, with or without a version.
        first: The earliest beginning, by the clock of the machine that wrote the log.
        last: The latest.
    """
    time.sleep(_SETTLE_SECONDS)
    passes = [_pass(event) for event in _batches(log, offset) if _is_of(model, str(event["model"]))]
    within = (one for one in passes if first <= one.started <= last)
    return sorted(within, key=lambda one: one.started)


def claim_milliseconds(log: Path, offset: int) -> list[float]:
    """How long each claim of a batch took, of those logged behind an offset."""
    with log.open("rb") as file:
        file.seek(offset)
        return [float(found) for found in re.findall(rb'"claim_ms": ([0-9.]+)', file.read())]


def _batches(log: Path, offset: int) -> Iterator[dict[str, Any]]:
    with log.open("rb") as file:
        file.seek(offset)
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("event") == "batch":
                yield event


def _pass(event: dict[str, Any]) -> Pass:
    """The event is written after the recording, which follows the pass at once."""
    written = datetime.fromisoformat(event["timestamp"])
    since = timedelta(milliseconds=event["inference_ms"] + event["record_ms"])
    return Pass(event["lane"], event["size"], written - since, event["inference_ms"] / 1000)


def _is_of(model: str, served: str) -> bool:
    return model in (served, served.partition("@")[0])

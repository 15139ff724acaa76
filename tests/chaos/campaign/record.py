"""The checker's own record: every request that a client made, and what it was answered."""

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sent:
    """What a client has handed in under a reference of its own.

    Attributes:
        entries: The numbers of the images: one of a job, many of an ingestion, in their order. One
            that is broken is below zero: `-1 - number`.
    """

    reference: str
    client: int
    entries: tuple[int, ...]
    is_ingestion: bool = False
    key: str | None = None
    deadline_seconds: float | None = None
    pinned: str | None = None


@dataclass(frozen=True)
class Call:
    """One request, from its first byte to its outcome. Times are seconds since the seed began.

    Attributes:
        subject: What it was about: the reference of a submit, else an id.
        status: Of the answer; None where nobody knows what became of it.
        body: The answer's JSON, or its lines.
    """

    client: int
    kind: str
    subject: str
    began: float
    ended: float
    status: int | None
    body: Any = None
    note: str = ""

    @property
    def answered(self) -> bool:
        """Whether the service has said yes."""
        return self.status in {200, 202, 204}


@dataclass
class Record:
    """Everything of one seed. Clients add to it from their threads."""

    calls: list[Call] = field(default_factory=list)
    sent: dict[str, Sent] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> float:
        """Seconds since the seed began."""
        return time.monotonic() - self.began

    def add(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)

    def send(self, sent: Sent) -> None:
        with self._lock:
            self.sent[sent.reference] = sent

    def in_order(self) -> list[Call]:
        """The calls in the order in which they were answered."""
        with self._lock:
            return sorted(self.calls, key=lambda call: call.ended)

    def write(self, path: Path) -> None:
        """As JSON lines, to be looked at."""
        with self._lock:
            write_lines(path / "sent.jsonl", map(asdict, self.sent.values()))
            write_lines(path / "calls.jsonl", map(asdict, self.calls))


def write_lines(path: Path, values: Iterable[Any]) -> None:
    path.write_text("".join(f"{json.dumps(value, default=str)}\n" for value in values))

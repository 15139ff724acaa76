"""A watched folder: what appears in it is classified once, and its result written beside it.

A result file is the mark that a picture is done. What was under way when this process ended is
handed in again, under the same Idempotency-Key, and is the same job.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from ops.client import Client, Refused
from ops.packing import found

_MOST_UNDER_WAY = 200
_POLLED = 100  # that one call asks for
_ENDED = frozenset({"succeeded", "failed", "canceled", "expired"})
SUFFIX = ".json"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Look:
    """How a file looked: one that stays so for an interval is no longer being written."""

    size: int
    modified_ns: int


@dataclass
class Watch:
    """One folder; `step` looks once.

    Attributes:
        directory: Whose pictures are classified, in its folders too.
        results: Where the results go; None: beside each picture.
        options: Of each job.
    """

    client: Client
    directory: Path
    results: Path | None
    options: dict[str, Any]
    failed: int = 0
    _seen: dict[str, Look] = field(default_factory=dict)
    _under_way: dict[str, tuple[str, str]] = field(default_factory=dict)
    _done: dict[str, Look] = field(default_factory=dict)

    def run(self, interval_seconds: float, *, once: bool) -> None:
        """Look again and again, or until what is there is done."""
        while self.step(at_rest=once) or not once:
            time.sleep(interval_seconds)

    def step(self, *, at_rest: bool = False) -> int:
        """Hand in what is new, write what has ended; how many files are not done."""
        now = dict(self._look())
        waiting = 0
        for name, look in now.items():
            if self._done.get(name) == look:
                continue
            waiting += 1
            settled = at_rest or self._seen.get(name) == look
            if settled and name not in self._under_way and len(self._under_way) < _MOST_UNDER_WAY:
                self._hand_in(name, look)
        self._seen = now
        self._collect(now)
        return waiting

    def _look(self) -> Iterator[tuple[str, Look]]:
        for name, path in found([self.directory]):
            if name.endswith((SUFFIX, ".part")) or self._is_result(path):
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            yield name, Look(stat.st_size, stat.st_mtime_ns)

    def _is_result(self, path: Path) -> bool:
        return self.results is not None and path.is_relative_to(self.results)

    def _hand_in(self, name: str, look: Look) -> None:
        path = self.directory / name
        try:
            data = path.read_bytes()
        except OSError as error:
            log.warning("not_read", file=name, reason=error.strerror)
            return
        sha256 = hashlib.sha256(data).hexdigest()
        if self._result_of(name) == sha256:
            self._done[name] = look
            return
        about = json.dumps([name, sha256, self.options], sort_keys=True)
        key = hashlib.sha256(about.encode()).hexdigest()
        try:
            job = self.client.json(
                "POST",
                "/v1/jobs",
                body=None,
                files={"image": (name, data)},
                data={"lane": "bulk", **self.options},
                headers={"Idempotency-Key": f"watch-{key}"},
            )
        except Refused as refused:
            why = {"code": refused.code, "detail": str(refused)}
            self._write(name, sha256, {"status": "failed", "error": why})
            return
        self._under_way[name] = (job["id"], sha256)

    def _collect(self, now: dict[str, Look]) -> None:
        """Write the results of jobs that have ended."""
        ids = {job: name for name, (job, _) in self._under_way.items()}
        waiting = list(ids)
        for first in range(0, len(waiting), _POLLED):
            asked = waiting[first : first + _POLLED]
            answered = self.client.json("GET", "/v1/jobs", params={"id": asked})["data"]
            gone = set(asked) - {job["id"] for job in answered}
            for job in answered:
                if job["status"] in _ENDED:
                    name = ids[job["id"]]
                    self._write(name, self._under_way[name][1], job)
                    del self._under_way[name]
            for job_id in gone:  # somebody has deleted the job: it is begun again
                del self._under_way[ids[job_id]]
        for name in set(self._done) - set(now):
            del self._done[name]

    def _write(self, name: str, sha256: str, job: dict[str, Any]) -> None:
        """Write a result file, completely or not at all."""
        kept = ("status", "model", "predictions", "embedding", "error", "id")
        body = {"file": name, "sha256": sha256}
        body |= {key: job[key] for key in kept if job.get(key) is not None}
        path = self._result_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
        unfinished.write_text(json.dumps(body, indent=2, ensure_ascii=False), encoding="utf-8")
        unfinished.replace(path)
        self.failed += job["status"] != "succeeded"
        log.info("classified", file=name, status=job["status"])

    def _result_path(self, name: str) -> Path:
        return (self.results or self.directory) / f"{name}{SUFFIX}"

    def _result_of(self, name: str) -> str | None:
        """The SHA-256 of the content that a result file is about."""
        try:
            found = json.loads(self._result_path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found.get("sha256") if isinstance(found, dict) else None

"""A watched folder: what appears in it is classified once, and its result written beside it.

A result file is the mark that a picture is done, and says which content it is about. What was under
way when this process ended is handed in again, under the same Idempotency-Key, and is the same job.
"""

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from ops.client import Client, Refused
from ops.packing import found
from shared.errors import CODES
from worker.sources.names import shown_name

_MOST_UNDER_WAY = 200
_AT_A_TIME = 100  # ids that one call polls
_POLL_SECONDS = 0.5
_ENDED = frozenset({"succeeded", "failed", "canceled", "expired"})
# Refusals of this one picture; another would have been taken.
_OF_THE_IMAGE = {"unsupported_image", "image_unreadable", "image_too_large", "request_too_large"}
_KEPT = ("status", "model", "predictions", "embedding", "error", "id")
SUFFIX = ".json"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Look:
    """How a file looked: one that stays so for an interval is no longer being written."""

    size: int
    modified_ns: int


@dataclass(frozen=True)
class _Sent:
    """A file whose job has not ended."""

    name: str
    look: Look
    sha256: str


@dataclass
class Watch:
    """One folder, with the folders in it.

    Attributes:
        client: Of the service.
        directory: Whose pictures are classified.
        results: Where the results go; the same folder: beside each picture.
        options: Of each job.
        most_bytes: A larger file is not even read.
        failed: How many files could not be classified.
    """

    client: Client
    directory: Path
    results: Path
    options: dict[str, Any]
    most_bytes: int
    failed: int = 0
    _seen: dict[str, Look] = field(default_factory=dict)
    _queue: dict[str, Look] = field(default_factory=dict)
    _under_way: dict[str, _Sent] = field(default_factory=dict)
    _done: dict[str, Look] = field(default_factory=dict)

    def run(self, interval_seconds: float, *, once: bool) -> None:
        """Look again and again; or twice, and until what had come to rest is done.

        Raises:
            Refused: The service takes no picture at all: the model is unknown, say.
            Away: See `Client.ask`.
        """
        self.look()
        time.sleep(interval_seconds)
        self.look()  # now something may have come to rest
        due = time.monotonic() + interval_seconds
        while True:
            self.work()
            busy = bool(self._queue or self._under_way)
            if once and not busy:
                return
            left = max(0.0, due - time.monotonic())
            time.sleep(_POLL_SECONDS if once else min(left, _POLL_SECONDS) if busy else left)
            if not once and time.monotonic() >= due:
                self.look()
                due = time.monotonic() + interval_seconds

    def look(self) -> None:
        """Take what has come to rest and is not done."""
        now = dict(self._files())
        sent = {each.name for each in self._under_way.values()}
        for name, look in now.items():
            if name not in sent and self._seen.get(name) == look and not self._is_done(name, look):
                self._queue[name] = look
        self._seen = now
        self._done = {name: look for name, look in self._done.items() if name in now}

    def work(self) -> None:
        """Hand in what waits, as much as may be under way, and write what has ended."""
        while self._queue and len(self._under_way) < _MOST_UNDER_WAY:
            name = next(iter(self._queue))
            self._hand_in(name, self._queue.pop(name))
        waiting = list(self._under_way)
        for first in range(0, len(waiting), _AT_A_TIME):
            self._collect(waiting[first : first + _AT_A_TIME])

    def _files(self) -> Iterator[tuple[str, Look]]:
        own = None
        if self.results != self.directory and self.results.is_relative_to(self.directory):
            own = f"{self.results.relative_to(self.directory)}/"
        for name, _, about in found([self.directory], _say_unreadable):
            # Copying programs write hidden files, and give them their names at the end.
            hidden = any(part.startswith(".") for part in name.split("/"))
            if not (hidden or name.endswith(SUFFIX) or (own and name.startswith(own))):
                yield name, Look(about.st_size, about.st_mtime_ns)

    def _is_done(self, name: str, look: Look) -> bool:
        if self._done.get(name) == look:
            return True
        mark = self._mark(name)
        if any(mark.get(key) != value for key, value in asdict(look).items()):
            return False
        self._done[name] = look
        return True

    def _hand_in(self, name: str, look: Look) -> None:
        data = self._read(name, look)
        if data is None:
            return
        sent = _Sent(name, look, hashlib.sha256(data).hexdigest())
        if self._mark(name).get("sha256") == sent.sha256:  # it was only touched
            self._done[name] = look
            return
        about = [name, sent.sha256, self.options]
        try:
            job = self._submit(json.dumps(about, sort_keys=True), name, data)
        except Refused as refused:
            if refused.code not in _OF_THE_IMAGE:
                raise
            self._fail(sent, refused.code, str(refused))
        else:
            self._under_way[job["id"]] = sent

    def _read(self, name: str, look: Look) -> bytes | None:
        """What is in a file; None: it is not to be handed in now."""
        path = self.directory / name
        if look.size > self.most_bytes:
            detail = f"It has {look.size:,} bytes; at most {self.most_bytes:,} are taken."
            self._fail(_Sent(name, look, ""), "image_too_large", detail)
            return None
        try:
            with path.open("rb") as file:
                data = file.read(self.most_bytes)
                after = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("not_read", file=name, reason=error.strerror)
            self.failed += 1
            self._done[name] = look  # for as long as this process lives
            return None
        # One that is changing again is taken when it has come to rest.
        return data if Look(after.st_size, after.st_mtime_ns) == look else None

    def _submit(self, about: str, name: str, data: bytes) -> Any:
        """The job of a picture: the same one, however often it is handed in."""
        for number in count():
            key = hashlib.sha256(f"{number} {about}".encode()).hexdigest()
            try:
                return self.client.json(
                    "POST",
                    "/v1/jobs",
                    files={"image": (shown_name(name), data)},
                    data={"lane": "bulk", **self.options},
                    headers={"Idempotency-Key": f"watch-{key}"},
                )
            except Refused as refused:
                if refused.code != "idempotency_gone":  # somebody has deleted that job
                    raise
        raise AssertionError

    def _collect(self, ids: list[str]) -> None:
        """Write the results of those of these jobs that have ended."""
        answered = self.client.json("GET", "/v1/jobs", params={"id": ids})["data"]
        for job in answered:
            if job["status"] in _ENDED:
                self._write(self._under_way.pop(job["id"]), job)
        for deleted in set(ids) - {job["id"] for job in answered}:
            sent = self._under_way.pop(deleted)
            self._queue[sent.name] = sent.look

    def _fail(self, sent: _Sent, code: str, detail: str) -> None:
        error = {"code": code, "detail": detail, "retryable": CODES[code].retryable}
        self._write(sent, {"status": "failed", "error": error})

    def _write(self, sent: _Sent, job: dict[str, Any]) -> None:
        """Write a result file, completely or not at all."""
        body = {"file": sent.name} | {key: job[key] for key in _KEPT if job.get(key) is not None}
        body |= {"sha256": sent.sha256} | asdict(sent.look)
        path = self._result_path(sent.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.part")
        try:
            # Not every name on a disk is Unicode, but all of JSON's escapes are ASCII.
            unfinished.write_text(json.dumps(body, indent=2), encoding="ascii")
            unfinished.replace(path)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            log.warning("name_too_long", file=shown_name(sent.name))
            self.failed += 1
        else:
            self.failed += job["status"] != "succeeded"
            log.info("classified", file=shown_name(sent.name), status=job["status"])
        self._done[sent.name] = sent.look

    def _result_path(self, name: str) -> Path:
        return self.results / f"{name}{SUFFIX}"

    def _mark(self, name: str) -> dict[str, Any]:
        """What the result file of a picture says; nothing, if it has none."""
        try:
            found = json.loads(self._result_path(name).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _say_unreadable(error: OSError) -> None:
    log.warning("folder_not_read", folder=error.filename, reason=error.strerror)

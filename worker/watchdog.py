"""What each loop is doing and since when; a loop that hangs or dies ends the process."""

import os
import threading
import time
from collections.abc import Sequence
from uuid import UUID

import structlog

from shared.settings import Settings

_LOOK_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Activity:
    """One loop's present stage. Written by the loop, read by the watchdog and the leases."""

    def __init__(self, settings: Settings) -> None:
        self._limits = {
            "fetch": settings.fetch_limit_seconds,
            "decode": settings.decode_limit_seconds,
            "pass": settings.pass_limit_seconds,
            "record": settings.record_limit_seconds,
        }
        self._stage: tuple[str, float] = ("idle", time.monotonic())
        self.token: UUID | None = None

    def enter(self, stage: str) -> None:
        """Begin a stage; only those with a limit in the settings have one."""
        self._stage = (stage, time.monotonic())

    def has_batch(self) -> bool:
        """Whether the loop has a batch that is read, or lets one gather: it will claim again."""
        return self._stage[0] in {"decode", "waiting", "pass", "record", "gather"}

    def overdue(self) -> str | None:
        """The stage that is past its limit, or None."""
        stage, since = self._stage
        limit = self._limits.get(stage)
        return stage if limit is not None and time.monotonic() - since > limit else None


class WatchedThread(threading.Thread):
    """A thread of this process that must not die."""

    activity: Activity


class Watchdog(threading.Thread):
    """Ends the process when a loop is past a limit, or has ended by an exception.

    Threads cannot be ended, and a process with a dead loop would keep its claims for nothing; the
    supervisor starts another.
    """

    def __init__(self, watched: Sequence[WatchedThread], stopping: threading.Event) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._watched = watched
        self._stopping = stopping

    def run(self) -> None:
        """Look every second."""
        while True:
            time.sleep(_LOOK_SECONDS)
            for thread in self._watched:
                stage = thread.activity.overdue()
                if stage is not None:
                    end_process(f"{thread.name} is past the limit of its {stage} stage")
                if not thread.is_alive() and not self._stopping.is_set():
                    end_process(f"{thread.name} has ended")


def end_with_any_thread() -> None:
    """From now on an exception that no thread catches ends the process, not only its thread."""

    def end(failure: threading.ExceptHookArgs) -> None:
        log.critical("thread_failed", exc_info=failure.exc_value)
        name = "a thread" if failure.thread is None else failure.thread.name
        end_process(f"{name}: {failure.exc_value}")

    threading.excepthook = end


def end_process(reason: str) -> None:
    """End the process at once, saying why. Its claims end with it: see `recovery.succeed_slot`."""
    log.critical("worker_ends", reason=reason)
    os._exit(70)  # EX_SOFTWARE

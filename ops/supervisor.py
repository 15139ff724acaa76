"""Child processes that are started again when they die, and stopped together."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Self

import structlog

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_GOOD_LIFE_SECONDS = 60.0  # after a life this long a death is a first one again
_STOP_SECONDS = 30.0
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = structlog.get_logger(__name__)


@dataclass
class Part:
    """One child: how it is started, and how its last lives went."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    due: float = field(default=0.0, init=False)
    _born: float = field(default=0.0, init=False)
    _pause: float = field(default=0.0, init=False)

    def start(self, inherited: Sequence[int]) -> None:
        """Start it in a session of its own: a terminal's Ctrl-C is for the supervisor alone."""
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=inherited,
        )
        self._born = time.monotonic()

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def buried(self) -> int | None:
        """Its exit code if it has just ended (negative: by that signal), and when it is due anew.

        At once the first time; soon again after a pause that doubles, so that a part that cannot
        start does not keep the machine busy.
        """
        if self.process is None or (code := self.process.poll()) is None:
            return None
        # What it had started must not hold on to its address or its slot.
        self.signal(signal.SIGKILL)
        self.process = None
        now = time.monotonic()
        if now - self._born >= _GOOD_LIFE_SECONDS:
            self._pause = 0.0
        self.due = now + self._pause
        self._pause = min(max(_FIRST_PAUSE_SECONDS, 2 * self._pause), _LONGEST_PAUSE_SECONDS)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it; SIGKILL to its whole group."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            elif self.alive():
                os.kill(self.process.pid, number)


class Supervisor:
    """Runs parts until it is told to stop. Entered as a context: whatever happens, they end."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._asked: signal.Signals | None = None
        self._wake_read, self._wake_write = os.pipe()
        # The children hold the read end. However we end, the write end closes, and they know.
        self.parent_fd, self._life = os.pipe()

    def __enter__(self) -> Self:
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        signal.set_wakeup_fd(self._wake_write)
        for number in _ENDINGS:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that a death wakes us
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is not KeyboardInterrupt:
                self.stop()
        finally:
            self._kill(self._parts)

    @property
    def asked_to_stop(self) -> bool:
        """Whether a signal has asked for the end."""
        return self._asked is not None

    def start(self, part: Part) -> None:
        """Start a part and look after it from now on. They are stopped in this order reversed."""
        self._parts.append(part)
        self._start(part)

    def run(self) -> int:
        """Look after the parts until a signal asks for the end; returns the exit code."""
        while self._asked is None:
            now = time.monotonic()
            for part in self._parts:
                self._look_after(part, now)
            waiting = [part.due for part in self._parts if part.process is None]
            self._sleep(max(0.0, min(waiting) - time.monotonic()) if waiting else None)
        self.stop()
        return 130 if self._asked == signal.SIGINT else 0

    def stop(self) -> None:
        """End the parts in order: the ones that use the others first."""
        for parts in self._stages():
            for part in parts:
                part.signal(signal.SIGTERM)
            give_up = time.monotonic() + _STOP_SECONDS
            while any(part.alive() for part in parts):
                if time.monotonic() > give_up:
                    log.warning("parts_killed", after_seconds=_STOP_SECONDS)
                    break
                self._sleep(0.2)
            self._kill(parts)

    def _stages(self) -> tuple[list[Part], list[Part]]:
        """The Python parts together, since none of them needs the others; then the broker."""
        broker = [part for part in self._parts if part.name == "broker"]
        return [part for part in self._parts if part not in broker], broker

    def _start(self, part: Part) -> None:
        part.start([self.parent_fd] if part.name != "broker" else [])
        log.debug("part_started", part=part.name, pid=part.process and part.process.pid)

    def _look_after(self, part: Part, now: float) -> None:
        code = part.buried()
        if code is not None:
            log.warning(
                "part_ended",
                part=part.name,
                exit_code=code if code >= 0 else None,
                signal=signal.Signals(-code).name if code < 0 else None,
                restart_in_seconds=round(max(0.0, part.due - now), 1),
            )
        if part.process is None and part.due <= time.monotonic():
            try:
                self._start(part)
            except OSError as error:  # no memory, no processes left: try again
                log.error("part_not_started", part=part.name, error=str(error))
                part.due = time.monotonic() + _LONGEST_PAUSE_SECONDS

    def _kill(self, parts: Sequence[Part]) -> None:
        """End what is left of these, their own children too."""
        for part in parts:
            part.signal(signal.SIGKILL)
        for part in parts:
            if part.process is not None:
                part.process.wait()
                part.process = None

    def _sleep(self, seconds: float | None) -> None:
        """Sleep until a signal comes, at most so long."""
        if select.select([self._wake_read], [], [], seconds)[0]:
            with suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: at once
        self._asked = self._asked or signal.Signals(number)


def python_part(name: str, environment: Mapping[str, str], parent_fd: int, *options: str) -> Part:
    """A part that is a `classify` command."""
    command = [sys.executable, "-P", "-m", "ops.cli", name, "--parent-fd", str(parent_fd)]
    return Part(name, [*command, *options], environment)

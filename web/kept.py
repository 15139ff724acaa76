"""Values that are costly to make, kept for a moment: ten open pages cost no more than one."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """One value for all threads, made anew when it is asked for and too old.

    One thread makes it. Meanwhile the others get the old one; they wait where there is none. What
    `make` raises is for the thread that called it.

    Args:
        make: Makes the value.
        seconds: How long it is kept at least.
        rest: And at least so many times as long as it took to make.
    """

    def __init__(self, make: Callable[[], T], *, seconds: float, rest: float = 0) -> None:
        self._make = make
        self._seconds = seconds
        self._rest = rest
        self._lock = threading.Lock()
        self._kept: tuple[T, float] | None = None  # the value, and until when

    def get(self) -> T:
        """The value."""
        kept = self._kept
        if kept is not None and (
            time.monotonic() < kept[1] or not self._lock.acquire(blocking=False)
        ):
            return kept[0]
        if kept is None:
            self._lock.acquire()
        try:
            if self._kept is not None and time.monotonic() < self._kept[1]:
                return self._kept[0]  # made while we waited
            began = time.monotonic()
            value = self._make()
            ended = time.monotonic()
            self._kept = value, ended + max(self._seconds, self._rest * (ended - began))
            return value
        finally:
            self._lock.release()

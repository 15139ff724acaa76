"""Keeping a suspect alone in the process, from its decoding to its record."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TrialGate:
    """Many ordinary batches, or one trial. A trial that waits lets no new batch begin."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batches = 0
        self._trial = False

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Work on an ordinary batch, after any trial."""
        with self._changed:
            while self._trial:
                self._changed.wait()
            self._batches += 1
        try:
            yield
        finally:
            with self._changed:
                self._batches -= 1
                self._changed.notify_all()

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Be alone: after the batches under way, and after any other trial."""
        with self._changed:
            while self._trial:
                self._changed.wait()
            self._trial = True
            while self._batches:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._trial = False
                self._changed.notify_all()

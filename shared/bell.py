"""Ringing without waiting: a background thread sends the bells, of which several become one."""

import threading
import time

import structlog
from celery import Celery

from shared.queue import CLASSIFY, EXPAND, EXPANDER_QUEUE, queue_name, ring

# Between two rings: whoever hears the first works until nothing waits, and each bell costs both
# sides some milliseconds. Without this pause a service under load did a quarter less.
_PAUSE_SECONDS = 0.05
_SILENT_SECONDS = 5.0  # after a failed ring; recovery looks for work every 2 s anyway

log = structlog.get_logger(__name__)


class Bell:
    """Rings for whoever has committed work. Nobody ever waits for the broker."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._wanted: set[tuple[str, ...]] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def ring(self, model: str, lane: str) -> None:
        """Jobs of a model wait in this lane."""
        self._want(CLASSIFY, queue_name(model), lane)

    def ring_expander(self) -> None:
        """An ingestion waits to be expanded."""
        self._want(EXPAND, EXPANDER_QUEUE)

    def _want(self, *bell: str) -> None:
        with self._changed:
            self._wanted.add(bell)
            if self._thread is None:
                # Started by the first ring, so that it is a thread of the process that rings,
                # not of one that forked it.
                self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._wanted:
                    self._changed.wait()
                wanted, self._wanted = self._wanted, set()
            try:
                for bell in sorted(wanted):
                    ring(self._app, *bell)
                time.sleep(_PAUSE_SECONDS)
            except Exception as error:  # whatever a broker may raise, the next ring is tried
                log.warning("bell_failed", error=str(error))
                time.sleep(_SILENT_SECONDS)

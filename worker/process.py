"""All parts of one worker process, started together and stopped in order."""

import threading
from collections.abc import Callable

import structlog

from shared.errors import Unavailable
from shared.heartbeat import beat
from shared.jobs.recovery import Recovery, waiting_lanes
from shared.models import Version
from shared.tables import LANES
from worker import identity
from worker.forward import ForwardLock
from worker.leases import Leases
from worker.loader import Loader
from worker.loops import Loop
from worker.pipeline import Pipeline
from worker.runtime import Runtime
from worker.watchdog import Watchdog, end_with_any_thread

LOOPS_PER_LANE = 2  # one decodes while the other passes; a third gained nothing
_REPORT_EVERY = 5  # recovery rounds

log = structlog.get_logger(__name__)


class WorkerProcess:
    """Loops, loader, leases, recovery and watchdog, over one database and one storage."""

    def __init__(self, runtime: Runtime, hear: Callable[[str], None]) -> None:
        self._runtime = runtime
        self._hear = hear
        self._forward_lock = ForwardLock()
        self._pipeline = Pipeline(runtime, self._forward_lock)
        self._events = {lane: threading.Event() for lane in LANES}
        self._loops = [
            Loop(lane, number, self._events[lane], runtime, self._pipeline)
            for lane in LANES
            for number in range(1, LOOPS_PER_LANE + 1)
        ]
        for loop in self._loops:
            loop.siblings = [
                other for other in self._loops if other.lane == loop.lane and other is not loop
            ]
        self._leases = Leases(runtime.database, runtime.settings, self._loops)
        self._watchdog = Watchdog(self._loops, runtime.stopping)
        self._loader = Loader(runtime, self._serving_changed)
        self._recovery = threading.Thread(target=self._recover, name="recovery", daemon=True)

    def start(self) -> None:
        """Start every part; loops find nothing to claim before the loader has a model."""
        end_with_any_thread()
        for thread in (*self._loops, self._leases, self._watchdog, self._recovery, self._loader):
            thread.start()

    def wake(self, lane: str) -> None:
        """A bell was heard: there may be work in this lane."""
        if lane in self._events:
            self._events[lane].set()

    def stop(self) -> None:
        """Record the batch in the forward pass, give the others back, and leave."""
        self._runtime.stopping.set()
        self._forward_lock.close()
        for event in self._events.values():
            event.set()
        for loop in self._loops:
            loop.join()
        self._leases.ended.set()
        self._recovery.join()
        try:
            identity.leave(self._runtime.database, self._runtime.identity)
        except Unavailable as error:
            log.warning("left_without_saying_so", error=str(error))

    def _serving_changed(self, loaded: Version | None) -> None:
        """A version was loaded or unloaded, or cannot be."""
        if loaded is not None:
            self._hear(loaded.model)
        self._report()
        for event in self._events.values():
            event.set()

    def _recover(self) -> None:
        recovery = Recovery(self._runtime.database, self._runtime.settings)
        rounds = 0
        while not self._runtime.stopping.wait(self._runtime.settings.recovery_seconds):
            beat(self._runtime.settings.heartbeat_dir, "worker")
            try:
                recovery.step()
                for lane in waiting_lanes(self._runtime.database, self._runtime.serving.ids()):
                    self._events[lane].set()
            except Unavailable as error:
                log.warning("recovery_waits", error=str(error))
                continue
            self._loader.wake.set()
            rounds += 1
            if rounds % _REPORT_EVERY == 0:
                self._report()

    def _report(self) -> None:
        try:
            identity.report(
                self._runtime.database,
                self._runtime.identity,
                versions=self._runtime.serving.ids(),
                images_per_second=self._pipeline.images_per_second(),
                trouble=self._loader.trouble,
            )
        except Unavailable as error:
            log.warning("not_reported", error=str(error))

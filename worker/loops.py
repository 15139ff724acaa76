"""The resident loops: each claims batches of one lane for as long as the process lives."""

import threading
import time
from collections.abc import Sequence

import structlog

from shared.errors import Unavailable
from shared.jobs.claiming import Claim, Claimant, LaneCursor, claim_batch, lapses_allowed
from worker.pipeline import Pipeline
from worker.runtime import Runtime
from worker.serving import LoadedModel
from worker.watchdog import Activity, WatchedThread

_AWAY_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Loop(WatchedThread):
    """Sleeps on its lane's event; awake, it works until a claim of every version is empty."""

    def __init__(
        self,
        lane: str,
        number: int,
        event: threading.Event,
        runtime: Runtime,
        pipeline: Pipeline,
    ) -> None:
        super().__init__(name=f"{lane}-{number}", daemon=True)
        self.activity = Activity(runtime.settings)
        self.lane = lane
        self._event = event
        self._runtime = runtime
        self._pipeline = pipeline
        self._cursors: dict[int, LaneCursor] = {}
        self.siblings: Sequence[Loop] = ()
        self.claimed_at = float("-inf")

    def run(self) -> None:
        """Sleep and work, until the process stops."""
        while not self._runtime.stopping.is_set():
            self._event.wait()
            self._event.clear()
            self._work_off()

    def _work_off(self) -> None:
        was_idle = True
        while not self._runtime.stopping.is_set():
            began = time.monotonic()
            try:
                taken = self._claim()
            except Unavailable as error:
                log.warning("cannot_claim", error=str(error))
                # Again without a bell: of a claim that was not answered we may hold all there is.
                self._runtime.stopping.wait(_AWAY_SECONDS)
                continue
            if taken is None:
                return
            claim, model = taken
            if was_idle and len(claim.jobs) >= model.batch_limit:
                # There may be more: for the other loop, and for idle neighbours.
                self._event.set()
                self._runtime.bell.ring(model.version.model, self.lane)
            self._pipeline.work(claim, model, self.activity, (time.monotonic() - began) * 1000)
            alone = was_idle and len(claim.jobs) == 1
            if not alone and len(claim.jobs) < model.batch_limit:
                self._gather()
            was_idle = False

    def _gather(self) -> None:
        """Jobs come faster than one at a time, and the model is quicker still: let some gather.

        Each batch costs the database two transactions, whatever its size. A lone job, and the
        first after a pause, wait for nobody; nor does anything behind a pass that takes longer,
        and a full batch is claimed by the other loop meanwhile.
        """
        self.activity.enter("gather")
        while (pause := self._gathers_until() - time.monotonic()) > 0:
            if self._runtime.stopping.wait(pause):
                break
        self.activity.enter("idle")

    def _gathers_until(self) -> float:
        last_claim = max(loop.claimed_at for loop in (self, *self.siblings))
        return last_claim + self._runtime.settings.gather_seconds

    def _claim(self) -> tuple[Claim, LoadedModel] | None:
        # While the other loop has a batch under way, a few jobs would only wait for the forward
        # lock: they gather instead, and whichever loop is free first takes them all.
        only_full = any(loop.activity.has_batch() for loop in self.siblings)
        settings, serving = self._runtime.settings, self._runtime.serving
        claimant = Claimant(
            self._runtime.identity.id,
            settings.lease_seconds,
            lapses_allowed(serving.seconds(), settings.trial_calm_seconds),
        )
        for model in serving.by_turn(self.lane):
            version_id = model.version.id
            claim = claim_batch(
                self._runtime.database,
                self._cursors.setdefault(version_id, LaneCursor()),
                version_id=version_id,
                lane=self.lane,
                limit=model.batch_limit,
                only_full=only_full,
                claimant=claimant,
            )
            if claim is not None:
                self.claimed_at = time.monotonic()
                serving.note_served(model, self.lane)
                return claim, model
        return None

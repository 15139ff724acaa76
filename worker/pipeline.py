"""One claimed batch: fetch, decode in parallel, one forward pass, record in one transaction."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

import numpy as np
import structlog

from shared.errors import ObjectMissing, Unavailable
from shared.jobs import recording
from shared.jobs.claiming import Claim, ClaimedJob, end_trial, note_trial
from shared.jobs.recording import Embedding, Failure, Outcome, Result, Unread
from shared.tables import LANES
from worker.forward import ForwardLock, Row, Stopping, forward_pass
from worker.labels import to_result
from worker.preprocessing import decode
from worker.runtime import Runtime
from worker.serving import LoadedModel
from worker.trials import TrialGate
from worker.watchdog import Activity

_AWAY_SECONDS = 1.0  # pause between two attempts to record while the database is away
_READABLE_SECONDS = 3600.0  # other images count as readable if one was read within this time

Answer = Result | Failure | Unread
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Pipeline:
    """What the loops of a process share while they work on their batches."""

    def __init__(self, runtime: Runtime, forward_lock: ForwardLock) -> None:
        self._database = runtime.database
        self._storage = runtime.storage
        self._settings = runtime.settings
        self._stopping = runtime.stopping
        self._forward_lock = forward_lock
        self._gate = TrialGate()
        threads = self._settings.decode_threads or len(os.sched_getaffinity(0))
        # One for each lane, or an interactive image would wait behind two batches of bulk ones.
        self._pools = {
            lane: ThreadPoolExecutor(threads, thread_name_prefix=f"decode-{lane}") for lane in LANES
        }
        self._read_at = float("-inf")
        self._passes: deque[tuple[int, float]] = deque(maxlen=20)

    def images_per_second(self) -> float | None:
        """What the last forward passes achieved, or None before the first."""
        passes = list(self._passes)
        seconds = sum(taken for _, taken in passes)
        return sum(count for count, _ in passes) / seconds if seconds else None

    def work(self, claim: Claim, model: LoadedModel, activity: Activity, claim_ms: float) -> None:
        """Work on a claim: its ordinary jobs together, then each suspect alone in the process."""
        activity.token = claim.token
        try:
            ordinary = [job for job in claim.jobs if not job.suspect]
            if ordinary:
                activity.enter("waiting")
                with self._gate.batch():
                    self._batch(claim, ordinary, model, activity, claim_ms=claim_ms)
            suspects = sorted((job for job in claim.jobs if job.suspect), key=lambda j: j.lapses)
            for suspect in suspects:
                self._trial(claim, suspect, model, activity)
        finally:
            activity.token = None
            activity.enter("idle")

    def _trial(self, claim: Claim, job: ClaimedJob, model: LoadedModel, activity: Activity) -> None:
        activity.enter("waiting")
        with self._gate.trial():
            if self._stopping.is_set():
                self._give_back(claim, [job], activity)
                return
            held = self._persist(activity, lambda: note_trial(self._database, claim.token, job.id))
            if not held:
                return
            log.info("trial", job=str(job.id), lapses=job.lapses)
            self._batch(claim, [job], model, activity, claim_ms=0.0)
            self._persist(activity, lambda: end_trial(self._database, claim.token))

    def _batch(
        self,
        claim: Claim,
        jobs: Sequence[ClaimedJob],
        model: LoadedModel,
        activity: Activity,
        *,
        claim_ms: float,
    ) -> None:
        clock = _Stopwatch()
        pool = self._pools[claim.lane]
        objects = {job.image: job.object for job in jobs}
        activity.enter("fetch")
        # The watchdog is for what hangs; a storage that is away must not look like that, however
        # large the batch and however long each read takes to fail.
        give_up = time.monotonic() + self._settings.fetch_limit_seconds / 2
        bodies = pool.map(self._fetch, objects, objects.values(), repeat(give_up))
        fetched = dict(zip(objects, bodies, strict=True))
        fetch_ms = clock.lap()
        activity.enter("decode")
        decoded = self._decode(pool, fetched, model)
        decode_ms = clock.lap()
        activity.enter("waiting")
        try:
            with self._forward_lock.hold(claim.lane):
                wait_ms = clock.lap()
                activity.enter("pass")
                results, passed = self._pass(decoded, model)
                inference_ms = clock.lap()
        except Stopping:
            self._give_back(claim, jobs, activity)
            return
        outcomes = [Outcome(job.id, job.image, results[job.image]) for job in jobs]
        recorded = self._persist(
            activity,
            lambda: recording.record(
                self._database,
                claim,
                outcomes,
                decode_ms=round(fetch_ms + decode_ms, 3),
                inference_ms=round(inference_ms, 3),
                unreachable_hours=self._hours_until_unreachable(),
            ),
        )
        log.info(
            "batch",
            model=model.version.name,
            lane=claim.lane,
            size=len(jobs),
            passed=passed,
            recorded=recorded,
            claim_ms=round(claim_ms, 1),
            fetch_ms=round(fetch_ms, 1),
            decode_ms=round(decode_ms, 1),
            wait_ms=round(wait_ms, 1),
            inference_ms=round(inference_ms, 1),
            record_ms=round(clock.lap(), 1),
        )
        if all(isinstance(outcome.result, Unread) for outcome in outcomes):
            self._stopping.wait(_AWAY_SECONDS)  # the storage is away: do not park a whole backlog

    def _fetch(self, image: str, name: str | None, give_up: float) -> bytes | Failure | Unread:
        try:
            return self._read(image, name, give_up)
        except Unavailable as error:  # the storage, or the database that should learn what is gone
            log.warning("image_unread", image=image, error=str(error))
            return Unread()

    def _read(self, image: str, name: str | None, give_up: float) -> bytes | Failure:
        try:
            if name is None:
                raise ObjectMissing(image)
            if time.monotonic() > give_up:
                raise Unavailable("the images before it took too long")
            data = self._storage.read(name)
        except ObjectMissing:
            if name is not None:
                recording.forget_object(self._database, image, name)
            return Failure("image_missing", "The stored image is gone. Send it again.")
        self._read_at = time.monotonic()
        return data

    def _decode(
        self,
        pool: ThreadPoolExecutor,
        fetched: dict[str, bytes | Failure | Unread],
        model: LoadedModel,
    ) -> dict[str, Row | Failure | Unread]:
        def one(data: bytes | Failure | Unread) -> Row | Failure | Unread:
            if not isinstance(data, bytes):
                return data
            try:
                return decode(data, model.version.spec, self._settings.max_image_pixels)
            except MemoryError:  # ours, not the image's
                log.warning("decode_out_of_memory")
                return Unread()

        return dict(zip(fetched, pool.map(one, fetched.values()), strict=True))

    def _pass(
        self, decoded: dict[str, Row | Failure | Unread], model: LoadedModel
    ) -> tuple[dict[str, Answer], int]:
        """Results by image, and how many images went through the model. Under the forward lock.

        What another batch has answered since the claim is not computed again.
        """
        results: dict[str, Answer] = {
            image: row for image, row in decoded.items() if not isinstance(row, np.ndarray)
        }
        rows = {image: row for image, row in decoded.items() if isinstance(row, np.ndarray)}
        results |= model.recent.known(list(rows))
        unknown = [image for image in rows if image not in results]
        results |= self._known_results(model, unknown)
        rows = {image: row for image, row in rows.items() if image not in results}
        began = time.monotonic()
        for image, scores in forward_pass(model, rows).items() if rows else ():
            answer = to_result(scores, model.version) if isinstance(scores, np.ndarray) else scores
            results[image] = answer
            if isinstance(answer, list | Embedding):
                model.recent.add(image, answer)
        if rows:
            self._passes.append((len(rows), time.monotonic() - began))
        return results, len(rows)

    def _known_results(self, model: LoadedModel, images: list[str]) -> dict[str, Result]:
        try:
            return recording.known_results(self._database, model.version.id, images)
        except Unavailable as error:
            log.warning("results_not_looked_up", error=str(error))
            return {}  # they are computed again, which costs a pass and changes nothing

    def _give_back(self, claim: Claim, jobs: Sequence[ClaimedJob], activity: Activity) -> None:
        ids = [job.id for job in jobs]
        self._persist(activity, lambda: recording.give_back(self._database, claim, ids))
        log.info("given_back", jobs=len(ids))

    def _persist(self, activity: Activity, write: Callable[[], T]) -> T | None:
        """Write, however long the database is away; a process that stops tries once."""
        while True:
            activity.enter("record")
            try:
                return write()
            except Unavailable as error:
                log.warning("database_away", error=str(error))
                activity.enter("database away")
                if self._stopping.wait(_AWAY_SECONDS):
                    return None  # the claim ends with the process, and the jobs go on elsewhere

    def _hours_until_unreachable(self) -> float:
        """When a parked job may fail: never while no image at all can be read."""
        readable = time.monotonic() - self._read_at < _READABLE_SECONDS
        return self._settings.unreachable_hours if readable else float("inf")


class _Stopwatch:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Milliseconds since the last call."""
        now = time.monotonic()
        taken, self._last = (now - self._last) * 1000, now
        return taken

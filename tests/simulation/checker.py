"""The promises, checked on what is committed after each step, by nothing that the service uses."""

from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tests.simulation import ingestion_checks
from tests.simulation.ledger import Ledger, Violation, ensure
from tests.simulation.pictures import predict
from tests.simulation.storage import StagedStorage
from tests.simulation.view import Eye, View, predictions_of

if TYPE_CHECKING:
    from collections.abc import Iterable

ENDED = ("succeeded", "failed", "canceled", "expired")
# From where to where, and by how much the attempts may differ.
_WAYS: dict[tuple[str, str], tuple[int, ...]] = {
    ("queued", "queued"): (0,),
    ("queued", "running"): (1,),
    ("queued", "canceled"): (0, 1),  # 1: a claim ends those of an ingestion that was stopped
    ("queued", "expired"): (0,),
    ("queued", "failed"): (0,),
    ("running", "running"): (0,),
    ("running", "queued"): (0, -1),
    ("running", "succeeded"): (0,),
    ("running", "failed"): (0,),
    ("running", "canceled"): (0,),
}
_FOR_LIFE = ("owner", "image", "ingestion", "position", "lane", "flow", "created_at", "deadline_at")


class Checker:
    """Looks after each step, and remembers what it has seen."""

    def __init__(self, eye: Eye, ledger: Ledger, storage: StagedStorage) -> None:
        self._eye = eye
        self._ledger = ledger
        self._storage = storage
        self._clocks: dict[tuple[int, str], int] = {}
        self._right: set[tuple[str, int, str]] = set()  # results that were found right
        self.seen = View()
        self.changes = 0  # of jobs and ingestions
        self.met: Counter[str] = Counter()  # what has happened, to know that it does

    def look(self) -> View:
        """Compare what is committed with the promises, and with what was seen before."""
        before, now = self.seen, self._eye.look()
        for id_, job in now.jobs.items():
            known = before.jobs.get(id_)
            if known is None:
                self._new_job(job)
            elif known != job:
                self._changed_job(known, job)
        for id_ in before.jobs.keys() - now.jobs.keys():
            self._gone_job(before.jobs[id_], before, now)
        self._ingestions(before, now)
        self._claims(now)
        self._clocks_go_on(now)
        self._images(now)
        self._results(now)
        self._told(now)
        if (before.jobs, before.ingestions) != (now.jobs, now.ingestions):
            self.changes += 1
        self.seen = now
        return now

    def _new_job(self, job: Any) -> None:
        ensure(job.status in ("queued", "succeeded"), "born", job.status, job.id)
        ensure(job.attempt == 0, "born with attempts", job.id)
        self.met[f"born {job.status}"] += 1
        ensure((job.status == "succeeded") == bool(job.reused), "born succeeded", job.id)

    def _changed_job(self, old: Any, new: Any) -> None:
        ensure(old.status not in ENDED, "changed after its end:", old, "is now", new)
        way = _WAYS.get((old.status, new.status))
        ensure(way is not None, "no way from", old.status, "to", new.status, old.id)
        step = new.attempt - old.attempt
        if old.status != new.status:
            self.met[f"{old.status} → {new.error_code or new.status}"] += 1
        if (
            new.status == "running"
            and old.status == "running"
            and old.claim_token != new.claim_token
        ):
            raise Violation(f"{old.id} was claimed twice at once")
        ensure(way is not None and step in way, "attempts by", step, "on", old.status, new.status)
        for column in _FOR_LIFE:
            ensure(getattr(old, column) == getattr(new, column), column, "changed", old, new)
        ensure(old.parks <= new.parks and old.lapses <= new.lapses, "unlearned", old, new)
        if new.status in ENDED:
            ensure(new.finished_at, "ended without a time", new)
            ensure(new.error_code or new.status in ("succeeded", "canceled"), "no reason", new)
        else:
            ensure(not new.finished_at and not new.error_code, "ended before its end", new)

    def _gone_job(self, job: Any, before: View, now: View) -> None:
        if job.ingestion is None:
            told = self._ledger.jobs.get(UUID(job.id))
            ensure(told is not None and told.may_be_gone, "gone, though nobody deleted it:", job)
        else:
            its = before.ingestions.get(job.ingestion)
            ensure(its is None or its.deleted_at, "gone from its ingestion:", job)

    def _ingestions(self, before: View, now: View) -> None:
        for id_, row in now.ingestions.items():
            old = before.ingestions.get(id_)
            if old is None:
                ensure(row.status == "queued", "an ingestion was born", row)
                self.met["ingestion born"] += 1
            elif old != row:
                if old.status != row.status:
                    self.met[f"ingestion {old.status} → {row.error_code or row.status}"] += 1
                ingestion_checks.check_change(old, row, self._ledger)
        for id_ in before.ingestions.keys() - now.ingestions.keys():
            ingestion_checks.check_gone(before.ingestions[id_], now)
        if now.ingestions or now.items or now.ingestion_counts:
            ingestion_checks.check_all(now, self._ledger)

    def _claims(self, now: View) -> None:
        held = {job.claim_token for job in now.jobs.values() if job.claim_token is not None}
        for job in now.jobs.values():
            ensure((job.status == "running") == (job.claim_token is not None), "token", job)
        tokens = {claim[0] for claim in now.claims}
        ensure(held <= tokens, "running without a claim:", held - tokens)
        ensure(tokens <= held, "a claim without jobs:", tokens - held)

    def _clocks_go_on(self, now: View) -> None:
        for version, lane, clock in now.lanes:
            ensure(
                clock >= self._clocks.get((version, lane), 0), "the clock went back:", version, lane
            )
            self._clocks[version, lane] = clock
        for job in now.jobs.values():
            ensure((job.model_version, job.lane) in self._clocks, "in no lane:", job)

    def _images(self, now: View) -> None:
        objects = {image[0]: image[1] for image in now.images}
        for job in now.jobs.values():
            ensure(job.image in objects, "a job without its image:", job)
        for name in objects.values():
            there = name is None or name in self._storage.objects or name in self._storage.lost
            ensure(there, "an image row names an object that is not there:", name)

    def _results(self, now: View) -> None:
        there = set()
        for image, version, predictions, label in now.results:
            there.add((image, version))
            if (image, version, predictions) not in self._right:
                right = predict(image, version)
                ensure(predictions_of(predictions) == right, "a wrong answer for", image, version)
                ensure(label == right[0][1], "a wrong label for", image, version)
                self._right.add((image, version, predictions))
        for job in now.jobs.values():
            if job.status == "succeeded":
                ensure((job.image, job.model_version) in there, "succeeded without result:", job)

    def _told(self, now: View) -> None:
        """What clients were told of is there, and what they were told is gone is not."""
        for made, told in self._ledger.jobs.items():
            job = now.jobs.get(made.hex)
            ensure(job is not None or told.may_be_gone, "accepted, and is not there:", made)
            ensure(job is None or not told.is_gone, "deleted, and is there:", made)
            if job is not None:
                ensure((job.owner, job.image) == (told.owner, told.image), "another's:", job)

    def unsettled(self) -> "Iterable[str]":
        """What has not come to an end yet, of all that should within bounded time."""
        for job in self.seen.jobs.values():
            if job.status not in ENDED:
                yield f"job {job}"
        for claim in self.seen.claims:
            yield f"claim {claim}"
        for row in self.seen.ingestions.values():
            if row.deleted_at or not row.settled_at:
                yield f"ingestion {row}"

    def finish(self) -> None:
        """Nothing is left that nothing needs, after the sweep."""
        now = self.look()
        cited = {job.image for job in now.jobs.values()}
        for image in now.images:
            ensure(image[0] in cited, "an image that no job cites:", image)
        named = {image[1] for image in now.images} | {i.object for i in now.ingestions.values()}
        left = set(self._storage.objects) - named
        ensure(not left, "objects without a row:", left)

"""What is promised of ingestions, checked on what is committed."""

from collections import Counter, defaultdict
from typing import Any
from uuid import UUID

from tests.simulation.ledger import Ledger, ensure
from tests.simulation.view import View

JOB_ENDED = ("succeeded", "failed", "canceled", "expired")
_COUNTED = ("succeeded", "failed", "canceled", "expired")
ENDED = ("succeeded", "partially_succeeded", "failed", "canceled")
_RETRYABLE = ("partially_succeeded", "failed")
_WAYS = {
    ("queued", "running"),
    ("queued", "canceled"),
    ("queued", "failed"),
    ("running", "succeeded"),
    ("running", "partially_succeeded"),
    ("running", "failed"),
    ("running", "canceled"),
}


def check_change(old: Any, new: Any, ledger: Ledger) -> None:
    """One ingestion's row, before and after a step."""
    if old.status != new.status:
        told = ledger.ingestions.get(UUID(new.id))
        again = new.status == "running" and told is not None and told.may_run_again
        way = (old.status, new.status) in _WAYS or (again and old.status in _RETRYABLE)
        ensure(way, "no way for an ingestion from", old, "to", new)
    elif new.status in ENDED:
        ensure(old.finished_at == new.finished_at, "it ended twice:", old, new)
    ensure(old.expanded <= new.expanded, "items went away:", old, new)
    ensure(old.deleted_at is None or old.deleted_at == new.deleted_at, "it is back:", old, new)
    ensure(old.owner == new.owner and old.created_at == new.created_at, "it was", old, new)


def check_gone(old: Any, now: View) -> None:
    """An ingestion's row that is there no more."""
    ensure(old.deleted_at and old.settled_at, "an ingestion is gone:", old)
    ensure(all(item[0] != old.id for item in now.items), "items of what is gone:", old)
    ensure(all(job.ingestion != old.id for job in now.jobs.values()), "jobs of what is gone", old)


def check_all(now: View, ledger: Ledger) -> None:
    """Every ingestion, as it is."""
    items: defaultdict[str, list[Any]] = defaultdict(list)
    for item in now.items:
        items[item[0]].append(item)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for ingestion, _, *numbers in now.ingestion_counts:
        counts[ingestion].update(dict(zip(_COUNTED, numbers, strict=True)))
    jobs: defaultdict[str, list[Any]] = defaultdict(list)
    for job in now.jobs.values():
        if job.ingestion is not None:
            jobs[job.ingestion].append(job)
    for id_ in (*items, *counts, *jobs):
        ensure(id_ in now.ingestions, "rows of no ingestion:", id_)
    for row in now.ingestions.values():
        if not (row.deleted_at and row.settled_at):  # else it is being taken away
            _check(row, items[row.id], counts[row.id], jobs[row.id])
    for made, told in ledger.ingestions.items():
        row = now.ingestions.get(made.hex)
        ensure(row is not None or told.may_be_gone, "accepted, and is not there:", made)
        ensure(row is None or row.deleted_at or not told.is_gone, "deleted, and is there:", made)


def _check(row: Any, items: list[Any], counts: Counter[str], jobs: list[Any]) -> None:
    positions = sorted(item[1] for item in items)
    ensure(positions == list(range(row.expanded)), "positions", positions, "of", row)
    refused = sum(1 for item in items if item[2] is None and item[3] is not None)
    ensure(refused == row.refused, "refused are", refused, "of", row)
    by_id = {job.id: job for job in jobs}
    own = [(item, by_id.get(item[2])) for item in items if item[2] is not None]
    for item, job in own:
        ensure(job is not None and job.position == item[1], "an item's job:", item, job)
    current = {job.id for _, job in own}
    for job in jobs:
        ensure(job.id in current or job.status in JOB_ENDED, "a live job of no item:", job)
    ended = Counter(job.status for _, job in own if job.status in JOB_ENDED)
    ensure(ended == +counts, "counted", counts, "ended", ended, "of", row)
    if row.expander_token:
        ensure(row.status == "running" and not row.expanded_at, "expanded after its end:", row)
    ensure((row.status in ENDED) == bool(row.finished_at), "its end has no time:", row)
    if row.settled_at:
        ensure(row.status in ENDED, "settled before its end:", row)
        ensure(sum(ended.values()) + refused == row.expanded, "settled with live jobs:", row)
    if row.status == "succeeded":
        ensure(ended["succeeded"] == row.expanded, "succeeded without all:", row, ended)
    versions = {job.model_version for job in jobs if job.status == "succeeded"}
    ensure(len(versions) <= 1, "an ingestion is a mixture of", versions, row)

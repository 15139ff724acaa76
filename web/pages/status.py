"""The service in words and figures, for `/status`."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import groupby
from uuid import UUID

from sqlalchemy import select

from shared.database import Database
from shared.jobs.queries import owned
from shared.jobs.statistics import Failures, Minute, percentile
from shared.tables import LANES, jobs
from web.pages.condition import Condition, at_least, judge, title_of
from web.pages.plots import OUTCOMES, Plot, plot_latencies, plot_outcomes
from web.pages.statistics import Snapshot, Worker
from web.pages.words import about, age, counted, duration, size

_RATE_MINUTES = 5
_ROW_MINUTES = 5  # of the table beside the plots


@dataclass(frozen=True)
class Figure:
    """A number that stands out, its name and what has to be said about it."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class Queue:
    """What waits for one version: a count for each lane."""

    model: str
    counts: Sequence[str]
    oldest: str
    workers: int


@dataclass(frozen=True)
class Failing:
    """One reason why jobs failed in the last hour."""

    title: str
    count: str
    detail: str
    ago: str
    job: UUID | None


@dataclass(frozen=True)
class WorkerView:
    """One worker's line."""

    host: str
    pid: int
    device: str
    models: Sequence[str]
    batch: str
    speed: str
    seen: str
    live: bool
    trouble: str | None


@dataclass(frozen=True)
class LatencyView:
    """The latencies of one lane in the last hour; without any, the texts are empty."""

    lane: str
    plot: Plot
    median: str
    most: str


@dataclass(frozen=True)
class Row:
    """Five minutes of the hour in figures."""

    minutes_ago: str
    cells: Sequence[str]


@dataclass(frozen=True)
class StatusView:
    """What the template shows."""

    condition: Condition
    time: str
    figures: Sequence[Figure]
    outcomes: Plot
    ended: Sequence[tuple[str, str]]
    latencies: Sequence[LatencyView]
    rows: Sequence[Row]
    queues: Sequence[Queue]
    failing: Sequence[Failing]
    workers: Sequence[WorkerView]
    storage: Sequence[Figure]

    @property
    def summary(self) -> str:
        """What the plot of outcomes shows, for those who do not see it."""
        told = [f"{count} {kind}" for kind, count in self.ended if count != "0"]
        return f"{', '.join(told)}."

    @property
    def quiet(self) -> bool:
        """Whether no job has ended in the last hour."""
        return all(count == "0" for _, count in self.ended)


def view_status(
    now: Snapshot, *, default: str, owner: str, existing: Collection[UUID]
) -> StatusView:
    """The service as its page shows it.

    Args:
        now: The service as it is.
        default: Name of the default model.
        owner: Who looks: others' jobs are counted, and not told in detail.
        existing: The failed jobs that may be linked to.
    """
    lanes = [
        lane
        for lane in LANES
        if lane == LANES[0] or any(lane in minute.latencies for minute in now.minutes)
    ]
    return StatusView(
        condition=judge(now, default=default),
        time=f"{now.at:%H:%M:%S} UTC",
        figures=_figures(now),
        outcomes=plot_outcomes(now.minutes),
        ended=_outcomes(now.minutes),
        latencies=[_latency(now.minutes, lane) for lane in lanes],
        rows=_rows(now.minutes, lanes),
        queues=_queues(now),
        failing=_failing(now, owner, existing),
        workers=[_worker(now, worker) for worker in now.workers],
        storage=_storage(now),
    )


def existing_jobs(database: Database, owner: str, minutes: Sequence[Minute]) -> set[UUID]:
    """Those of the failed jobs that are the owner's own, and still there."""
    ids = [each.job_id for each in _latest(minutes)]
    if not ids:
        return set()
    with database.read() as connection:
        return set(connection.scalars(select(jobs.c.id).where(owned(owner), jobs.c.id.in_(ids))))


def _figures(now: Snapshot) -> list[Figure]:
    figures = []
    for lane in LANES:
        queues = [each for each in now.waiting if each.lane == lane]
        oldest = max((each.oldest_seconds for each in queues), default=None)
        more = "waiting" if oldest is None else f"waiting, the oldest for {age(oldest)}"
        figures.append(
            Figure(f"{lane.capitalize()} lane", at_least(sum(each.count for each in queues)), more)
        )
    seconds = now.at.second + 60 * (_RATE_MINUTES - 1)
    lately = sum(_ended(now.minutes[-_RATE_MINUTES:]).values())
    median, most = _percentiles(now.minutes, LANES[0])
    return [
        *figures,
        Figure(
            "Running",
            at_least(now.running),
            f"{at_least(now.parked)} parked" if now.parked else "",
        ),
        Figure("Jobs a second", about(lately / seconds), f"in the last {_RATE_MINUTES} minutes"),
        Figure("Median latency", median or "–", f"95 % within {most}" if most else "no jobs yet"),
    ]


def _outcomes(minutes: Sequence[Minute]) -> list[tuple[str, str]]:
    ended = _ended(minutes)
    return [(kind, f"{ended[kind]:,}") for kind in OUTCOMES]


def _latency(minutes: Sequence[Minute], lane: str) -> LatencyView:
    median, most = _percentiles(minutes, lane)
    return LatencyView(lane, plot_latencies(minutes, lane), median, most)


def _percentiles(minutes: Sequence[Minute], lane: str) -> tuple[str, str]:
    """Median and 95th percentile in words; nothing of nothing."""
    together = Counter[int]()
    for minute in minutes:
        together.update(minute.latencies.get(lane, {}))
    found = (percentile(together, share) for share in (0.5, 0.95))
    median, most = ("" if ms is None else duration(ms) for ms in found)
    return median, most


def _ended(minutes: Sequence[Minute]) -> Counter[str]:
    ended = Counter[str]()
    for minute in minutes:
        ended.update(minute.ended)
    return ended


def _rows(minutes: Sequence[Minute], lanes: Sequence[str]) -> list[Row]:
    """The plots in figures, newest first."""
    rows = []
    for back in range(0, len(minutes), _ROW_MINUTES):
        some = minutes[len(minutes) - back - _ROW_MINUTES : len(minutes) - back]
        counts = [count for _, count in _outcomes(some)]
        latencies = [text or "–" for lane in lanes for text in _percentiles(some, lane)]
        rows.append(Row(f"{back}–{back + _ROW_MINUTES}", [*counts, *latencies]))
    return rows


def _queues(now: Snapshot) -> list[Queue]:
    queues = []
    for version_id, group in groupby(now.waiting, lambda each: each.version_id):
        lanes = {each.lane: each for each in group}
        counts = [at_least(lanes[lane].count) if lane in lanes else "0" for lane in LANES]
        oldest = max(each.oldest_seconds for each in lanes.values())
        serving = sum(worker.live and version_id in worker.versions for worker in now.workers)
        queues.append(Queue(now.names[version_id], counts, age(oldest), serving))
    return queues


def _latest(minutes: Sequence[Minute]) -> list[Failures]:
    """Each reason of failure with all its jobs of the hour counted, the most frequent first."""
    kinds: dict[tuple[str, str], Failures] = {}
    for failures in (each for minute in minutes for each in minute.failures):
        kind = (failures.status, failures.code)
        earlier = kinds[kind].count if kind in kinds else 0
        kinds[kind] = replace(failures, count=failures.count + earlier)
    return sorted(kinds.values(), key=lambda each: -each.count)


def _failing(now: Snapshot, owner: str, existing: Collection[UUID]) -> list[Failing]:
    return [
        Failing(
            title=title_of(each.status, each.code),
            count=counted(each.count, "job", "jobs"),
            detail=_detail(each) if each.owner == owner else "",
            ago=age((now.at - each.at).total_seconds()),
            job=each.job_id if each.job_id in existing else None,
        )
        for each in _latest(now.minutes)
    ]


def _detail(failures: Failures) -> str:
    """What the latest job's error says beyond its title."""
    detail = (failures.detail or "").replace("'", "’")
    return "" if detail == f"{title_of(failures.status, failures.code)}." else detail


def _worker(now: Snapshot, worker: Worker) -> WorkerView:
    seen_seconds = worker.seen_ms / 1000
    seen_at = now.at - timedelta(seconds=seen_seconds)
    return WorkerView(
        host=worker.host,
        pid=worker.pid,
        device=worker.device or "",
        models=[now.names[id_] for id_ in worker.versions if id_ in now.names],
        batch="" if worker.max_batch_size is None else f"{worker.max_batch_size:,}",
        speed="" if worker.images_per_second is None else about(worker.images_per_second),
        seen=f"{age(seen_seconds)} ago" if worker.live else f"not since {seen_at:%H:%M} UTC",
        live=worker.live,
        trouble=worker.trouble,
    )


def _storage(now: Snapshot) -> list[Figure]:
    figures = []
    if now.images is None:
        figures.append(Figure("Images", "unknown", "They could not be counted in time."))
    else:
        at = f"counted at {now.images.at:%H:%M} UTC"
        figures.append(Figure("Images", f"{now.images.count:,}", at))
        figures.append(Figure("Their size", size(now.images.size_bytes)))
    if now.free_bytes is not None:
        figures.append(Figure("Free on the disk", size(now.free_bytes)))
    return figures

"""The jobs that ended within the last hour, minute by minute, read from an index."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, case, func, select, text

from shared.database import at_most, milliseconds_between
from shared.tables import images, jobs

HOUR_MINUTES = 60
_MINUTE = timedelta(minutes=1)
# No database ends that many; the limit also keeps SQLite from working a latency out repeatedly.
_MOST_A_MINUTE = 1_000_000
_MOST_FAILURES_A_MINUTE = 100_000  # these are read from the table
# A transaction stamps the end of its jobs, and commits some time later.
_SETTLING = timedelta(seconds=60)
_EXACT_MS = 100
_DIGITS_MOST = 9

_UNANSWERED = text("jobs.status IN ('failed', 'expired')")


@dataclass(frozen=True)
class Failures:
    """The jobs of one minute that failed or expired for one reason, and which was the last."""

    status: str
    code: str
    count: int
    job_id: UUID
    owner: str
    detail: str | None
    at: datetime


@dataclass(frozen=True)
class Minute:
    """The jobs that ended within one minute.

    Attributes:
        ended: How many, by status.
        latencies: From acceptance to success, by lane: how many took so many milliseconds, rounded
            to two digits. What was answered from an earlier result (in 0 ms) is left out.
    """

    begin: datetime
    ended: Mapping[str, int]
    latencies: Mapping[str, Mapping[int, int]]
    failures: Sequence[Failures]


class LastHour:
    """The last 60 minutes, this one included; those that change no more are read only once."""

    def __init__(self) -> None:
        self._settled: dict[datetime, Minute] = {}

    def read(self, connection: Connection, now: datetime) -> list[Minute]:
        """Oldest first. One caller at a time; `now` is by the database's clock."""
        this_minute = now.replace(second=0, microsecond=0)
        begins = [this_minute - _MINUTE * back for back in reversed(range(HOUR_MINUTES))]
        minutes = [self._settled.get(begin) or read_minute(connection, begin) for begin in begins]
        self._settled = {
            minute.begin: minute for minute in minutes if minute.begin + _MINUTE + _SETTLING <= now
        }
        return minutes


def read_minute(connection: Connection, begin: datetime) -> Minute:
    """Count the jobs that ended within the minute that begins then."""
    within = and_(jobs.c.finished_at >= begin, jobs.c.finished_at < begin + _MINUTE)
    each = (
        select(
            jobs.c.status,
            jobs.c.lane,
            milliseconds_between(jobs.c.created_at, jobs.c.finished_at).label("ms"),
        )
        .where(within)
        .order_by(jobs.c.finished_at)
        .limit(at_most(_MOST_A_MINUTE))
        .subquery("each")
    )
    rounded = select(each.c.status, each.c.lane, _two_digits(each.c.ms).label("ms")).subquery()
    groups = (rounded.c.status, rounded.c.lane, rounded.c.ms)
    ended: Counter[str] = Counter()
    latencies: dict[str, dict[int, int]] = {}
    for status, lane, ms, count in connection.execute(
        select(*groups, func.count()).group_by(*groups)
    ):
        ended[status] += count
        if status == "succeeded" and ms > 0:
            latencies.setdefault(lane, {})[ms] = count
    unanswered = ended["failed"] + ended["expired"]
    return Minute(begin, ended, latencies, _failures(connection, within) if unanswered else ())


def total_images(connection: Connection) -> tuple[int, int]:
    """How many images there are, and their bytes together: this reads the whole table."""
    count, size_bytes = connection.execute(
        select(func.count(), func.coalesce(func.sum(images.c.size_bytes), 0))
    ).one()
    return int(count), int(size_bytes)


def percentile(latencies: Mapping[int, int], share: float) -> int | None:
    """The smallest latency that so great a share of the jobs did not exceed; None without jobs."""
    missing = share * sum(latencies.values())
    for ms in sorted(latencies):
        missing -= latencies[ms]
        if missing <= 0:
            return ms
    return None


def _two_digits(ms: ColumnElement[int]) -> ColumnElement[int]:
    """Rounded to two digits (4,321 → 4,300), so that a minute has few different latencies."""
    steps = [10**zeros for zeros in range(1, _DIGITS_MOST - 1)]
    return case(
        (ms < _EXACT_MS, ms),
        *((ms < _EXACT_MS * step, (ms + step // 2) // step * step) for step in steps),
        else_=_EXACT_MS * steps[-1],
    )


def _failures(connection: Connection, within: ColumnElement[bool]) -> Sequence[Failures]:
    failed = (
        select(
            jobs.c.status,
            jobs.c.error_code,
            jobs.c.id,
            jobs.c.owner,
            jobs.c.error_detail,
            jobs.c.finished_at,
        )
        .where(_UNANSWERED, within)
        .order_by(jobs.c.finished_at.desc())
        .limit(at_most(_MOST_FAILURES_A_MINUTE))
        .subquery("failed")
    )
    kind = (failed.c.status, failed.c.error_code)
    latest_first = (failed.c.finished_at.desc(), failed.c.id.desc())
    ranked = select(
        failed,
        func.count().over(partition_by=kind).label("of_kind"),
        func.row_number().over(partition_by=kind, order_by=latest_first).label("place"),
    ).subquery("ranked")
    return [
        Failures(status, code, of_kind, job_id, owner, detail, at)
        for status, code, job_id, owner, detail, at, of_kind, _ in connection.execute(
            select(ranked).where(ranked.c.place == 1)
        )
    ]

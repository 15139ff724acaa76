"""What the status page counts: exact figures of a made-up hour, and by index alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, insert, select

from shared.database import Database, milliseconds_between, moment, new_id
from shared.jobs import depth, statistics
from shared.jobs.recording import Failure, Unread
from shared.jobs.statistics import LastHour, Minute, percentile
from shared.tables import jobs
from tests.integration.helpers import Stage, image

NOW = datetime(2026, 3, 1, 12, 30, 20, tzinfo=UTC)
LAST_MINUTE = datetime(2026, 3, 1, 12, 29, tzinfo=UTC)


@pytest.fixture
def hour(stage: Stage) -> "Hour":
    stage.submit()  # its image serves all jobs
    return Hour(stage)


class Hour:
    """Jobs that ended at given times."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def end(
        self,
        at: datetime,
        *,
        status: str = "succeeded",
        ms: float = 250,
        lane: str = "interactive",
        error: tuple[str, str] | None = None,
    ) -> UUID:
        job_id = new_id()
        row: dict[str, Any] = {
            "id": job_id,
            "owner": "local",
            "status": status,
            "image": image("seven").sha256,
            "model_version": self.stage.version_id,
            "pinned": False,
            "top_k": 5,
            "metadata": {},
            "lane": lane,
            "flow": "local",
            "sequence": 1,
            "created_at": at - timedelta(milliseconds=ms),
            "finished_at": at,
            "error_code": error[0] if error else None,
            "error_detail": error[1] if error else None,
        }
        self.stage.database.transact(lambda c: c.execute(insert(jobs).values(row)))
        return job_id

    def read(self, now: datetime = NOW) -> list[Minute]:
        with self.stage.database.read() as connection:
            return LastHour().read(connection, now)


def test_an_hour_without_jobs_has_sixty_empty_minutes(stage: Stage) -> None:
    stage.submit()
    with stage.database.read() as connection:
        minutes = LastHour().read(connection, NOW)
    assert [minute.begin for minute in minutes] == [
        datetime(2026, 3, 1, 11, 31, tzinfo=UTC) + timedelta(minutes=n) for n in range(60)
    ]
    assert not any(minute.ended or minute.latencies or minute.failures for minute in minutes)


def test_each_job_is_counted_in_the_minute_and_with_the_state_it_ended_in(hour: Hour) -> None:
    for second in (0, 59.999999):  # the whole of a minute, and neither of its neighbours
        hour.end(LAST_MINUTE + timedelta(seconds=second))
    hour.end(LAST_MINUTE + timedelta(seconds=60), status="canceled")
    hour.end(LAST_MINUTE - timedelta(microseconds=1), lane="bulk")
    hour.end(NOW.replace(second=0) - timedelta(minutes=59))  # the oldest that belongs to the hour
    hour.end(NOW.replace(second=0) - timedelta(minutes=59, microseconds=1))
    ended = {minute.begin.strftime("%H:%M"): dict(minute.ended) for minute in hour.read()}
    assert {begin: counts for begin, counts in ended.items() if counts} == {
        "11:31": {"succeeded": 1},
        "12:28": {"succeeded": 1},
        "12:29": {"succeeded": 2},
        "12:30": {"canceled": 1},
    }


def test_latencies_are_told_to_two_digits_by_lane_and_only_of_what_was_computed(
    hour: Hour,
) -> None:
    for ms in (0.2, 7, 99, 104, 105, 4_321, 65_499, 7_654_321, 2 * 10**9):
        hour.end(LAST_MINUTE, ms=ms)
    hour.end(LAST_MINUTE, ms=105)
    hour.end(LAST_MINUTE, ms=12_000, lane="bulk")
    hour.end(LAST_MINUTE, ms=3, status="canceled")
    hour.end(LAST_MINUTE, ms=-5)  # the clock was set back
    minute = hour.read()[-2]
    assert minute.ended["succeeded"] == 12
    assert minute.latencies == {
        "interactive": {
            7: 1,
            99: 1,
            100: 1,
            110: 2,
            4_300: 1,
            65_000: 1,
            7_700_000: 1,
            1_000_000_000: 1,
        },
        "bulk": {12_000: 1},
    }


def test_a_percentile_is_the_smallest_latency_that_covers_the_share() -> None:
    latencies = {10: 50, 20: 45, 900: 4, 5000: 1}
    assert percentile(latencies, 0.5) == 10
    assert percentile(latencies, 0.51) == 20
    assert percentile(latencies, 0.95) == 20
    assert percentile(latencies, 0.96) == 900
    assert percentile(latencies, 1) == 5000
    assert percentile({}, 0.5) is None


def test_failures_are_told_by_reason_with_the_latest_of_each(hour: Hour) -> None:
    unreadable, overdue = "image_unreadable", "deadline_passed"
    for second in range(3):
        last = hour.end(
            LAST_MINUTE + timedelta(seconds=second),
            status="failed",
            error=(unreadable, f"cut after {second} bytes"),
        )
    hour.end(LAST_MINUTE - timedelta(seconds=1), status="failed", error=(unreadable, "earlier"))
    failed = hour.end(LAST_MINUTE, status="failed", error=(overdue, "tried before"))
    expired = hour.end(LAST_MINUTE, status="expired", error=(overdue, "never tried"))
    hour.end(LAST_MINUTE, status="canceled")
    failures = {
        (each.status, each.code): (each.count, each.job_id, each.detail, each.owner)
        for each in hour.read()[-2].failures
    }
    assert failures == {
        ("failed", unreadable): (3, last, "cut after 2 bytes", "local"),
        ("failed", overdue): (1, failed, "tried before", "local"),
        ("expired", overdue): (1, expired, "never tried", "local"),
    }


def test_a_minute_is_read_again_until_what_ended_in_it_is_committed(hour: Hour) -> None:
    kept = LastHour()
    begin = LAST_MINUTE - timedelta(minutes=5)

    def ended(now: datetime) -> int:
        with hour.stage.database.read() as connection:
            minutes = kept.read(connection, now)
        return next(sum(m.ended.values()) for m in minutes if m.begin == begin)

    assert ended(begin + timedelta(seconds=100)) == 0
    hour.end(begin)
    assert ended(begin + timedelta(seconds=130)) == 1
    hour.end(begin)
    assert ended(begin + timedelta(minutes=40)) == 1  # settled, and kept


def test_jobs_that_end_are_found_by_the_databases_own_clock(stage: Stage) -> None:
    stage.submit()
    stage.record(stage.must_claim())
    stage.submit()  # answered from that result
    stage.submit("broken")
    stage.record(stage.must_claim(), Failure("image_unreadable", "It ends early."))
    with stage.database.read() as connection:
        now = connection.scalar(select(moment()))
        assert now is not None
        minutes = LastHour().read(connection, now)
    assert sum(minute.ended["succeeded"] for minute in minutes) == 2
    assert [each.detail for minute in minutes for each in minute.failures] == ["It ends early."]
    computed = [n for m in minutes for lane in m.latencies.values() for n in lane.values()]
    assert sum(computed) <= 1  # in less than half a millisecond the first would not count either


def test_the_time_between_two_moments_is_the_same_everywhere(stage: Stage) -> None:
    with stage.database.read() as connection:
        between = connection.scalar(select(milliseconds_between(moment(-90_061.25), moment())))
    assert between in (90_061_249, 90_061_250, 90_061_251)  # SQLite asks the clock twice


def test_the_queue_is_counted_by_version_and_lane_with_the_age_of_its_oldest(stage: Stage) -> None:
    older = stage.version_id
    stage.submit_many(2)
    stage.submit(lane="bulk")
    first = stage.submit("old").job_id
    newer = stage.install()
    with stage.database.read() as connection:
        now = connection.scalar(select(moment()))
        assert now is not None
        assert depth.read_waiting(connection)[0].oldest_seconds < 60
    stage.change(jobs, where=jobs.c.id == min(stage.jobs()), created_at=now - timedelta(hours=2))
    stage.change(jobs, where=jobs.c.id == first, model_version=newer)
    with stage.database.read() as connection:
        found = depth.read_waiting(connection)
    assert [(w.version_id, w.model, w.version, w.lane, w.count) for w in found] == [
        (older, "digits", "0123456789ab", "bulk", 1),
        (older, "digits", "0123456789ab", "interactive", 2),
        (newer, "digits", "ffffffffffff", "interactive", 1),
    ]
    assert 7200 <= found[1].oldest_seconds < 7300


def test_running_and_parked_jobs_are_not_counted_as_waiting(stage: Stage) -> None:
    stage.submit_each("a", "b", "c")
    stage.record(stage.must_claim(2), Unread())
    stage.must_claim(1)
    with stage.database.read() as connection:
        assert depth.read_waiting(connection) == []
        assert depth.count_parked(connection) == 2
        assert depth.count_running(connection) == 1


def test_counting_ends_at_its_limit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "MOST_COUNTED", 3)
    stage.submit_many(5)
    with stage.database.read() as connection:
        assert [each.count for each in depth.read_waiting(connection)] == [4]


def test_images_are_summed_up(stage: Stage) -> None:
    with stage.database.read() as connection:
        assert statistics.total_images(connection) == (0, 0)
    stage.submit_each("a", "bb", "bb")
    with stage.database.read() as connection:
        assert statistics.total_images(connection) == (2, 3)


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """What is sent meanwhile."""
    sent: list[tuple[str, Any]] = []

    def note(_c: Any, _cur: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    yield sent
    event.remove(database.engine, "before_cursor_execute", note)


def test_no_statement_scans_the_jobs(hour: Hour) -> None:
    hour.end(LAST_MINUTE, status="failed", error=("image_unreadable", ""))
    database = hour.stage.database
    with statements(database) as sent:
        hour.read(LAST_MINUTE)
        with database.read() as connection:
            depth.read_waiting(connection)
            depth.count_parked(connection)
            depth.count_running(connection)
    assert len(sent) > 60
    scans, indexes = [], set()
    with database.engine.connect() as connection:
        if not database.is_sqlite:  # so short a table would be scanned, whatever the index
            connection.exec_driver_sql("SET enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        for statement, parameters in dict(sent).items():
            plan = connection.exec_driver_sql(explain + statement, parameters)
            for line in (str(row[-1]) for row in plan):
                if "Seq Scan on jobs" in line or line.startswith("SCAN jobs"):
                    scans.append((line, statement))
                indexes |= {name for name in jobs_indexes() if name in line}
    assert scans == []
    assert indexes >= {"jobs_finished", "jobs_queued", "jobs_parked", "jobs_claimed"}


def jobs_indexes() -> list[str]:
    return [str(index.name) for index in jobs.indexes]

"""The shapes that stand for numbers."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.jobs.statistics import HOUR_MINUTES, Minute
from web.pages.plots import HEIGHT, MINUTE, plot_latencies, plot_outcomes

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def hour(**minutes: dict[str, int] | dict[int, int]) -> list[Minute]:
    """An hour in which only the minutes `m<number>` have jobs: by status, or by latency in ms."""
    made = []
    for number in range(HOUR_MINUTES):
        given = minutes.get(f"m{number}", {})
        ended = {key: count for key, count in given.items() if isinstance(key, str)}
        latencies = {key: count for key, count in given.items() if isinstance(key, int)}
        lanes = {"interactive": latencies} if latencies else {}
        made.append(Minute(BEGIN + timedelta(minutes=number), ended, lanes, ()))
    return made


def test_the_parts_of_a_minute_stand_on_each_other_and_on_the_ground() -> None:
    plot = plot_outcomes(hour(m3={"succeeded": 6, "failed": 3, "canceled": 1}))
    assert plot.scale == ("10", "5", "0")
    assert [(bar.kind, bar.height) for bar in plot.bars] == [
        ("failed", 30),
        ("canceled", 10),
        ("succeeded", 60),
    ]
    ground = HEIGHT
    for bar in plot.bars:
        assert 3 * MINUTE < bar.x < 4 * MINUTE
        assert bar.y + bar.height == pytest.approx(ground)
        ground = bar.y


def test_one_failure_among_thousands_is_seen_and_the_whole_is_as_high_as_it_is() -> None:
    failed, succeeded = plot_outcomes(hour(m0={"succeeded": 3999, "failed": 1})).bars
    assert failed.height > 2
    assert failed.height + succeeded.height == pytest.approx(HEIGHT)
    few, _ = plot_outcomes(hour(m0={"failed": 1}, m1={"succeeded": 4000})).bars
    assert few.height > 2


def test_an_hour_without_jobs_has_a_scale_and_no_shapes() -> None:
    assert plot_outcomes(hour()).bars == []
    assert {line.path for line in plot_latencies(hour(), "interactive").lines} == {""}


def test_a_curve_has_gaps_where_nothing_succeeded_and_a_minute_alone_is_a_dash() -> None:
    plot = plot_latencies(
        hour(m0={100: 9, 900: 1}, m1={200: 1}, m5={1000: 1}, m59={100: 1}), "interactive"
    )
    assert plot.scale == ("1 s", "500 ms", "0")
    curves = {line.kind: line.path for line in plot.lines}
    assert curves == {
        "p50": "M5 90.00 L15 80.00 M51 0.00 h8 M591 90.00 h8",
        "p95": "M5 10.00 L15 80.00 M51 0.00 h8 M591 90.00 h8",
    }


def test_long_latencies_are_told_in_long_units() -> None:
    scales = [
        plot_latencies(hour(m0={ms: 1}), "interactive").scale
        for ms in (3, 11_000, 61_000, 5_000_000, 10**9)
    ]
    assert scales == [
        ("10 ms", "5 ms", "0"),
        ("15 s", "7.5 s", "0"),
        ("2 min", "1 min", "0"),
        ("2 h", "1 h", "0"),
        ("1,000 h", "500 h", "0"),
    ]

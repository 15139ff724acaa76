"""The last hour as plots: numbers in, the shapes of an SVG drawing out.

A drawing is `WIDTH` units wide, ten for each minute, and `HEIGHT` high. The page stretches it to
whatever room there is, so it holds no text: the scale stands beside it.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.jobs.statistics import HOUR_MINUTES, Minute, percentile

MINUTE = 10
WIDTH = HOUR_MINUTES * MINUTE
HEIGHT = 100
_GAP = 1.5  # between two bars
_DASH = 8  # what a minute without neighbours is drawn as
_LEAST = 2.5  # so that one failure among thousands is seen

OUTCOMES = ("succeeded", "failed", "expired", "canceled")
SHARES = {"p95": 0.95, "p50": 0.5}

_COUNTS = [digit * 10**zeros for zeros in range(9) for digit in (1, 2, 4, 6, 8)][1:]
_SECOND, _MINUTE_MS, _HOUR_MS = 1000, 60_000, 3_600_000
_DURATIONS = [
    *(digit * 10**zeros for zeros in (1, 2, 3) for digit in (1, 2, 5)),
    *(number * _SECOND for number in (10, 15, 20, 30)),
    *(number * _MINUTE_MS for number in (1, 2, 3, 5, 10, 15, 20, 30)),
    *(number * _HOUR_MS for number in (1, 2, 6, 12, 24, 48, 168, 1000)),
]


@dataclass(frozen=True)
class Bar:
    """A part of one minute's bar; its top left corner, and its height."""

    kind: str
    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Line:
    """A curve with gaps where there is nothing to show, as the path of an SVG."""

    kind: str
    path: str


@dataclass(frozen=True)
class Plot:
    """One drawing.

    Attributes:
        scale: What stands at its top, in its middle and at its ground.
    """

    scale: tuple[str, str, str]
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()
    width: int = WIDTH
    height: int = HEIGHT
    bar: float = MINUTE - _GAP
    grid: tuple[float, ...] = (0, HEIGHT / 2, HEIGHT)


def plot_outcomes(minutes: Sequence[Minute]) -> Plot:
    """Jobs that ended in each minute, stacked by outcome."""
    top = _top(max((sum(minute.ended.values()) for minute in minutes), default=0), _COUNTS)
    bars: list[Bar] = []
    for number, minute in enumerate(minutes):
        bars += _stack(number, minute.ended, top)
    return Plot((f"{top:,}", f"{top // 2:,}", "0"), bars=bars)


def plot_latencies(minutes: Sequence[Minute], lane: str) -> Plot:
    """How long the jobs of a lane took that succeeded in each minute: most, and nearly all."""
    curves = {
        kind: [percentile(minute.latencies.get(lane, {}), share) for minute in minutes]
        for kind, share in SHARES.items()
    }
    top = _top(max((ms or 0 for curve in curves.values() for ms in curve), default=0), _DURATIONS)
    lines = [Line(kind, _path(curve, top)) for kind, curve in curves.items()]
    return Plot((_tick(top), _tick(top / 2), "0"), lines=lines)


def _stack(number: int, ended: Mapping[str, int], top: int) -> list[Bar]:
    bars = []
    room = max(HEIGHT * sum(ended.values()) / top, _LEAST)
    ground = float(HEIGHT)
    for kind in (*OUTCOMES[1:], OUTCOMES[0]):  # what must not be overlooked is on the ground
        if not ended.get(kind):
            continue
        height = HEIGHT * ended[kind] / top
        # The smallest parts are drawn larger than they are, the whole is not.
        height = room if kind == "succeeded" else min(room, max(height, _LEAST))
        room -= height
        ground -= height
        bars.append(Bar(kind, number * MINUTE + _GAP / 2, round(ground, 2), round(height, 2)))
    return bars


def _path(curve: Sequence[int | None], top: int) -> str:
    steps = []
    befores, afters = [None, *curve[:-1]], [*curve[1:], None]
    for number, (before, value, after) in enumerate(zip(befores, curve, afters, strict=True)):
        if value is None:
            continue
        x, y = (number + 0.5) * MINUTE, HEIGHT * (1 - value / top)
        if before is not None:
            steps.append(f"L{x:g} {y:.2f}")
        elif after is not None:
            steps.append(f"M{x:g} {y:.2f}")
        else:
            steps.append(f"M{x - _DASH / 2:g} {y:.2f} h{_DASH}")
    return " ".join(steps)


def _top(largest: float, scale: Sequence[int]) -> int:
    """The end of an axis that has room for the largest value."""
    return scale[min(bisect_left(scale, largest), len(scale) - 1)]


def _tick(ms: float) -> str:
    for most, unit_ms, unit in (
        (_SECOND, 1, "ms"),
        (_MINUTE_MS, _SECOND, "s"),
        (_HOUR_MS, _MINUTE_MS, "min"),
    ):
        if ms < most:
            return f"{ms / unit_ms:g} {unit}"
    return f"{ms / _HOUR_MS:,g} h"

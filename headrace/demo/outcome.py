"""From what was measured to the result."""

from __future__ import annotations

from headrace.demo.meter import STEP_S, Meter
from headrace.demo.results import Kill, Point, Result
from headrace.verify import StreamCheck
from pipeline.lag import Histogram

CAUGHT_UP_S = 1.0  # p50 of a step: the backlog of the crash is gone


def gather(
    meter: Meter, kill: Kill | None, counted: tuple[int, int, int, int], times: tuple[float, float, float],
    check: StreamCheck, settings: tuple[int, int],
) -> Result:  # fmt: skip
    """The result. `counted`: committed, applied, rows, rows before; `times`: load, drain, total, in seconds."""
    points = _points(meter)
    if kill is not None:
        kill = Kill(kill.at_s, kill.pid, kill.first_commit_s, _caught_up_s(points, kill))
    span = None if kill is None else (kill.at_s - STEP_S, kill.at_s + (kill.caught_up_s or float("inf")))
    (committed, applied, rows, snapshot_rows), (load_s, drain_s, total_s) = counted, times
    return Result(
        *settings, committed, applied, rows, snapshot_rows, load_s, drain_s, _lags(meter.total().lag),
        _lags(meter.total(without=span).lag), max((point.applied_per_s for point in points), default=0.0),
        kill, total_s, check, tuple(points),
    )  # fmt: skip


def _points(meter: Meter) -> list[Point]:
    points, committed = [], 0
    for number in range(max(meter.steps, default=-1) + 1):
        step = meter.steps.get(number)
        now = committed if step is None or step.committed is None else step.committed
        lag = step.lag if step is not None else Histogram()
        applied = step.applied if step is not None else 0
        points.append(Point(
            number * STEP_S, lag.percentile_s(0.5), lag.percentile_s(0.99), applied / STEP_S, (now - committed) / STEP_S
        ))  # fmt: skip
        committed = now
    return points


def _caught_up_s(points: list[Point], kill: Kill) -> float | None:
    """Seconds from the crash to the first step after the first commit whose median lag is small again."""
    if kill.first_commit_s is None:
        return None
    back_s = kill.at_s + kill.first_commit_s
    for point in points:
        if point.at_s >= back_s - STEP_S and point.lag_p50_s is not None and point.lag_p50_s < CAUGHT_UP_S:
            return max(kill.first_commit_s, point.at_s + STEP_S - kill.at_s)
    return None


def _lags(lag: Histogram) -> tuple[float | None, float | None, float | None]:
    return lag.percentile_s(0.5), lag.percentile_s(0.95), lag.percentile_s(0.99)

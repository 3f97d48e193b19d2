"""Windows of lag: what is in each, that old things leave, that memory is bounded."""

from __future__ import annotations

import pytest

from pipeline.lag import STAGES, Histogram
from pipeline.lag_windows import LONG_S, MIDDLE_S, SHORT_S, LagWindows
from schemas.errors import SchemaError
from schemas.progress import Progress


def progress(lag_us: int, *, lane: int = 0, transactions: int = 1, queued: int = 0) -> Progress:
    lag = Histogram()
    lag.add(lag_us, transactions)
    return Progress(
        "s", 1, lane, 1, 1, 1, 5, 5, transactions, 2 * transactions, queued, {"applied": lag.encode(), "odd": b"?"}
    )


def counts(windows: LagWindows) -> dict[int, int]:
    return {seconds: windows.total(seconds).transactions for seconds in (SHORT_S, MIDDLE_S, LONG_S)}


def test_all_windows_count_from_the_first_second() -> None:
    windows = LagWindows()
    windows.note(progress(1000))
    assert counts(windows) == {SHORT_S: 1, MIDDLE_S: 1, LONG_S: 1}


@pytest.mark.parametrize("second", [0, 4, 9, 10, 595])
def test_what_is_too_old_leaves_each_window(second: int) -> None:
    windows = LagWindows()
    for _ in range(second):
        windows.tick()
    windows.note(progress(1000, transactions=7))
    ages: dict[int, int] = {}
    for age_s in range(2 * LONG_S):
        for seconds, count in counts(windows).items():
            assert count in (0, 7)
            if count:
                ages[seconds] = age_s
        windows.tick()
    assert ages[SHORT_S] == SHORT_S - 1
    for seconds in (MIDDLE_S, LONG_S):
        assert seconds - SHORT_S - 1 <= ages[seconds] < seconds


def test_a_steady_rate_is_the_same_in_every_window() -> None:
    windows = LagWindows()
    for _ in range(2 * LONG_S):
        windows.note(progress(2000, transactions=3))
        windows.tick()
    for seconds, count in counts(windows).items():
        assert 3 * (seconds - SHORT_S) <= count <= 3 * seconds


def test_summaries_name_every_stage_and_leave_unknown_ones_out() -> None:
    windows = LagWindows()
    windows.note(progress(1_000_000))
    windows.note_stages({"visible": Histogram([0, 4]).encode()})
    found = windows.windows()
    assert [(w.seconds, w.stage) for w in found] == [(s, stage) for s in (10, 60, 600) for stage in STAGES]
    applied = next(w for w in found if w.stage == "applied")
    assert applied.mean_s == pytest.approx(1, rel=0.1)
    assert applied.variance_s2 == 0
    assert next(w for w in found if w.stage == "captured").p99_s is None


def test_lanes_that_did_nothing_lately_are_not_busy() -> None:
    windows = LagWindows()
    windows.note(progress(1, lane=0, queued=5))
    for _ in range(SHORT_S - 1):
        windows.tick()
    windows.note(progress(1, lane=3, queued=2))
    assert windows.busy_lanes() == (2, 7)
    windows.tick()
    assert windows.busy_lanes() == (1, 2)


def test_damaged_histograms_are_refused() -> None:
    with pytest.raises(SchemaError):
        LagWindows().note_stages({"applied": b"\1"})

"""When the capture lets a batch fill up because it reads a backlog."""

from __future__ import annotations

import pytest

from pipeline.builder import BatchBuilder
from pipeline.closing import BACKLOG_AGE_S, BACKLOG_PAUSE_MS, Arrivals, age_s


@pytest.mark.parametrize(
    ("old_s", "pause_ms", "expected"),
    [
        (BACKLOG_AGE_S * 2, 0.0, True),
        (BACKLOG_AGE_S / 2, 0.0, False),  # committed just now: someone waits for it
        (BACKLOG_AGE_S * 2, BACKLOG_PAUSE_MS, False),  # the last of the backlog
        (-60.0, 0.0, False),  # the source's clock is ahead
    ],
)
def test_old_transactions_that_keep_coming_are_a_backlog(old_s: float, pause_ms: float, *, expected: bool) -> None:
    builder = BatchBuilder("s", 1, 0)
    builder.begin(1, int((1000.0 - old_s) * 1e6), 0)
    assert Arrivals(age_s(builder, 1000.0), pause_ms, busy=True).backlog is expected


def test_nothing_read_is_no_backlog() -> None:
    assert not Arrivals(age_s(BatchBuilder("s", 1, 0), 1000.0), 0.0, busy=False).backlog

"""When the capture lets a batch fill up because it reads a backlog."""

from __future__ import annotations

import pytest

from connectors.postgres.source import BACKLOG_AGE_S, BACKLOG_PAUSE_MS, _age_s, _is_backlog
from pipeline.builder import BatchBuilder


@pytest.mark.parametrize(
    ("age_s", "pause_ms", "expected"),
    [
        (BACKLOG_AGE_S * 2, 0.0, True),
        (BACKLOG_AGE_S / 2, 0.0, False),  # committed just now: someone waits for it
        (BACKLOG_AGE_S * 2, BACKLOG_PAUSE_MS, False),  # the last of the backlog
        (-60.0, 0.0, False),  # the source's clock is ahead
    ],
)
def test_old_transactions_that_keep_coming_are_a_backlog(age_s: float, pause_ms: float, *, expected: bool) -> None:
    builder = BatchBuilder("s", 1, 0)
    builder.begin(1, int((1000.0 - age_s) * 1e6), 0)
    assert _is_backlog(_age_s(builder, 1000.0), pause_ms) is expected


def test_nothing_read_is_no_backlog() -> None:
    assert not _is_backlog(_age_s(BatchBuilder("s", 1, 0), 1000.0), 0.0)

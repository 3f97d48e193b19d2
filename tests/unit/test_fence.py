"""Rule 2: what a lane row says about units that it refused."""

from __future__ import annotations

import pytest

from pipeline.fence import Fenced, LaneRow, OpenParts, admits, judge

ROW = LaneRow(epoch=5, seq=10, next_offset=0)


@pytest.mark.parametrize(
    ("epoch", "first", "last", "expected"),
    [
        (4, 11, 11, Fenced.STALE),  # an older planner's unit, even the next one
        (4, 50, 50, Fenced.STALE),
        (6, 11, 11, Fenced.AHEAD),
        (6, 1, 1, Fenced.AHEAD),
        (5, 10, 10, Fenced.STALE),
        (5, 1, 10, Fenced.STALE),
        (5, 9, 12, Fenced.STALE),  # the first two are applied
        (5, 10, 11, Fenced.STALE),
        (5, 12, 12, Fenced.GAP),
        (5, 13, 20, Fenced.GAP),
        (5, 11, 11, Fenced.UNCHANGED),
        (5, 11, 14, Fenced.UNCHANGED),
    ],
)
def test_judge(epoch: int, first: int, last: int, expected: Fenced) -> None:
    assert judge(ROW, epoch, first, last) is expected


def test_only_the_next_unit_of_the_epoch_is_admitted() -> None:
    admitted = {(epoch, seq) for epoch in range(3, 8) for seq in range(15) if admits(ROW, epoch, seq)}
    assert admitted == {(5, 11)}


def test_a_group_is_refused_for_a_reason_exactly_where_its_first_unit_is_not_admitted() -> None:
    for epoch in (4, 5, 6):
        for first in range(1, 15):
            for last in range(first, 16):
                unchanged = judge(ROW, epoch, first, last) is Fenced.UNCHANGED
                assert unchanged == admits(ROW, epoch, first)


def test_the_row_has_passed_older_epochs_and_what_is_applied() -> None:
    passed = {(epoch, seq) for epoch in (4, 5, 6) for seq in (1, 10, 11) if ROW.has_passed(epoch, seq)}
    assert passed == {(4, 1), (4, 10), (4, 11), (5, 1), (5, 10)}


def test_a_large_transaction_is_continued_by_its_next_unit_alone() -> None:
    """The ledger sees only its first and last seq: a unit missing between them would be missing in the target."""
    begun = OpenParts(epoch=5, first_seq=3, last_seq=6)
    assert begun.continued_by(5, 7)
    for epoch, seq in ((5, 8), (5, 6), (5, 3), (4, 7), (6, 7), (6, 1)):
        assert not begun.continued_by(epoch, seq)

"""What becomes of a unit that the target refuses in every way."""

from __future__ import annotations

import pytest

from pipeline.merging import QueuedUnit
from pipeline.refusal import LastResort, last_resort
from schemas.apply_unit import SERIAL
from tests.unit.test_merging import part, queued


@pytest.mark.parametrize("may_park", [False, True])
@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (queued(1), LastResort.SERIAL_WINDOW),  # its window may hide a dependence, whatever the policy
        (part(1, 1, last=True), LastResort.STOP),
        (queued(1, kind="snapshot"), LastResort.STOP),
        (queued(1, kind="snapshot", mode=SERIAL), LastResort.STOP),
    ],
)
def test_what_is_left_whatever_the_policy(unit: QueuedUnit, expected: LastResort, *, may_park: bool) -> None:
    assert last_resort(unit, may_park=may_park) is expected


def test_a_serial_window_is_parked_where_the_stream_parks() -> None:
    unit = queued(1, mode=SERIAL)
    assert last_resort(unit, may_park=True) is LastResort.PARK
    assert last_resort(unit, may_park=False) is LastResort.STOP

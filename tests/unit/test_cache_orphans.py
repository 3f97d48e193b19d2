"""Blocks of the journal whose table the target does not have."""

from __future__ import annotations

import pytest

from pipeline.cache.orphans import TargetTables, orphans
from pipeline.cache.records import Stamp

KEPT, GONE = b"s/public/kept/3", b"s/public/gone%2F/0"
TABLES = TargetTables(2, 100, {("public", "kept"), ("gone/", "public")})


def test_only_blocks_of_tables_that_are_gone_are_orphans() -> None:
    journal = {KEPT: Stamp(2, 1, 50), GONE: Stamp(2, 1, 50), b"other/public/gone/0": Stamp(2, 1, 50)}
    assert orphans(journal, {"s": TABLES}) == [GONE]
    assert orphans(journal, {}) == []  # a target that is away says nothing


@pytest.mark.parametrize(
    ("stamp", "gone"),
    [(Stamp(2, 9, 100), True), (Stamp(2, 1, 101), False), (Stamp(3, 1, 5), False), (Stamp(1, 1, 999), True)],
)
def test_a_table_that_the_target_has_not_reached_may_still_come(stamp: Stamp, *, gone: bool) -> None:
    assert orphans({GONE: stamp}, {"s": TABLES}) == ([GONE] if gone else [])

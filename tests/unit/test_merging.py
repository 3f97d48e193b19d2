"""Which queued units may share one target transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.builder import BatchBuilder
from pipeline.merging import QueuedUnit, may_follow, stands_alone
from schemas.apply_unit import SERIAL, ApplyUnit
from schemas.change_batch import TRUNCATE, Relation

RELATION = Relation(1, "public", "t", "d", ())


def queued(seq: int, transactions: int = 2, *, size: int = 10, kind: str = "live", **unit: Any) -> QueuedUnit:
    builder = BatchBuilder("s", 1, 100 * seq)
    for n in range(transactions):
        builder.begin(100 * seq + 1 + n, 0, 0)
    batch = builder.close(kind, 0, 0)
    return QueuedUnit(replace(ApplyUnit("s", 1, 0, 1, seq, "normal", 0, {}, 0, b""), **unit), batch, seq, size)


def part(seq: int, number: int, *, last: bool) -> QueuedUnit:
    found = queued(seq, 1)
    found.batch.part, found.batch.last_part = number, last
    return found


def truncate(seq: int) -> QueuedUnit:
    builder = BatchBuilder("s", 1, 0)
    builder.begin(1, 0, 0)
    section = builder.section(RELATION)
    section.ops, section.tx, section.order, section.keys, section.rows = [TRUNCATE], [0], [0], [b""], [b"\0"]
    return replace(queued(seq), batch=builder.close("live", 0, 0))


def follows(first: QueuedUnit, second: QueuedUnit, transactions_max: int = 100, bytes_max: int = 100) -> bool:
    return may_follow([first], second, transactions_max, bytes_max)


def test_the_next_unit_follows() -> None:
    assert follows(queued(1), queued(2))


@pytest.mark.parametrize(
    "second",
    [
        queued(3), queued(1), queued(2, epoch=2), queued(2, generation=2), queued(2, mode=SERIAL),
        queued(2, kind="snapshot"), part(2, 0, last=False), part(2, 1, last=True), truncate(2),
    ],
    ids=["gap", "repeat", "epoch", "generation", "serial", "kind", "first part", "last part", "truncate"],
)  # fmt: skip
def test_these_do_not_follow(second: QueuedUnit) -> None:
    assert not follows(queued(1), second)


@pytest.mark.parametrize("first", [queued(1, mode=SERIAL), part(1, 0, last=False), part(1, 2, last=True), truncate(1)])
def test_nothing_follows_a_unit_that_stands_alone(first: QueuedUnit) -> None:
    assert stands_alone(first)
    assert not follows(first, queued(2))


def test_limits_hold_for_the_whole_group() -> None:
    group = [queued(1, 3, size=40), queued(2, 3, size=40)]
    assert may_follow(group, queued(3, 4, size=20), 10, 100)
    assert not may_follow(group, queued(3, 5, size=20), 10, 100)
    assert not may_follow(group, queued(3, 4, size=21), 10, 100)


def test_snapshot_parts_follow_each_other() -> None:
    assert follows(queued(1, kind="snapshot"), queued(2, kind="snapshot"))

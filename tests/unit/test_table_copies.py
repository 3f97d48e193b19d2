"""A planner and tables that are copied anew while their stream goes on."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.builder import BatchBuilder
from pipeline.conflicts import KeyRules
from pipeline.planner import Planner
from pipeline.window import Restart
from schemas.apply_unit import ApplyUnit
from schemas.change_batch import INSERT, TRUNCATE, ChangeBatch
from schemas.change_batch_codec import decode_batch
from tests.properties.model import Change, Transaction, catalogue, pack_batch, pack_change, table
from tests.unit.test_planner import ACCOUNT, batch, offer, snapshot, write


def planner(watermark: int = 0, *, copied: int | None = None) -> Planner:
    """One that starts while the account table is to be copied anew, or was at a position above the watermark."""
    start = Restart(1, 1, watermark, {}, superseded={ACCOUNT.relation.name: copied})
    return Planner("s", start, KeyRules(catalogue([ACCOUNT])), lanes=4)


def copy(previous: int, *, given_up: bool = False) -> list[ChangeBatch]:
    """The account table copied anew, right after `previous`."""
    builder = BatchBuilder("s", 1, previous)
    found = []
    for op in (TRUNCATE, INSERT, INSERT):
        change = Change(ACCOUNT, op, new=(7, 7) if op == INSERT else None)
        pack_change(builder, builder.begin(previous + 1, 0, 0), change)
        found.append(builder.close("snapshot", 0, previous + 1, last_part=False))
    builder.begin(previous + 1, 0, 0)
    return found if given_up else [*found, builder.close("snapshot", 0, 0)]


def rows_of(units: Sequence[ApplyUnit]) -> int:
    return sum(decode_batch(unit.batch).rows() for unit in units)


def test_changes_of_a_table_are_left_out_until_its_copy() -> None:
    one = planner()
    other = table("other", [("id", "int8")], ("id",))
    both = pack_batch([Transaction(1, (write(1), Change(other, INSERT, new=(1,))))], 0)
    (unit,) = offer(one, both)
    assert [section.relation.table for section in decode_batch(unit.batch).sections] == ["other"]
    assert offer(one, batch(1, 5)) == []
    assert [rows_of(offer(one, part)) for part in copy(2)] == [1, 1, 1, 0]
    assert rows_of(offer(one, batch(3, 5))) == 1
    one.progress(0, 1, 9)
    assert [window.last_position for window in one.retire()] == [1, 2, 2, 2, 2, 3, 4]


def test_a_copy_that_was_given_up_supersedes_until_the_next_one() -> None:
    one = planner(watermark=5)
    for part in copy(5, given_up=True):
        assert rows_of(offer(one, part)) == 1
    assert offer(one, batch(5, 1)) == []
    assert [rows_of(offer(one, part)) for part in copy(6)] == [1, 1, 1, 0]
    assert rows_of(offer(one, batch(7, 1))) == 1


def test_a_new_snapshot_copies_every_table() -> None:
    one = planner()
    assert rows_of(offer(one, snapshot(1, 2, op=TRUNCATE))) == 1
    assert rows_of(offer(one, batch(1, 5, generation=2))) == 1


def test_what_is_read_again_from_before_a_copy_is_left_out() -> None:
    one = planner(copied=3)
    assert offer(one, batch(0, 5, 6)) == []
    for part in copy(2):
        offer(one, part)
    assert rows_of(offer(one, batch(3, 5))) == 1

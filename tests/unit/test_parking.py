"""What has to be parked behind a parked transaction, case by case."""

from __future__ import annotations

import pytest

from pipeline import parking
from pipeline.catalogue import Catalogue, ForeignKey
from pipeline.conflicts import KeyRules
from pipeline.errors import StreamStoppedError
from pipeline.parking import BEHIND, ParkedKeys, Refusal, settle_in_order
from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE, ChangeBatch
from tests.properties.model import PUBLIC, Change, Table, Transaction, catalogue, pack_batch, table

PARENT = table("parent", [("id", "int8"), ("n", "int8")], ("id",))
CHILD = table(
    "child", [("id", "int8"), ("parent", "int8")], ("id",),
    foreign_keys=(ForeignKey(("parent",), (PUBLIC, "parent"), ("id",)),),
)  # fmt: skip
NOTE = table("note", [("text", "text")])
TABLES: Catalogue = catalogue([PARENT, CHILD, NOTE])


def insert(of: Table, *row: int | str) -> Change:
    return Change(of, INSERT, new=row)


def update(of: Table, old: tuple[int, ...], new: tuple[int, ...]) -> Change:
    return Change(of, UPDATE, old, new)


def batch_of(*transactions: Change, first: int = 10) -> ChangeBatch:
    return pack_batch([Transaction(first + n, (change,)) for n, change in enumerate(transactions)], first - 1)


def behind(parked: Change, *later: Change) -> dict[int, tuple[int, ...]]:
    keys = ParkedKeys("s", KeyRules(TABLES))
    keys.add(batch_of(parked))
    return keys.behind(batch_of(*later, first=20), range(len(later)))


def test_writers_of_a_row_are_behind_each_other() -> None:
    later = [update(PARENT, (1, 0), (1, 5)), update(PARENT, (2, 0), (2, 5)), update(PARENT, (1, 5), (1, 6))]
    assert behind(insert(PARENT, 1, 0), *later) == {0: (10,), 2: (10, 20)}


def test_a_child_is_behind_its_parent_and_other_children_are_not_behind_it() -> None:
    assert behind(insert(PARENT, 1, 0), insert(CHILD, 7, 1), insert(CHILD, 8, 2)) == {0: (10,)}
    assert behind(insert(CHILD, 7, 1), insert(CHILD, 8, 1)) == {}


def test_the_end_of_a_parent_is_behind_its_parked_child() -> None:
    assert behind(insert(CHILD, 7, 1), Change(PARENT, DELETE, old=(1, 0))) == {0: (10,)}


def test_dependence_goes_on_from_what_is_found() -> None:
    moved = update(PARENT, (1, 0), (2, 0))
    assert behind(insert(PARENT, 1, 0), moved, insert(CHILD, 7, 2), insert(CHILD, 8, 3)) == {0: (10,), 1: (20,)}


def test_truncate_and_rows_of_its_table_are_behind_each_other() -> None:
    empty = Change(NOTE, TRUNCATE)
    assert behind(insert(NOTE, "a"), empty, insert(NOTE, "b")) == {0: (10,), 1: (20,)}
    assert behind(empty, insert(PARENT, 1, 0), insert(NOTE, "b")) == {1: (10,)}


def test_what_came_before_is_not_behind() -> None:
    keys = ParkedKeys("s", KeyRules(TABLES))
    keys.add(batch_of(insert(PARENT, 1, 0), first=30))
    assert keys.behind(batch_of(update(PARENT, (1, 0), (1, 1)), first=20), [0]) == {}


def test_rows_of_a_table_that_changed_its_columns_are_behind() -> None:
    wider = table("parent", [("id", "int8"), ("n", "int8"), ("more", "text")], ("id",))
    keys = ParkedKeys("s", KeyRules(TABLES))
    keys.add(batch_of(insert(PARENT, 1, 0)))
    assert keys.behind(batch_of(insert(wider, 2, 0, "x"), first=20), [0]) == {0: (10,)}


def test_more_than_a_planner_can_hold_stops_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_TRANSACTIONS_MAX", 1)
    keys = ParkedKeys("s", KeyRules(TABLES))
    keys.add(batch_of(insert(PARENT, 1, 0)))
    with pytest.raises(StreamStoppedError, match="headrace dead-letters"):
        keys.behind(batch_of(insert(PARENT, 1, 0), first=20), [0])
    unbounded = ParkedKeys("s", KeyRules(TABLES), bounded=False)
    unbounded.add(batch_of(insert(PARENT, 1, 0), insert(PARENT, 2, 0)))


def test_settling_writes_what_can_be_written_and_parks_the_rest() -> None:
    written: list[int] = []

    def write(one: ChangeBatch) -> Refusal | None:
        if one.last_position == 11:
            return Refusal("23514", "check")
        written.append(one.last_position)
        return None

    window = batch_of(
        insert(PARENT, 1, 0), insert(PARENT, 2, 0), insert(CHILD, 7, 2), insert(CHILD, 8, 1), insert(NOTE, "a")
    )
    parked = settle_in_order(window, ParkedKeys("s", KeyRules(TABLES)), write)
    assert written == [10, 13, 14]
    assert [(each.batch.last_position, each.sqlstate, each.behind) for each in parked] == [
        (11, "23514", ()),
        (12, BEHIND, (11,)),
    ]
    assert all(len(each.batch.positions) == 1 for each in parked)

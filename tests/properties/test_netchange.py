"""Net change leaves what a replay row by row leaves, and declines only where merging can't be right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.netchange import NO_MASK, NetTable, Unmergeable, complete_row, net_change
from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE, ChangeBatch
from schemas.rows import pack_row
from tests.properties.model import (
    Change,
    Row,
    Table,
    Transaction,
    fields,
    mask_of,
    pack_batch,
    table,
    unpack_key,
    unpack_row,
)
from tests.properties.strategies import partition

# Nine columns, so that a mask has two bytes; the key is not in front.
WIDE = table("wide", [(f"c{n}", "int8") for n in range(7)] + [("id", "int8"), ("c8", "text")], ("id",))
PAIR = table("pair", [("b", "text"), ("n", "int8"), ("a", "int8")], ("b", "a"))
FULL = table("full", [("id", "int8"), ("v", "int8"), ("w", "text")], ("id",), identity="f")
KEYLESS = table("keyless", [("v", "int8")])
WHOLE = table("whole", [("v", "int8"), ("w", "text")], identity="f")
MERGEABLE = (WIDE, PAIR, FULL)

State = dict[str, dict[Row, Row]]  # table -> key -> row


@dataclass
class History:
    """Valid changes on a few rows, with the state before and after them."""

    start: State
    state: State
    changes: list[Change] = field(default_factory=list)
    incomplete_moves: int = 0  # key changes whose row the source did not send whole

    def apply(self, change: Change) -> None:
        rows = self.state[change.table.name]
        if change.old is not None:
            del rows[change.table.key_of(change.old)]
        if change.new is not None:
            rows[change.table.key_of(change.new)] = change.new
        self.changes.append(change)


def value_of(kind: str) -> st.SearchStrategy[int | str]:
    return st.integers(0, 4) if kind == "int8" else st.sampled_from("abc")


@st.composite
def rows_of(draw: st.DrawFn, of: Table) -> Row:
    drawn: list[int | str | None] = []
    for n, column in enumerate(of.relation.columns):
        item = draw(value_of(column.type))
        drawn.append(None if n not in of.key and draw(st.booleans()) else item)
    return tuple(drawn)


@st.composite
def next_changes(draw: st.DrawFn, history: History, *, incomplete_moves: bool) -> Change | None:
    """A change that is possible now; None when the one drawn is not."""
    of = draw(st.sampled_from(MERGEABLE))
    rows = history.state[of.name]
    new = draw(rows_of(of))
    there = sorted(rows.values(), key=repr)
    if not there or draw(st.integers(0, 3)) == 0:
        return None if of.key_of(new) in rows else Change(of, INSERT, new=new)
    old = draw(st.sampled_from(there))
    if draw(st.integers(0, 3)) == 0:
        return Change(of, DELETE, old=old)
    moves = draw(st.booleans())
    if not moves:
        new = tuple(old[n] if n in of.key else item for n, item in enumerate(new))
    elif of.key_of(new) != of.key_of(old) and of.key_of(new) in rows:
        return None
    left_out: frozenset[int] = frozenset()
    if draw(st.booleans()) and (incomplete_moves or of.key_of(new) == of.key_of(old)):
        left_out = frozenset(n for n in range(len(new)) if n not in of.key and draw(st.booleans()))
        new = tuple(old[n] if n in left_out else item for n, item in enumerate(new))
    history.incomplete_moves += bool(left_out) and of.key_of(new) != of.key_of(old)
    return Change(of, UPDATE, old, new, left_out)


@st.composite
def histories(draw: st.DrawFn, *, incomplete_moves: bool = False) -> History:
    start: State = {}
    for of in MERGEABLE:
        found = draw(st.lists(rows_of(of), max_size=4))
        start[of.name] = {of.key_of(row): row for row in found}
    history = History(start, {name: dict(rows) for name, rows in start.items()})
    for _ in range(draw(st.integers(0, 3) | st.integers(20, 40))):
        change = draw(next_changes(history, incomplete_moves=incomplete_moves))
        if change is not None:
            history.apply(change)
    return history


def cut(changes: Sequence[Change], cuts: list[int]) -> list[ChangeBatch]:
    """The changes as batches of one-change transactions."""
    transactions = [Transaction(n, (change,)) for n, change in enumerate(changes, start=1)]
    return [pack_batch(run, run[0].position - 1) for run in partition(transactions, cuts)]


def write(tables: Iterable[NetTable], state: State) -> State:
    """Apply net changes as the set-based way does: deletes, updates, inserts; each must find what it expects."""
    after = {name: dict(rows) for name, rows in state.items()}
    for net in tables:
        relation, rows = net.relation, after[net.relation.table]
        of = next(each for each in MERGEABLE if each.relation == relation)
        for key in net.deletes:
            del rows[unpack_key(key, relation)]
        for mask, images in net.updates.items():
            for image in images:
                new = unpack_row(image, relation)
                old = rows[of.key_of(new)]
                left_out = [bool(mask) and bool(mask[n >> 3] >> (n & 7) & 1) for n in range(len(new))]
                rows[of.key_of(new)] = tuple(old[n] if left_out[n] else item for n, item in enumerate(new))
        inserted = [unpack_row(image, relation) for image in split_rows(net)]
        assert len(inserted) == net.insert_count
        for new in inserted:
            assert of.key_of(new) not in rows
            rows[of.key_of(new)] = new
        assert net.rows == len(net.deletes) + sum(map(len, net.updates.values())) + net.insert_count
    return after


def split_rows(net: NetTable) -> list[bytes]:
    """Single tuples: inserts may be joined."""
    found = []
    for blob in net.inserts:
        at = 0
        while at < len(blob):
            end = at + 2
            for _ in net.relation.columns:
                end += 4 + max(0, int.from_bytes(blob[end : end + 4], "big", signed=True))
            found.append(blob[at:end])
            at = end
    return found


@settings(max_examples=150)
@given(histories(), st.lists(st.integers(0, 25), max_size=3))
def test_net_change_leaves_what_a_replay_leaves(history: History, cuts: list[int]) -> None:
    """Inserts, updates, deletes, key changes and columns left out: everything that can be merged is."""
    assert write(net_change(cut(history.changes, cuts)), history.start) == history.state


@given(histories(incomplete_moves=True), st.lists(st.integers(0, 25), max_size=3))
def test_key_changes_with_incomplete_rows_are_not_merged(history: History, cuts: list[int]) -> None:
    batches = cut(history.changes, cuts)
    if history.incomplete_moves:
        with pytest.raises(Unmergeable, match="key changed"):
            net_change(batches)
    else:
        assert write(net_change(batches), history.start) == history.state


@given(histories())
def test_each_key_is_changed_once(history: History) -> None:
    for net in net_change(cut(history.changes, [])):
        of = next(each for each in MERGEABLE if each.relation == net.relation)
        images = [image for found in net.updates.values() for image in found] + split_rows(net)
        keys = [of.key_of(unpack_row(image, net.relation)) for image in images]
        keys += [unpack_key(key, net.relation) for key in net.deletes]
        assert len(keys) == len(set(keys))


def test_the_last_of_many_updates_of_a_row_is_left() -> None:
    """Updates alone take a shorter way."""
    updates = [Change(PAIR, UPDATE, ("a", n, 1), ("a", n + 1, 1)) for n in range(5)]
    for cuts in ([], [1], [2, 4]):
        (net,) = net_change(cut(updates, cuts))
        assert [unpack_row(image, PAIR.relation) for image in net.updates[NO_MASK]] == [("a", 5, 1)]


def test_a_whole_row_after_an_incomplete_one_is_written_whole() -> None:
    row = (0, 0, 0, 0, 0, 0, 0, 1, "a")
    first = Change(WIDE, UPDATE, row, row, frozenset({0, 8}))
    last = Change(WIDE, UPDATE, row, (1, 1, 1, 1, 1, 1, 1, 1, "b"))
    (net,) = net_change(cut([first, last], []))
    assert {mask: [unpack_row(image, WIDE.relation) for image in found] for mask, found in net.updates.items()} == {
        NO_MASK: [last.new]
    }


def refuse(*changes: Change, match: str) -> None:
    """Whatever the cut, these changes are not merged."""
    for cuts in ([], [1], [2], [1, 2]):
        with pytest.raises(Unmergeable, match=match):
            net_change(cut(changes, cuts))


def test_truncates_are_not_merged() -> None:
    refuse(Change(PAIR, INSERT, new=("a", 1, 1)), Change(PAIR, TRUNCATE), match="TRUNCATE")
    refuse(Change(PAIR, TRUNCATE), match="TRUNCATE")


def test_rows_without_a_key_of_their_own_are_not_merged_unless_all_are_new() -> None:
    refuse(Change(WHOLE, INSERT, new=(1, "a")), Change(WHOLE, DELETE, old=(1, "a")), match="no key")
    refuse(Change(WHOLE, UPDATE, (1, "a"), (1, "b")), match="no key")
    refuse(Change(KEYLESS, INSERT, new=(1,)), Change(KEYLESS, DELETE, old=(1,)), match="no key")
    for of, new in ((WHOLE, (1, "a")), (KEYLESS, (1,))):
        (net,) = net_change(cut([Change(of, INSERT, new=new)] * 2, [1]))
        assert net.insert_count == 2


def test_a_table_that_changed_its_columns_is_not_merged() -> None:
    wider = table("pair", [("b", "text"), ("n", "int8"), ("a", "int8"), ("c", "int8")], ("b", "a"))
    refuse(Change(PAIR, INSERT, new=("a", 1, 1)), Change(wider, INSERT, new=("a", 1, 2, 3)), match="columns")


def test_changes_of_rows_that_are_not_there_are_not_merged() -> None:
    one = ("a", 1, 1)
    refuse(Change(PAIR, DELETE, old=one), Change(PAIR, DELETE, old=one), match="deleted again")
    refuse(Change(PAIR, DELETE, old=one), Change(PAIR, UPDATE, one, one), match="is updated")
    refuse(Change(PAIR, UPDATE, one, one), Change(PAIR, INSERT, new=one), match="in use")
    refuse(Change(PAIR, UPDATE, one, one), Change(PAIR, UPDATE, ("b", 1, 1), one), match="in use")


def test_a_swap_of_keys_becomes_updates() -> None:
    first, second, spare = ("a", 1, 1), ("b", 2, 2), ("c", 1, 3)
    (net,) = net_change(
        cut([Change(PAIR, UPDATE, first, spare), Change(PAIR, UPDATE, second, ("a", 2, 1)),
             Change(PAIR, UPDATE, spare, ("b", 1, 2))], [])
    )  # fmt: skip
    assert not net.deletes
    assert not net.inserts
    assert {unpack_row(image, PAIR.relation) for image in net.updates[NO_MASK]} == {("a", 2, 1), ("b", 1, 2)}


def test_a_row_that_came_and_went_leaves_nothing() -> None:
    one, other = ("a", 1, 1), ("b", 1, 1)
    (net,) = net_change(
        cut([Change(PAIR, INSERT, new=one), Change(PAIR, UPDATE, one, other), Change(PAIR, DELETE, old=other)], [])
    )
    assert net.rows == 0


@given(st.data())
def test_left_out_columns_are_taken_from_the_row_before(data: st.DataObject) -> None:
    before, new = data.draw(rows_of(WIDE)), data.draw(rows_of(WIDE))
    left_out = [n for n in range(9) if data.draw(st.booleans())]
    sent = tuple(None if n in left_out else item for n, item in enumerate(new))
    pack = [pack_row(fields(row, WIDE.relation)) for row in (sent, before)]
    whole = complete_row(pack[0], mask_of(left_out, 9), pack[1], 9)
    assert unpack_row(whole, WIDE.relation) == tuple(before[n] if n in left_out else v for n, v in enumerate(new))

"""Independent sets are the connected components of the conflicts; plans keep conflicts in source order."""

from __future__ import annotations

from itertools import combinations

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conflicts import KeyRules
from pipeline.planner import Planner
from pipeline.window import Restart
from schemas.apply_unit import ApplyUnit
from schemas.change_batch import DELETE, INSERT, UPDATE
from schemas.change_batch_codec import decode_batch, encode_batch
from tests.properties.model import Change, Row, Table, Transaction, catalogue, pack_batch, packed_sets
from tests.properties.oracle import conflict, independent_sets
from tests.properties.strategies import ACCOUNT, CHILD, PAIR, TABLES, partition, windows

RULES = KeyRules(catalogue(TABLES))


def found_sets(window: list[Transaction]) -> set[frozenset[int]]:
    return packed_sets(RULES, window)


@given(windows(transactions_max=20))
def test_sets_are_the_connected_components(window: list[Transaction]) -> None:
    assert found_sets(window) == independent_sets(window)


@given(windows())
def test_sets_share_no_key_that_one_of_them_writes(window: list[Transaction]) -> None:
    for one, other in combinations(found_sets(window), 2):
        assert not any(conflict(window[n], window[m]) for n in one for m in other)


def change(table: Table, op: int, old: Row | None = None, new: Row | None = None) -> Transaction:
    return Transaction(0, (Change(table, op, old, new),))


def window_of(*transactions: Transaction) -> list[Transaction]:
    return [Transaction(n, each.changes) for n, each in enumerate(transactions, start=1)]


def test_children_of_one_parent_do_not_conflict_but_a_child_and_a_write_of_its_parent_do() -> None:
    first = change(CHILD, INSERT, new=(1, 7, "b", 3))
    second = change(CHILD, INSERT, new=(2, 7, "b", 3))
    assert found_sets(window_of(first, second)) == {frozenset({0}), frozenset({1})}
    together = {frozenset({0, 1, 2})}
    assert found_sets(window_of(first, second, change(ACCOUNT, UPDATE, (7, "a"), (7, "b")))) == together
    assert found_sets(window_of(change(ACCOUNT, INSERT, new=(7, "a")), first, second)) == together
    assert found_sets(window_of(first, second, change(ACCOUNT, DELETE, old=(7, "a")))) == together
    assert found_sets(window_of(first, second, change(PAIR, DELETE, old=(3, "b")))) == together
    assert len(found_sets(window_of(first, second, change(ACCOUNT, DELETE, old=(8, "a"))))) == 3


@given(st.data())
def test_units_in_flight_keep_conflicting_transactions_in_source_order(data: st.DataObject) -> None:
    """Each pair is in one unit, or joined by a chain of lane order and waits, or the first one was applied."""
    history = data.draw(windows(transactions_max=24))
    cut = partition(history, data.draw(st.lists(st.integers(1, 23), max_size=6)))
    planner = Planner("s", Restart(1, 1, 0, {}), KeyRules(catalogue(TABLES)), lanes=data.draw(st.integers(2, 5)))
    graph: nx.DiGraph[tuple[int, int]] = nx.DiGraph()
    unit_of: dict[int, tuple[int, int]] = {}
    applied_before: dict[int, dict[int, int]] = {}  # position -> lane -> seq applied when it was planned
    applied: dict[int, int] = {}
    previous = 0
    for window in cut:
        record = encode_batch(pack_batch(window, previous))
        previous = window[-1].position
        for unit in planner.offer(decode_batch(record), record, 1, None, 0):
            note(graph, unit)
            for position in decode_batch(unit.batch).positions:
                assert position not in unit_of
                unit_of[position] = unit.lane, unit.seq
                applied_before[position] = dict(applied)
        for lane in range(5):
            sent = max((seq for of, seq in unit_of.values() if of == lane), default=0)
            seq = data.draw(st.integers(0, sent))
            if seq > applied.get(lane, 0) and not missing(graph, lane, seq, applied):
                applied[lane] = seq
                planner.progress(lane, 1, seq)
    written = [transaction for transaction in history if transaction.changes]
    for one, other in combinations(written, 2):
        if conflict(one, other):
            before, after = unit_of[one.position], unit_of[other.position]
            done = before[1] <= applied_before[other.position].get(before[0], 0)
            assert before == after or done or nx.has_path(graph, before, after)


def note(graph: nx.DiGraph[tuple[int, int]], unit: ApplyUnit) -> None:
    """Enter a unit behind the one before it in its lane and behind those it waits for."""
    graph.add_edge((unit.lane, unit.seq - 1), (unit.lane, unit.seq))
    for lane, seq in unit.waits.items():
        assert (lane, seq) in graph, "a unit waits for one that was not sent before it"
        graph.add_edge((lane, seq), (unit.lane, unit.seq))


def missing(graph: nx.DiGraph[tuple[int, int]], lane: int, seq: int, applied: dict[int, int]) -> bool:
    """Whether a unit of another lane has to be applied before (lane, seq)."""
    return any(of != lane and number > applied.get(of, 0) for of, number in nx.ancestors(graph, (lane, seq)))

"""Table priorities: classes of tables and sets, lanes of their own, what overtakes what, and that none starves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conflicts import KeyRules
from pipeline.planner import Planner
from pipeline.priorities import AGEING_S, CLASSES, NORMAL, Priorities, lanes_needed, may_begin
from pipeline.window import Restart
from schemas.apply_unit import ApplyUnit
from schemas.change_batch import UPDATE
from schemas.change_batch_codec import decode_batch, encode_batch
from tests.properties.model import Change, Table, Transaction, catalogue, pack_batch, table

BULK = table("bulk", [("id", "int8"), ("n", "int8")], ("id",))
URGENT = table("urgent", [("id", "int8"), ("n", "int8")], ("id",))
AUDIT = table("audit", [("id", "int8"), ("n", "int8")], ("id",))
PATTERNS: dict[str, tuple[str, ...]] = {"critical": ("public.urgent",), "low": ("public.audit*",)}
EXPRESS, LOW = 3, 2


def planner(patterns: dict[str, tuple[str, ...]] | None = None, lanes: int = 4) -> Planner:
    rules = KeyRules(catalogue([BULK, URGENT, AUDIT]))
    chosen = Priorities(PATTERNS if patterns is None else patterns, lanes)
    return Planner("s", Restart(1, 1, 0, {}), rules, lanes=lanes, priorities=chosen)


def offer(to: Planner, previous: int, *transactions: list[tuple[Table, int]]) -> list[ApplyUnit]:
    """Plan a window; each transaction is a list of (table, key) that it writes."""
    window = [
        Transaction(previous + n, tuple(Change(t, UPDATE, (key, 0), (key, 0)) for t, key in changes))
        for n, changes in enumerate(transactions, start=1)
    ]
    record = encode_batch(pack_batch(window, previous))
    return to.offer(decode_batch(record), record, previous + 1, None, 7)


def lanes(units: list[ApplyUnit]) -> dict[int, int]:
    """Position -> lane."""
    return {position: unit.lane for unit in units for position in decode_batch(unit.batch).positions}


def test_tables_have_the_most_urgent_class_that_names_them() -> None:
    chosen = Priorities({"low": ("public.*",), "normal": ("public.bulk",), "critical": ("*.urgent",)}, 4)
    ranks = [chosen.rank(("public", name)) for name in ("urgent", "bulk", "audit")]
    assert [CLASSES[rank] for rank in ranks] == ["critical", "normal", "low"]
    assert chosen.rank(("other", "table")) == NORMAL


def test_each_class_with_tables_has_a_lane_and_normal_the_rest() -> None:
    assert Priorities(PATTERNS, 5).rank_of_lane == [2, 2, 2, 3, 0]
    assert Priorities({}, 4).rank_of_lane == [2, 2, 2, 2]
    assert not Priorities({"normal": ("a.b",)}, 4)
    assert lanes_needed(PATTERNS) == 3
    with pytest.raises(ValueError, match="2 lanes for 2 classes"):
        Priorities(PATTERNS, 2)


def test_independent_transactions_go_to_the_lane_of_their_class() -> None:
    units = offer(planner(), 0, [(BULK, 1)], [(URGENT, 1)], [(AUDIT, 1)], [(BULK, 2)])
    assert lanes(units) == {1: 0, 2: EXPRESS, 3: LOW, 4: 0}
    assert all(unit.waits == {} for unit in units)


def test_a_transaction_is_as_urgent_as_its_most_urgent_table() -> None:
    assert lanes(offer(planner(), 0, [(AUDIT, 1), (URGENT, 1)])) == {1: EXPRESS}


def test_a_set_is_as_urgent_as_its_least_urgent_transaction() -> None:
    units = offer(planner(), 0, [(BULK, 1)], [(BULK, 1), (URGENT, 1)], [(URGENT, 1)], [(URGENT, 2)])
    assert lanes(units) == {1: 0, 2: 0, 3: 0, 4: EXPRESS}


def test_an_urgent_set_behind_a_slow_one_follows_it_and_does_not_block_the_express_lane() -> None:
    one = planner()
    offer(one, 0, [(BULK, 1), (URGENT, 1)], [(BULK, 1)])
    (unit,) = offer(one, 2, [(URGENT, 1)])
    assert (unit.lane, unit.waits) == (0, {})


def test_a_slow_set_behind_an_urgent_one_waits_for_it_in_its_own_lane() -> None:
    one = planner()
    (urgent,) = offer(one, 0, [(URGENT, 1)])
    assert urgent.lane == EXPRESS
    (unit,) = offer(one, 1, [(BULK, 9)], [(BULK, 9), (URGENT, 1)])
    assert (unit.lane, unit.waits) == (0, {EXPRESS: urgent.seq})
    (low,) = offer(one, 3, [(AUDIT, 1)], [(AUDIT, 1), (BULK, 9)])
    assert (low.lane, low.waits) == (LOW, {0: unit.seq})


def test_bulk_in_flight_does_not_hold_up_independent_urgent_sets() -> None:
    """Under a backlog the express lane has nothing queued before them; without priorities everything is."""
    ahead = {}
    for name in ("express", "plain"):
        one = planner(PATTERNS if name == "express" else {})
        for n in range(40):
            offer(one, 500 * n, *([(BULK, 500 * n + key)] for key in range(500)))
        before = one.queued_transactions()
        ((lane,),) = ({unit.lane for unit in offer(one, 20_000, [(URGENT, 1)])},)
        ahead[name] = before[lane]
    assert ahead["express"] == 0
    assert ahead["plain"] >= 4000


@given(st.randoms(use_true_random=False))
def test_conflicts_are_kept_in_source_order(rng: random.Random) -> None:
    """Once a unit is applied, so is every earlier transaction that shares a row with one of its own."""
    one, position = planner(), 0
    clocks: dict[tuple[int, int], dict[int, int]] = {}  # (lane, seq) -> what is applied once it is
    done: list[tuple[set[tuple[str, int]], int, int]] = []  # keys, lane, seq
    for _ in range(rng.randint(1, 12)):
        window = [
            [(rng.choice([BULK, URGENT, AUDIT]), rng.randint(1, 6)) for _ in range(rng.randint(1, 3))]
            for _ in range(rng.randint(1, 8))
        ]
        window = [list({(t.name, key): (t, key) for t, key in changes}.values()) for changes in window]
        units = offer(one, position, *window)
        placed = {p: unit for unit in units for p in decode_batch(unit.batch).positions}
        for unit in units:
            clock = dict(clocks.get((unit.lane, unit.seq - 1), {}))
            for lane, seq in unit.waits.items():
                for other, known in {**clocks[lane, seq], lane: seq}.items():
                    clock[other] = max(clock.get(other, 0), known)
            clocks[unit.lane, unit.seq] = {**clock, unit.lane: unit.seq}
        for n, changes in enumerate(window, start=1):
            unit, keys = placed[position + n], {(str(t.name), key) for t, key in changes}
            for other_keys, lane, seq in done:
                if keys & other_keys:
                    assert clocks[unit.lane, unit.seq].get(lane, 0) >= seq
            done.append((keys, unit.lane, unit.seq))
        position += len(window)


def test_the_more_urgent_begins_first_and_ageing_lets_everyone_begin() -> None:
    critical, low = 0, 3
    assert may_begin(critical, 0, [low, low])
    assert not may_begin(low, 0, [critical])
    assert may_begin(low, 0, [])
    assert may_begin(low, 0, [low])
    assert not may_begin(low, 2.9 * AGEING_S, [critical])
    assert may_begin(low, 3 * AGEING_S, [critical])

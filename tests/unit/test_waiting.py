"""Why a transaction waits: its place in its lane, the lanes it waits for, the keys they share."""

from __future__ import annotations

from pipeline.conflicts import KeyRules
from pipeline.merging import QueuedUnit
from pipeline.planner import Planner
from pipeline.waiting import Blocker, why_waiting
from pipeline.window import Restart
from pipeline.window_graph import window_graph
from schemas.change_batch import TRUNCATE, UPDATE
from schemas.change_batch_codec import decode_batch, encode_batch
from tests.properties.model import Change, Transaction, catalogue, pack_batch, table

ACCOUNT = table("account", [("id", "int8"), ("name", "text")], ("id",))


def write(key: int) -> Change:
    return Change(ACCOUNT, UPDATE, (key, "x"), (key, "y"))


def rules() -> KeyRules:
    return KeyRules(catalogue([ACCOUNT]))


def queue(*windows: list[list[int]]) -> dict[int, list[QueuedUnit]]:
    """Units by lane of windows whose transactions write the given keys; two lanes."""
    planner, position = Planner("s", Restart(1, 1, 0, {}), rules(), lanes=2), 0
    found: dict[int, list[QueuedUnit]] = {}
    for number, window in enumerate(windows):
        transactions = [
            Transaction(position + n, tuple(write(key) for key in keys)) for n, keys in enumerate(window, start=1)
        ]
        record = encode_batch(pack_batch(transactions, position))
        for unit in planner.offer(decode_batch(record), record, number + 1, None, 7):
            found.setdefault(unit.lane, []).append(QueuedUnit(unit, decode_batch(unit.batch), number, 1))
        position += len(window)
    return found


def test_the_key_the_transaction_and_the_lane_are_named() -> None:
    units = queue([[n] for n in range(100)], [[3, 64]])  # 0..49 and 50..99, by load, then one that needs both
    position = 101
    waiting = why_waiting(position, units, {0: 0, 1: 0}, rules())
    assert waiting is not None
    (wait,) = waiting.waits
    assert {waiting.lane, wait.lane} == {0, 1}
    assert (waiting.seq, waiting.reached, waiting.units_before) == (2, 0, 1)
    assert waiting.transactions_before == len(units[waiting.lane][0].batch.positions)
    key = 3 if 4 in units[wait.lane][0].batch.positions else 64
    assert wait.blockers == (Blocker(key + 1, f"public.account (id) = {key}"),)
    assert (wait.wanted, wait.reached) == (1, 0)


def test_waits_that_are_met_are_not_told() -> None:
    units = queue([[n] for n in range(100)], [[3, 64]])
    waiting = why_waiting(101, units, {0: 1, 1: 1}, rules())
    assert waiting is not None
    assert waiting.waits == waiting.head_waits == ()


def test_what_holds_up_the_head_of_the_lane_is_told_to_those_behind_it() -> None:
    units = queue([[n] for n in range(100)], [[3, 64]], [[3]])
    applied = next(lane for lane, queued in units.items() if len(queued) > 1)
    queued = {lane: found[1:] if lane == applied else found for lane, found in units.items()}
    waiting = why_waiting(102, queued, {applied: 1}, rules())
    assert waiting is not None
    assert (waiting.lane, waiting.waits, len(waiting.head_waits)) == (applied, (), 1)


def test_a_transaction_that_is_in_no_lane_is_not_found() -> None:
    assert why_waiting(7, queue([[1]]), {}, rules()) is None


def test_a_truncate_comes_after_everything_and_before_everything() -> None:
    window = [
        Transaction(1, (write(1),)), Transaction(2, (write(1),)), Transaction(3, (Change(ACCOUNT, TRUNCATE),)),
        Transaction(4, (write(9),)), Transaction(5, (write(9),)), Transaction(6, (write(1),)),
    ]  # fmt: skip
    graph = window_graph(pack_batch(window, 0), rules())
    assert {(1, 2), (2, 3), (2, 5), (0, 1), (3, 4)} <= set(graph.edges)
    assert not graph.has_edge(0, 2)
    assert graph.edges[1, 2]["key"] == "TRUNCATE public.account"

"""Keys in flight: who must be waited for, and that nothing stays when all is applied."""

from __future__ import annotations

import random

import pytest

from pipeline.independent import WindowKeys
from pipeline.inflight import InFlight, merge_waits

SPACE = (("public", "t"), ("id",))
Keys = list[tuple[int, bytes]]


def window(transactions: int, writes: Keys, reads: Keys | None = None) -> WindowKeys:
    keys = WindowKeys(transactions)
    keys.write(SPACE, writes)
    keys.read(SPACE, reads or [])
    return keys


def entries(inflight: InFlight) -> int:
    """How many keys are remembered."""
    written = sum(map(len, inflight._writers.values()))
    return written + sum(map(len, inflight._readers.values()))


def test_a_write_waits_for_the_last_write_of_its_key() -> None:
    inflight = InFlight()
    inflight.record(window(2, [(0, b"a"), (1, b"b")]), {0: (0, 1), 1: (1, 1)})
    inflight.record(window(1, [(0, b"a")]), {0: (2, 1)})
    assert inflight.dependencies(window(3, [(0, b"a"), (1, b"b"), (2, b"c")])) == {0: {2: 1}, 1: {1: 1}}


def test_a_write_waits_for_all_readers_of_its_key_and_a_reader_for_its_writer_alone() -> None:
    inflight = InFlight()
    inflight.record(window(1, [(0, b"p")]), {0: (0, 1)})
    inflight.record(window(2, [], [(0, b"p"), (1, b"p")]), {0: (1, 1), 1: (2, 1)})
    assert inflight.dependencies(window(1, [], [(0, b"p")])) == {0: {0: 1}}
    assert inflight.dependencies(window(1, [(0, b"p")])) == {0: {0: 1, 1: 1, 2: 1}}


def test_dependences_belong_to_the_set_not_to_the_transaction() -> None:
    inflight = InFlight()
    inflight.record(window(1, [(0, b"a")]), {0: (0, 1)})
    joined = window(3, [(1, b"x"), (2, b"x"), (2, b"a")])
    assert inflight.dependencies(joined) == {1: {0: 1}}


def test_what_is_applied_is_not_waited_for() -> None:
    inflight = InFlight()
    inflight.record(window(1, [(0, b"a")], [(0, b"p")]), {0: (0, 1)})
    inflight.record_blind(3, 2)
    inflight.applied[0] = 1
    assert inflight.dependencies(window(1, [(0, b"a"), (0, b"p")])) == {}
    assert inflight.blind() == {3: 2}
    inflight.applied[3] = 2
    assert inflight.blind() == {}


def test_forgetting_a_window_leaves_what_later_ones_wrote() -> None:
    inflight = InFlight()
    inflight.record(window(1, [(0, b"a")], [(0, b"p")]), {0: (0, 1)})
    inflight.record(window(1, [(0, b"a")], [(0, b"p")]), {0: (0, 2)})
    inflight.applied[0] = 1
    inflight.forget_window()
    assert inflight.dependencies(window(1, [(0, b"a")])) == {0: {0: 2}}
    assert inflight.dependencies(window(1, [(0, b"p")])) == {0: {0: 2}}


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_remembered_when_everything_is_applied(seed: int) -> None:
    rng = random.Random(seed)
    inflight = InFlight()
    seqs = [0] * 4
    windows = 0
    for _ in range(300):
        kind = rng.random()
        if kind < 0.5:
            picks = [(tx, rng.choice([b"a", b"b", b"c", b"d"])) for tx in range(3)]
            keys = window(3, picks[:2], picks[2:])
            units = {}
            for component in keys.components():
                lane = rng.randrange(4)
                units[component] = lane, seqs[lane] + 1
            for lane, seq in units.values():
                seqs[lane] = seq
            inflight.record(keys, units)
        elif kind < 0.6:
            lane = rng.randrange(4)
            seqs[lane] += 1
            inflight.record_blind(lane, seqs[lane])
        else:
            inflight.record_nothing()
        windows += 1
        if rng.random() < 0.05:
            inflight.applied[:4] = seqs
            for _ in range(windows):
                inflight.forget_window()
            windows = 0
            assert entries(inflight) == 0
            assert not inflight._traces
    assert len(inflight._blind) <= 4


def test_merging_waits_keeps_the_highest() -> None:
    waits = {0: 5, 1: 1}
    merge_waits(waits, {0: 3, 1: 4, 2: 2})
    assert waits == {0: 5, 1: 4, 2: 2}

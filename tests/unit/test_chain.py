"""Rule 1: what continues the chain, what repeats it, what breaks it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.builder import BatchBuilder
from pipeline.chain import Chain, Link, Verdict
from pipeline.errors import StreamGapError
from schemas.change_batch import ChangeBatch

ACCEPT, REPEAT, RESTART = Verdict.ACCEPT, Verdict.REPEAT, Verdict.RESTART


def batch(previous: int, *positions: int, generation: int = 1) -> ChangeBatch:
    builder = BatchBuilder("s", generation, previous)
    for position in positions:
        builder.begin(position, 0, 0)
    return builder.close("live", 0, 0)


def parts(previous: int, position: int, count: int, *, run: int) -> list[ChangeBatch]:
    """A transaction cut into parts by a capture that began it at time `run`."""
    builder = BatchBuilder("s", 1, previous)
    found = []
    for n in range(count):
        builder.begin(position, 0, 0)
        found.append(builder.close("live", 0, run + n, last_part=n == count - 1))
    return found


def verdicts(chain: Chain, batches: Sequence[ChangeBatch]) -> list[Verdict]:
    return [chain.offer(each).verdict for each in batches]


def test_batches_that_follow_are_accepted() -> None:
    chain = Chain("s", 1, 10)
    assert chain.offer(batch(10, 11, 15)) == Link(ACCEPT, 0)
    assert chain.offer(batch(15, 20)) == Link(ACCEPT, 0)
    assert chain.position == 20


def test_repeats_are_told_from_overlaps_whatever_their_cut() -> None:
    chain = Chain("s", 1, 20)
    assert chain.offer(batch(5, 10, 20)) == Link(REPEAT)
    assert chain.offer(batch(10, 20)) == Link(REPEAT)
    assert chain.offer(batch(5, 10, 15)) == Link(REPEAT)
    assert chain.position == 20
    assert chain.offer(batch(5, 10, 20, 30, 40)) == Link(ACCEPT, 2)
    assert chain.position == 40


def test_a_gap_names_both_positions_and_leaves_the_chain_as_it_was() -> None:
    chain = Chain("orders", 1, 20)
    with pytest.raises(StreamGapError, match=r"orders.*20.*25"):
        chain.offer(batch(25, 30))
    assert chain.position == 20
    assert chain.offer(batch(20, 30)).verdict is ACCEPT


def test_heartbeats_repeat_the_end_or_reveal_a_gap() -> None:
    chain = Chain("s", 1, 20)
    assert chain.offer(batch(20)) == Link(REPEAT)
    assert chain.offer(batch(15)) == Link(REPEAT)
    with pytest.raises(StreamGapError):
        chain.offer(batch(21))


def test_a_new_generation_starts_over_and_the_old_one_is_dropped() -> None:
    chain = Chain("s", 1, 20)
    assert chain.offer(batch(0, 1, generation=2)) == Link(RESTART)
    assert (chain.generation, chain.position) == (2, 1)
    assert chain.offer(batch(20, 30, generation=1)) == Link(REPEAT)
    assert chain.offer(batch(90, 95, generation=1)) == Link(REPEAT)
    assert chain.offer(batch(1, 2, generation=2)) == Link(ACCEPT)


def test_a_new_generation_must_begin_at_its_beginning() -> None:
    chain = Chain("s", 1, 20)
    with pytest.raises(StreamGapError):
        chain.offer(batch(1, 2, generation=2))
    later = parts(0, 9, 3, run=1)[1]
    later.generation = 2
    with pytest.raises(StreamGapError):
        chain.offer(later)
    assert chain.offer(batch(0, generation=2)) == Link(RESTART)  # a stream without a snapshot begins with a heartbeat
    assert (chain.generation, chain.position) == (2, 0)


def test_a_new_generation_forgets_an_open_transaction() -> None:
    chain = Chain("s", 1, 10)
    assert verdicts(chain, parts(10, 20, 3, run=1)[:2]) == [ACCEPT, ACCEPT]
    assert chain.offer(batch(0, 1, generation=2)).verdict is RESTART
    assert chain.open_part == -1


def test_parts_are_taken_in_order_and_move_the_chain_at_their_end() -> None:
    chain = Chain("s", 1, 10)
    first, second, last = parts(10, 20, 3, run=1)
    assert chain.offer(first).verdict is ACCEPT
    assert (chain.position, chain.open_position, chain.open_part) == (10, 20, 1)
    assert verdicts(chain, [second, second]) == [ACCEPT, REPEAT]
    assert chain.offer(last).verdict is ACCEPT
    assert (chain.position, chain.open_part) == (20, -1)
    assert verdicts(chain, [first, second, last]) == [REPEAT] * 3


def test_a_missing_part_is_a_gap() -> None:
    chain = Chain("s", 1, 10)
    first, _, last = parts(10, 20, 3, run=1)
    with pytest.raises(StreamGapError):
        chain.offer(last)
    chain.offer(first)
    with pytest.raises(StreamGapError, match="part 2"):
        chain.offer(last)


def test_what_follows_an_unfinished_transaction_is_a_gap() -> None:
    chain = Chain("s", 1, 10)
    chain.offer(parts(10, 20, 3, run=1)[0])
    for following in (batch(20, 30), batch(20), parts(20, 30, 2, run=5)[0], parts(20, 30, 2, run=5)[1]):
        with pytest.raises(StreamGapError):
            chain.offer(following)


def test_a_restarted_capture_begins_a_large_transaction_anew() -> None:
    """Its parts may be cut elsewhere: late parts of the old capture must not be mixed in."""
    chain = Chain("s", 1, 10)
    old, new = parts(10, 20, 4, run=1), parts(10, 20, 3, run=100)
    log = [old[0], old[1], new[0], old[2], new[1], old[3], new[2], old[3]]
    assert verdicts(chain, log) == [ACCEPT, ACCEPT, ACCEPT, REPEAT, ACCEPT, REPEAT, ACCEPT, REPEAT]
    assert chain.position == 20


def test_a_restarted_capture_may_send_the_transaction_whole() -> None:
    chain = Chain("s", 1, 10)
    old = parts(10, 20, 3, run=1)
    assert verdicts(chain, [old[0], batch(10, 20, 30), old[1]]) == [ACCEPT, ACCEPT, REPEAT]
    assert (chain.position, chain.open_part) == (30, -1)

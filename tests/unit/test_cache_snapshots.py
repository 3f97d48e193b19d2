"""The row cache beside snapshots, copies of a table, and dead letters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.builder import BatchBuilder
from pipeline.cache.store import BlockStore
from pipeline.cache.stream_cache import StreamCache
from pipeline.cache.view import TargetWentBackError
from schemas.change_batch import DELETE, TRUNCATE, UPDATE
from tests.properties.model import Change, pack_change
from tests.unit.cached import ACCOUNT, BUCKETS, NAME, Here, batch, cache, insert, key, row, snapshot, view


def test_a_snapshot_s_rows_have_the_target_s_key() -> None:
    one, log = cache(), BatchBuilder("s", 2, 0)
    one.learn(ACCOUNT.relation)
    one.offer(snapshot(log, 1))
    one.offer(snapshot(log, 2, (1, "x", 1), (2, "y", 1)))
    assert one.see(view(2, generation=2))
    assert not one.refused_tables
    assert (row(one, 1), row(one, 2), row(one, 3)) == ((1, "x", 1), (2, "y", 1), None)
    one.offer(batch(log, (10, [Change(ACCOUNT, UPDATE, (1, "x", 1), (1, "x", 2), frozenset({1}))])))
    assert one.see(view(10, generation=2))
    assert (row(one, 1), row(one, 2)) == ((1, "x", 2), (2, "y", 1)), "the log's columns are the snapshot's"


def test_a_snapshot_of_a_table_without_a_known_key_waits_for_its_first_change() -> None:
    one, log = cache(), BatchBuilder("s", 2, 0)
    one.offer(snapshot(log, 1, (1, "x", 1)))
    assert one.see(view(1, generation=2))
    assert "key" in one.refused_tables[NAME]
    assert one.read(ACCOUNT.relation, key(1)) is None
    one.offer(batch(log, (10, [insert((2, "y", 1))])))
    assert one.see(view(10, generation=2))
    assert (row(one, 2), one.refused_tables) == ((2, "y", 1), {})


def test_a_row_of_a_snapshot_that_is_not_visible_yet_is_not_kept() -> None:
    one, log = cache(), BatchBuilder("s", 2, 0)
    one.learn(ACCOUNT.relation)
    one.offer(snapshot(log, 1))
    one.see(view(1, generation=2))
    relation = one.relations[NAME]
    one.offer(snapshot(log, 2, (1, "x", 1)))
    assert not one.fill(relation, key(1), b"row", view(1, 2, generation=2))


def test_rows_that_the_target_may_have_passed_over_are_not_known() -> None:
    one = StreamCache("s", lambda _: True, BUCKETS, "a", Here(), BlockStore(1 << 20), 1, 0, doubtful=True)
    log = BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [Change(ACCOUNT, TRUNCATE), insert((1, "x", 1)), insert((2, "y", 1))])))
    one.offer(
        batch(log, (20, [Change(ACCOUNT, DELETE, (1, "x", 1)), Change(ACCOUNT, UPDATE, (2, "y", 1), (2, "z", 2))]))
    )
    one.see(view(20))
    assert row(one, 1) is None
    assert one.read(ACCOUNT.relation, key(2)) is None
    assert one.fill(ACCOUNT.relation, key(2), b"row", view(20))
    assert one.read(ACCOUNT.relation, key(2)) is not None


def test_what_dead_letters_touch_is_unknown_until_they_are_settled() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [Change(ACCOUNT, TRUNCATE), insert((1, "x", 1)), insert((2, "y", 1))])))
    update = Change(ACCOUNT, UPDATE, (1, "x", 1), (1, "x", 2))
    one.offer(batch(log, (20, [update]), (30, [insert((3, "z", 1))])))
    one.see(replace(view(0, 10, 20, 30), parked=frozenset({20})))
    assert one.read(ACCOUNT.relation, key(1)) is None
    assert (row(one, 2), row(one, 3)) == ((2, "y", 1), (3, "z", 1))
    assert not one.fill(ACCOUNT.relation, key(1), b"row", replace(view(30), parked=frozenset({20})))
    with pytest.raises(TargetWentBackError, match="settled"):
        one.see(view(30))


def test_a_discarded_letter_ends_what_began_before_it() -> None:
    """It may have come and gone between two looks at the ledger; the log still has it."""
    discarded = replace(view(30), discarded=20)
    with pytest.raises(TargetWentBackError, match="settled"):
        cache(position=10).see(discarded)
    one = cache(position=20)
    one.see(discarded)
    assert one.current


def test_a_parked_truncate_leaves_no_block_and_no_bytes() -> None:
    store, log = BlockStore(1 << 20), BatchBuilder("s", 1, 0)
    one = StreamCache("s", lambda _: True, BUCKETS, "a", Here(), store, 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))]), (20, [Change(ACCOUNT, TRUNCATE)]), (30, [insert((2, "y", 1))])))
    one.see(replace(view(30), parked=frozenset({20})))
    assert one.read(ACCOUNT.relation, key(1)) is None
    assert store.size_bytes == sum(block.size_bytes for _, block in store.items())


def test_a_table_that_is_copied_anew_is_forgotten() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))])))
    assert one.see(view(10))
    log.begin(19, 0, 0)
    pack_change(log, 0, Change(ACCOUNT, TRUNCATE))
    one.offer(log.close("snapshot", 0, 0, last_part=False))
    log.begin(19, 0, 0)
    one.offer(log.close("snapshot", 0, 0))
    assert one.see(view(19))
    assert (one.read(ACCOUNT.relation, key(1)), one.read(ACCOUNT.relation, key(2))) == (None, None)
    one.offer(batch(log, (20, [insert((1, "y", 2))])))
    assert one.see(view(20))
    assert row(one, 1) == (1, "y", 2)

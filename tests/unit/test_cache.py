"""The row cache case by case; tests/properties/test_cache.py has the histories."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.builder import BatchBuilder
from pipeline.cache.blocks import Block, cacheable
from pipeline.cache.records import block_of, record_of
from pipeline.cache.store import BlockStore
from pipeline.cache.stream_cache import StreamCache
from pipeline.cache.view import TargetView, TargetWentBackError
from pipeline.directory.block import BlockId, Owner, bucket_of
from schemas.block_image import IMAGE_BYTES_MAX, decode_rows, encode_rows
from schemas.change_batch import DELETE, TRUNCATE, UPDATE, Relation
from schemas.errors import SchemaError
from schemas.fusion_block import FusionBlock, decode_fusion_block, encode_fusion_block
from schemas.single_object import codec
from tests.properties.model import Change, Table, unpack_row
from tests.unit.cached import ACCOUNT, BUCKETS, NAME, Here, batch, cache, insert, key, row, view


def test_a_change_is_visible_once_the_target_has_it() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))]), (20, [insert((2, "y", 1))])))
    assert not one.see(view(0, 10))
    assert one.read(ACCOUNT.relation, key(1)) is None
    assert one.see(view(0, 10, 20))
    assert (one.visible, row(one, 1), row(one, 2)) == (20, (1, "x", 1), (2, "y", 1))
    assert one.read(ACCOUNT.relation, key(3)) is None


def test_a_truncated_table_is_known_whole() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [Change(ACCOUNT, TRUNCATE), insert((1, "x", 1))])))
    one.see(view(10))
    assert (row(one, 1), row(one, 3)) == ((1, "x", 1), None)


def test_left_out_columns_come_from_the_image_before() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "long", 1))])))
    old, new = (1, "long", 1), (1, "long", 2)
    one.offer(batch(log, (20, [Change(ACCOUNT, UPDATE, old, new, frozenset({1}))])))
    moved = Change(ACCOUNT, UPDATE, new, (2, "long", 3), frozenset({1}))
    one.offer(batch(log, (30, [moved]), (40, [Change(ACCOUNT, UPDATE, (9, "?", 1), (9, "?", 2), frozenset({1}))])))
    one.see(view(20))
    assert row(one, 1) == (1, "long", 2)
    one.see(view(40))
    assert (row(one, 1), row(one, 2)) == (None, (2, "long", 3))
    assert one.read(ACCOUNT.relation, key(9)) is None


def test_parts_of_a_large_transaction_are_folded_together() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))]), last_part=False))
    assert not one.see(view(10))
    one.offer(batch(log, (10, [insert((2, "y", 1))])))
    assert one.see(view(10))
    assert (one.visible, row(one, 1), row(one, 2)) == (10, (1, "x", 1), (2, "y", 1))


def test_parts_that_another_capture_begins_anew_count_once() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))]), last_part=False))
    again = BatchBuilder("s", 1, 0)
    one.offer(batch(again, (10, [insert((1, "x", 1)), insert((2, "y", 1))])))
    assert one.see(view(10))
    assert (one.pending_bytes, row(one, 2)) == (0, (2, "y", 1))


def test_a_new_snapshot_empties_the_cache_and_waits_for_the_target() -> None:
    one = cache()
    one.offer(batch(BatchBuilder("s", 1, 0), (10, [insert((1, "x", 1))])))
    one.see(view(10))
    one.see(view(0, generation=2))
    assert one.read(ACCOUNT.relation, key(1)) is None, "the target is in a snapshot that the log has not shown yet"
    one.offer(batch(BatchBuilder("s", 2, 0), (1, [Change(ACCOUNT, TRUNCATE), insert((2, "y", 1))])))
    assert not one.see(view(10))
    assert one.see(view(1, generation=2))
    assert (one.generation, one.visible, row(one, 1), row(one, 2)) == (2, 1, None, (2, "y", 1))


@pytest.mark.parametrize("lost", [view(10), view(10, 30), view(5, 20, 30)])
def test_a_target_that_lost_commits_ends_the_cache(lost: TargetView) -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))]), (20, []), (30, [])))
    one.see(view(10, 20, 30))
    with pytest.raises(TargetWentBackError, match="stream s"):
        one.see(lost)


def test_a_block_on_its_way_is_joined_with_what_came_since() -> None:
    """A key leaves the block, another enters it, while the block is under way."""
    others = [n for n in range(50) if bucket_of(key(n), BUCKETS) != bucket_of(key(1), BUCKETS)]
    same = [n for n in range(2, 50) if bucket_of(key(n), BUCKETS) == bucket_of(key(1), BUCKETS)]

    class There(Here):
        def owner(self, block: BlockId) -> Owner:
            return Owner("b", 7)

    one = StreamCache("s", lambda _: True, BUCKETS, "a", There(), BlockStore(1 << 20), 1, 10)
    one.see(view(10))
    block_id = one.block_id(NAME, key(1))
    assert one.begin_fetch(block_id) == 10
    log = BatchBuilder("s", 1, 10)
    moved = Change(ACCOUNT, UPDATE, (1, "x", 1), (others[0], "x", 1))
    one.offer(batch(log, (20, [moved]), (30, [insert((same[0], "new", 1))])))
    one.see(view(30))
    block = Block(ACCOUNT.relation, complete=True, version=10)
    block.put(key(1), b"whatever")
    assert one.install(block_id, block, 1)
    assert (row(one, 1), row(one, same[0])) == (None, (same[0], "new", 1))


@pytest.mark.parametrize(("version", "generation", "taken"), [(9, 1, False), (10, 1, True), (10, 2, False)])
def test_a_block_that_is_too_old_is_not_taken(version: int, generation: int, *, taken: bool) -> None:
    one = cache(position=10)
    one.see(view(10))
    block_id = one.block_id(NAME, key(1))
    assert one.install(block_id, Block(ACCOUNT.relation, complete=True, version=version), generation) is taken


def test_a_row_of_the_target_is_kept_only_when_nothing_can_have_changed_it() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))])))
    one.see(view(10))
    assert not one.fill(ACCOUNT.relation, key(2), b"row", view(20)), "the log is behind"
    assert not one.fill(ACCOUNT.relation, key(2), b"row", view(10, 30)), "something unknown is applied"
    one.offer(batch(log, (20, []), (30, [insert((2, "y", 1))])))
    assert not one.fill(ACCOUNT.relation, key(2), b"row", view(10, 30)), "the key changes"
    assert one.fill(ACCOUNT.relation, key(4), None, view(10, 20))
    assert row(one, 4) is None


def test_a_row_that_was_read_before_its_change_was_folded_is_not_kept() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((2, "x", 1))]), (20, [insert((1, "x", 1))])))
    one.see(view(20))
    one.offer(batch(log, (30, [insert((2, "y", 1))])))
    one.see(view(20, 30))
    assert not one.fill(ACCOUNT.relation, key(2), b"row", view(20)), "30 is folded"
    one.see(view(30))
    assert not one.fill(ACCOUNT.relation, key(2), b"row", view(20)), "the ledger has gone on"
    assert row(one, 2) == (2, "y", 1)


def test_what_cannot_be_cached() -> None:
    plain = ACCOUNT.relation
    assert cacheable(plain) == ""
    columns = plain.columns
    assert "no key" in cacheable(replace(plain, columns=tuple(replace(c, key=False) for c in columns)))
    assert "whole row" in cacheable(replace(plain, identity="f", columns=(columns[0],)))
    assert "numeric" in cacheable(replace(plain, columns=(replace(columns[0], type="numeric"), *columns[1:])))


def test_blocks_deleted_rows_and_all_survive_a_record() -> None:
    block = Block(ACCOUNT.relation, complete=False, version=5, epoch=7)
    block.put(key(1), b"row" * 3000)
    block.remove(key(2))
    block_id = BlockId("s", *NAME, 3)
    data = encode_fusion_block(record_of(block_id, block, BUCKETS, 1, 5, "a"))
    assert len(data) < 1000
    found_id, found = block_of(decode_fusion_block(data))
    assert (found_id, found.rows, found.version, found.epoch) == (block_id, block.rows, 5, 7)
    assert found.size_bytes == block.size_bytes


RECORD = FusionBlock("s", "public", "t", 1, 4, 1, 5, 7, "a", True, (), 1, encode_rows([(b"k", b"v" * 5000)]))


@pytest.mark.parametrize(
    "change",
    [
        {"image_bytes": IMAGE_BYTES_MAX + 1}, {"image_bytes": -1}, {"image_bytes": 5}, {"rows": -1}, {"bucket": 4},
        {"bucket": -1}, {"buckets": 1 << 20}, {"version": -1}, {"epoch": -1}, {"image": b"\xff" * 9},
        {"compression": "none"},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_block_is_refused(change: dict[str, object]) -> None:
    datum = codec("fusion_block").decode(encode_fusion_block(RECORD))
    with pytest.raises(SchemaError):
        decode_fusion_block(codec("fusion_block").encode({**datum, **change}))


@pytest.mark.parametrize(("image", "rows"), [(b"\0\0\0\1", 1), (b"\0\0\0\1k", 1), (b"\xff\xff\xff\xff" * 2, 1),
                                             (b"\0\0\0\1k\0\0\0\1v", 2), (b"\0\0\0\1k\0\0\0\1v?", 1),
                                             (b"\x80\0\0\0", 1)])  # fmt: skip
def test_a_damaged_image_is_refused(image: bytes, rows: int) -> None:
    with pytest.raises(SchemaError):
        list(decode_rows(image, rows))


def test_deletes_are_known() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))]), (20, [Change(ACCOUNT, DELETE, (1, "x", 1))])))
    one.see(view(20))
    assert row(one, 1) is None
    assert one.dirty == {one.block_id(NAME, key(1))}


def test_a_heartbeat_says_that_nothing_more_was_committed() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))])))
    one.offer(log.close("live", 500, 0))
    one.see(view(0))
    assert one.reached == 0
    one.see(view(10))
    assert (one.visible, one.reached) == (10, 500)
    answer = one.read(ACCOUNT.relation, key(1))
    assert answer is not None
    assert answer.position == 500


def numbered(of: Table, *numbers: int) -> Table:
    """The same table with its columns numbered by its source."""
    pairs = zip(of.relation.columns, numbers, strict=True)
    return replace(of, relation=replace(of.relation, columns=tuple(replace(c, number=n) for c, n in pairs)))


def kept(of: Table, version: int, *ids: int) -> tuple[BlockId, Block]:
    """The block of a key, with rows that exist."""
    block = Block(of.relation, complete=True, version=version)
    for n in ids:
        block.put(key(n), b"kept")
    return cache().block_id(NAME, key(ids[0])), block


def test_a_warmed_block_of_other_columns_goes_when_the_log_passes_its_version() -> None:
    """The log's columns may differ from those of all blocks: what is past the first batch must not outlive the next."""
    one, log = cache(position=10), BatchBuilder("s", 1, 10)
    assert one.warm([kept(ACCOUNT, 30, 1)]) == 1
    now = numbered(ACCOUNT, 1, 2, 3)
    one.offer(batch(log, (20, [insert((5, "x", 1), now)]), (30, [])))
    one.offer(batch(log, (40, [Change(now, UPDATE, (1, "x", 1), (1, "y", 2))])))
    one.see(view(30))
    assert one.read(ACCOUNT.relation, key(1)) is not None, "it stands for 30, which the log has just reached"
    one.see(view(40))
    answer = one.read(now.relation, key(1))
    assert answer is not None
    assert unpack_row(answer.row or b"", now.relation) == (1, "y", 2)


def test_the_newest_block_of_the_journal_tells_the_columns() -> None:
    now, one = numbered(ACCOUNT, 1, 2, 3), cache(position=10)
    other = next(n for n in range(2, 50) if bucket_of(key(n), BUCKETS) != bucket_of(key(1), BUCKETS))
    assert one.warm([kept(ACCOUNT, 20, 1), kept(now, 30, other)]) == 1
    assert one.relations[NAME] == now.relation


def test_the_source_s_columns_replace_the_target_s() -> None:
    """Learned from the target until a block of another node, or the log, knows better."""
    now, one = numbered(ACCOUNT, 1, 2, 3), cache(position=10)
    one.learn(ACCOUNT.relation)
    one.see(view(10))
    assert one.fill(ACCOUNT.relation, key(1), b"row", view(10))
    other = next(n for n in range(2, 50) if bucket_of(key(n), BUCKETS) != bucket_of(key(1), BUCKETS))
    assert one.install(*kept(now, 10, other), 1)
    assert one.read(ACCOUNT.relation, key(1)) is None
    assert one.read(now.relation, key(other)) is not None


def test_a_table_that_was_renamed_away_leaves_nothing_to_the_one_that_takes_its_name() -> None:
    """Its columns are the same, so only the table's number at the source tells."""
    columns = ACCOUNT.relation.columns
    first, away, second = (
        replace(ACCOUNT, relation=Relation(oid, "public", name, "d", columns))
        for oid, name in ((1, "account"), (1, "gone"), (2, "account"))
    )
    one, log = cache(wanted={NAME}), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1), first), insert((2, "y", 1), first)])))
    one.see(view(10))
    assert one.read(first.relation, key(1)) is not None
    block_id = one.block_id(NAME, key(1))
    exported = one.export(block_id)
    assert exported is not None
    kept = record_of(block_id, exported[0], BUCKETS, 1, exported[1], "a")
    one.offer(batch(log, (20, [insert((3, "z", 1), away)])))
    one.see(view(20))
    assert NAME not in one.relations
    assert [one.read(first.relation, key(n)) for n in (1, 2)] == [None, None]
    warmed = cache(position=10)
    assert warmed.warm([block_of(decode_fusion_block(encode_fusion_block(kept)))]) == 1
    log = BatchBuilder("s", 1, 10)
    warmed.offer(batch(log, (30, [insert((4, "new", 1), second)])))
    warmed.see(view(30))
    assert warmed.read(second.relation, key(1)) is None
    found = warmed.read(second.relation, key(4))
    assert found is not None
    assert unpack_row(found.row or b"", found.relation) == (4, "new", 1)


def test_a_table_that_can_be_cached_no_more_leaves_nothing_behind() -> None:
    one, log = cache(), BatchBuilder("s", 1, 0)
    one.offer(batch(log, (10, [insert((1, "x", 1))])))
    one.see(view(10))
    columns = ACCOUNT.relation.columns
    keyless = replace(
        ACCOUNT, relation=replace(ACCOUNT.relation, columns=(replace(columns[0], key=False), *columns[1:]))
    )
    one.offer(batch(log, (20, [insert((1, "y", 2), keyless)])))
    one.see(view(20))
    assert one.read(ACCOUNT.relation, key(1)) is None
    assert not one.dirty


def test_columns_that_change_within_a_batch_and_back_cost_the_table() -> None:
    """Sections hold the changes of one form each, so they can't be folded one after the other."""
    other, one, log = numbered(ACCOUNT, 1, 2, 4), cache(), BatchBuilder("s", 1, 0)
    one.offer(
        batch(
            log,
            (10, [insert((1, "x", 1))]),
            (20, [Change(other, UPDATE, (1, "x", 1), (1, "x", 2))]),
            (30, [Change(ACCOUNT, UPDATE, (1, "x", 2), (1, "x", 3))]),
        )
    )
    one.see(view(30))
    assert one.read(ACCOUNT.relation, key(1)) is None
    assert one.relations[NAME] == ACCOUNT.relation
    one.offer(batch(log, (40, [Change(ACCOUNT, UPDATE, (1, "x", 3), (1, "x", 4))])))
    one.see(view(40))
    assert row(one, 1) == (1, "x", 4)

"""What the store of blocks keeps when memory is short."""

from __future__ import annotations

from pipeline.cache.blocks import BLOCK_OVERHEAD_BYTES, Block
from pipeline.cache.store import BlockStore
from pipeline.directory.block import BlockId
from tests.unit.cached import ACCOUNT


def test_the_store_evicts_what_was_not_read() -> None:
    store = BlockStore(3 * BLOCK_OVERHEAD_BYTES)
    ids = [BlockId("s", "public", "t", n) for n in range(5)]
    for block_id in ids[:3]:
        store.put(block_id, Block(ACCOUNT.relation, complete=True, version=1))
    first = store.get(ids[0])
    assert first is not None
    first.reads += 1
    for block_id in ids[3:]:
        store.put(block_id, Block(ACCOUNT.relation, complete=True, version=1))
    assert store.shrink() == ids[1:3]
    assert (len(store), store.evicted, ids[0] in store) == (3, 2, True)


def stored(store: BlockStore, *numbers: int) -> None:
    """Blocks come, and are evicted, one after the other."""
    for number in numbers:
        store.put(BlockId("s", "public", "t", number), Block(ACCOUNT.relation, complete=True, version=1))
        store.shrink()


def read(store: BlockStore, *numbers: int) -> int:
    """Reads of blocks; how many were there."""
    found = [store.get(BlockId("s", "public", "t", number)) for number in numbers]
    for block in found:
        if block is not None:
            block.reads += 1
    return sum(block is not None for block in found)


def test_what_is_read_once_pushes_out_nothing_that_is_used() -> None:
    store = BlockStore(20 * BLOCK_OVERHEAD_BYTES)
    for scanned in range(100, 300):
        missed = [number for number in range(10) if not read(store, number)]
        assert not missed or scanned < 150, "after the first round"
        stored(store, *missed, scanned)


def test_what_was_used_once_gives_way_to_what_is_used_now() -> None:
    store = BlockStore(100 * BLOCK_OVERHEAD_BYTES)
    stored(store, *range(90))
    read(store, *range(90))
    stored(store, *range(100, 200))
    assert read(store, *range(90)) > 60
    hits = 0
    for _ in range(20):  # too many for the queue of what is new, in an order that no queue likes
        for number in range(1000, 1060):
            hits = hits + 1 if read(store, number) else 0
            stored(store, *([number] if not read(store, number) else []))
    assert hits >= 60


def test_precious_blocks_are_passed_twice_and_evictions_told() -> None:
    told: list[int] = []
    store = BlockStore(
        10 * BLOCK_OVERHEAD_BYTES, lambda block_id: block_id.bucket == 3, lambda block_id: told.append(block_id.bucket)
    )
    stored(store, *range(9))
    for _ in range(2):
        read(store, 2, 3)
    scanned = iter(range(100, 1000))
    while 2 not in told:
        stored(store, next(scanned))
    assert read(store, 3) == 1
    while 3 not in told:
        stored(store, next(scanned))
    assert store.evicted == len(told) == len(set(told))

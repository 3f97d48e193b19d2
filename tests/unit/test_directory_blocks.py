"""Blocks, their text, their buckets, and the owners that a hash gives them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.directory.block import BUCKETS_MAX, BlockId, bucket_of
from pipeline.directory.placement import HashPlacement

NAMES = st.text(min_size=1, max_size=20) | st.sampled_from(["a/b", "a%2Fb", "%", "/", "%25", "köln"])
BLOCKS = [BlockId("s", "public", table, bucket) for table in ("a", "b") for bucket in range(5000)]


@given(st.builds(BlockId, NAMES, NAMES, NAMES, st.integers(0, BUCKETS_MAX - 1)))
def test_text_names_one_block(block: BlockId) -> None:
    assert BlockId.parse(str(block)) == block


def test_text_is_readable() -> None:
    assert str(BlockId("orders", "public", "item/x", 17)) == "orders/public/item%2Fx/17"


@pytest.mark.parametrize(
    "text",
    ["", "a/b/c", "a/b/c/d", "a/b/c/01", "a/b/c/-1", "a/b/c/1/2", "a/b//1", "a/%41/c/1", "a/b/c/2147483648", "a/b/c/٣"],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no block"):
        BlockId.parse(text)


def test_buckets_are_the_same_for_ever() -> None:
    assert [bucket_of(key, 1024) for key in (b"", b"a", b"\0\0\0\4\0\0\0\7")] == [0, 579, 10]


def test_sequential_keys_fill_the_buckets_evenly() -> None:
    counts = Counter(bucket_of(b"\0\0\0\x08" + n.to_bytes(8, "big"), 64) for n in range(64_000))
    assert len(counts) == 64
    assert max(counts.values()) < 1100


def test_owners_do_not_depend_on_order_and_are_balanced() -> None:
    one, other = HashPlacement(["a", "b", "c", "d"], 7), HashPlacement(["d", "b", "a", "c", "a"], 7)
    owners = [one.owner(block) for block in BLOCKS]
    assert owners == [other.owner(block) for block in BLOCKS]
    counts = Counter(owner.node for owner in owners)
    assert {owner.epoch for owner in owners} == {7}
    assert max(counts.values()) < 1.15 * len(BLOCKS) / 4


@pytest.mark.parametrize("leaver", ["a", "b", "c", "d"])
def test_only_the_share_of_a_node_moves(leaver: str) -> None:
    before, after = HashPlacement("abcd"), HashPlacement(set("abcd") - {leaver})
    for block in BLOCKS:
        old, new = before.owner(block).node, after.owner(block).node
        assert new == old or old == leaver


def test_no_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="without nodes"):
        HashPlacement([])

"""What a node believes of its peers: bodies that are damaged, blocks that are unknown, forged or stale."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache.protocol import (
    Position,
    Request,
    accept_block,
    decode_answer,
    decode_position,
    decode_request,
    encode_answer,
    encode_position,
    encode_request,
)
from pipeline.directory.block import BlockId, Owner
from pipeline.fusion.frame import FrameError
from schemas.fusion_block import FusionBlock, encode_fusion_block

BLOCK = FusionBlock("s", "public", "t", 3, 16, 1, 100, 5, "b", complete=True, columns=(), rows=0, image=b"")


def accept(
    block: FusionBlock, *, sender: str = "b", master: str = "b", record: bytes | None = None, asked: bool = False
) -> FusionBlock:
    """Node a's opinion of a block that `sender` has sent; the directory's epoch is 5."""
    data = encode_fusion_block(block) if record is None else record
    return accept_block(
        data, sender, 16, lambda found: found.table == "t", lambda _: Owner(master, 5), "a", asked=asked
    )


def test_the_masters_block_is_believed() -> None:
    assert accept(BLOCK) == BLOCK


def test_a_block_that_its_old_master_ships_to_this_node_is_believed() -> None:
    assert accept(BLOCK, master="a") == BLOCK


def test_a_block_that_was_asked_for_may_come_from_a_holder() -> None:
    assert accept(BLOCK, master="c", asked=True) == BLOCK
    with pytest.raises(FrameError, match="epoch 4"):
        accept(replace(BLOCK, epoch=4), master="c", asked=True)


@pytest.mark.parametrize(
    ("block", "sender", "master", "reason"),
    [
        (replace(BLOCK, table="other"), "b", "b", "unknown_block"),
        (replace(BLOCK, buckets=32), "b", "b", "unknown_block"),
        (BLOCK, "c", "b", "forged_node"),
        (replace(BLOCK, epoch=4), "b", "b", "stale_epoch"),
        (replace(BLOCK, epoch=6), "b", "b", "forged_epoch"),
        (BLOCK, "b", "c", "not_the_master"),
    ],
)  # fmt: skip
def test_other_blocks_are_refused_under_their_name(block: FusionBlock, sender: str, master: str, reason: str) -> None:
    with pytest.raises(FrameError) as refused:
        accept(block, sender=sender, master=master)
    assert refused.value.reason == reason


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_as_a_block(record: bytes) -> None:
    with pytest.raises(FrameError) as refused:
        accept(BLOCK, record=record)
    assert refused.value.reason == "damaged_block"


def test_bodies_survive() -> None:
    position = Position(7, 1 << 40, 3, ("a", "b"), "köln")
    request = Request(9, 7, 1 << 40, BlockId("s", "public", "a/b", 3))
    assert decode_position(encode_position(position)) == position
    assert decode_request(encode_request(request)) == request
    passed_on = replace(request, requester="c")
    assert decode_request(encode_request(passed_on)) == passed_on
    assert decode_answer(encode_answer(4, b"record")) == (4, b"record")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_body_or_a_refusal(body: bytes) -> None:
    for decode in (decode_position, decode_request, decode_answer):
        try:
            decode(body)
        except FrameError:
            continue

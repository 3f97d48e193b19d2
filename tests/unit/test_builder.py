"""Building batches: what a decoder appends comes out packed, and the next batch starts empty."""

from __future__ import annotations

import pytest

from pipeline.builder import BatchBuilder
from schemas.change_batch import DELETE, INSERT, UPDATE, Column, LogicalMessage, Relation
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.packed import offsets

ONE = Relation(1, "public", "one", "d", (Column("id", "int4", key=True, binary=True),))
OTHER = Relation(2, "public", "other", "d", (Column("id", "int4", key=True, binary=True),))


def append(builder: BatchBuilder, relation: Relation, tx: int, op: int, key: bytes = b"k", row: bytes = b"row") -> None:
    section = builder.section(relation)
    section.ops.append(op)
    section.tx.append(tx)
    section.order.append(builder.rank)
    section.keys.append(key)
    section.rows.append(row)
    builder.rank += 1


def test_a_batch_holds_what_was_appended() -> None:
    builder = BatchBuilder("s", 3, 10)
    assert builder.begin(11, 1, 2) == 0
    append(builder, ONE, 0, INSERT, b"a", b"xy")
    append(builder, OTHER, 0, DELETE, b"bc", b"")
    assert builder.begin(15, 3, 4) == 1
    builder.section(ONE).old_keys[1] = b"old"
    builder.section(ONE).masks[1] = b"\1"
    append(builder, ONE, 1, UPDATE, b"def", b"z")
    builder.messages.append(LogicalMessage(1, builder.rank, "p", b"c"))
    batch = decode_batch(encode_batch(builder.close("live", 99, 5)))
    assert (batch.generation, batch.previous_position, batch.last_position, batch.end_position) == (3, 10, 15, 99)
    assert (list(batch.positions), list(batch.commit_times_us), list(batch.source_ids)) == ([11, 15], [1, 3], [2, 4])
    first, second = batch.sections
    assert (first.ops, first.key_list(), first.row_list()) == (b"IU", [b"a", b"def"], [b"xy", b"z"])
    assert (first.old_key_map(), first.mask_map(), list(first.order)) == ({1: b"old"}, {1: b"\1"}, [0, 2])
    assert (second.relation, second.key_list(), second.row_list()) == (OTHER, [b"bc"], [b""])
    assert batch.messages == [LogicalMessage(1, 3, "p", b"c")]
    assert batch.rows() == 3
    assert batch.whole


def test_the_next_batch_continues_the_chain_and_is_empty() -> None:
    builder = BatchBuilder("s", 1, 10)
    tx = builder.begin(20, 0, 0)
    append(builder, ONE, tx, INSERT)
    builder.messages.append(LogicalMessage(tx, 1, "p", b""))
    first = builder.close("live", 0, 0)
    second = builder.close("live", 0, 0)
    assert (first.previous_position, second.previous_position, second.last_position) == (10, 20, 20)
    assert not second.positions
    assert not second.sections
    assert not second.messages
    assert len(first.messages) == 1
    assert (builder.rank, builder.bytes) == (0, 0)


def test_parts_share_a_run_and_the_position_before_them() -> None:
    builder = BatchBuilder("s", 1, 10)
    batches = []
    for n, last in enumerate((False, False, True, True)):
        tx = builder.begin(20 if n < 3 else 30, 0, 0)
        append(builder, ONE, tx, INSERT)
        batches.append(builder.close("live", 0, 500 + n, last_part=last))
    assert [batch.part for batch in batches] == [0, 1, 2, 0]
    assert [batch.last_part for batch in batches] == [False, False, True, True]
    assert [batch.previous_position for batch in batches] == [10, 10, 10, 20]
    assert [batch.run for batch in batches] == [500, 500, 500, 0]
    assert [batch.whole for batch in batches] == [False, False, False, True]
    for batch in batches:
        assert decode_batch(encode_batch(batch)) == batch


@pytest.mark.parametrize("slices", [[], [b""], [b"a", b"", b"bcd"]])
def test_offsets_cut_a_join_back(slices: list[bytes]) -> None:
    cut = offsets(slices)
    joined = b"".join(slices)
    assert [joined[cut[n] : cut[n + 1]] for n in range(len(slices))] == slices

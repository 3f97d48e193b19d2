"""Damaged, foreign and hostile records: SchemaError, or a valid record of the same size; nothing else."""

from __future__ import annotations

import time
import tracemalloc
from array import array
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from schemas.apply_unit import ApplyUnit, decode_unit, encode_unit
from schemas.change_batch import ChangeBatch, Section
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.errors import SchemaError
from schemas.packed import INT32, INT64
from schemas.progress import decode_progress, encode_progress
from schemas.single_object import HEADER_BYTES, RECORD_BYTES_MAX, codec
from tests.unit.golden import ENCODERS, EXPECTED, decode, encode

NAMES = sorted(EXPECTED)
ALLOCATED_BYTES_MAX = 1_000_000  # for records of some hundred bytes
# As Avro longs: counts and lengths far beyond the record, negative ones, the ends of 64 bits, and a run on.
HOSTILE = [
    bytes.fromhex(text)
    for text in (
        "feffffffffffffffff01", "ffffffffffffffffff01", "01", "03", "80808080808080808001", "80808080f01f",
        "fefffffff01f", "ffffffff0f", "feffffff0f", "ffffffffffffffffffffffffffffffffffff7f",
    )
]  # fmt: skip
RECOMPRESSED_BYTES = 8  # an image that was packed by another LZ4 level may be a little shorter there


def assert_refused_or_valid(name: str, data: bytes, size: int) -> None:
    """Decode; what is accepted must be whole, about `size` and stay the same when it is written again."""
    try:
        found = decode(name, data)
    except SchemaError:
        return
    again = encode_as(name, found)
    assert len(again) <= size + RECOMPRESSED_BYTES
    assert repr(decode(name, again)) == repr(found)  # repr: a damaged double may be NaN


def encode_as(name: str, content: Any) -> bytes:
    """A record with the given content."""
    return ENCODERS.get(name, codec(name).encode)(content)


@pytest.mark.parametrize("name", NAMES)
def test_any_single_byte_flip(name: str) -> None:
    data = encode(name)
    for at in range(len(data)):
        for flip in (0x01, 0x02, 0x10, 0x40, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[at] ^= flip
            assert_refused_or_valid(name, bytes(damaged), len(data))


@pytest.mark.parametrize("name", NAMES)
def test_any_truncation_is_refused(name: str) -> None:
    data = encode(name)
    for size in range(len(data)):
        with pytest.raises(SchemaError):
            decode(name, data[:size])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", [b"\0", b"\xff", b"\0" * 100], ids=["zero", "ones", "zeros"])
def test_any_extension_is_refused(name: str, more: bytes) -> None:
    with pytest.raises(SchemaError, match="after the end"):
        decode(name, encode(name) + more)


@pytest.mark.parametrize("name", NAMES)
def test_records_of_another_schema_are_refused(name: str) -> None:
    for other in NAMES:
        if other != name:
            with pytest.raises(SchemaError, match="fingerprint"):
                decode(name, encode(other))
    with pytest.raises(SchemaError, match="not a Headrace record"):
        decode(name, b"{" + encode(name)[1:])


@pytest.mark.parametrize("name", NAMES)
def test_hostile_numbers_anywhere_cost_neither_memory_nor_time(name: str) -> None:
    data = encode(name)
    decode(name, data)
    started_s = time.process_time()
    tracemalloc.start()
    try:
        for at in range(HEADER_BYTES, len(data)):
            for number in HOSTILE:
                assert_refused_or_valid(name, data[:at] + number + data[at + 1 :], len(data) + len(number))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < ALLOCATED_BYTES_MAX
    assert time.process_time() - started_s < 20


def test_records_over_the_limit_are_refused_both_ways() -> None:
    unit: ApplyUnit = EXPECTED["apply_unit"]
    with pytest.raises(SchemaError, match="over the limit"):
        encode_unit(replace(unit, batch=bytes(RECORD_BYTES_MAX)))
    with pytest.raises(SchemaError, match="over the limit"):
        decode_unit(encode_unit(unit) + bytes(RECORD_BYTES_MAX))


def test_wrong_types_are_refused_when_writing() -> None:
    with pytest.raises(SchemaError, match="cannot encode"):
        codec("apply_unit").encode({"stream": "s"})
    with pytest.raises(SchemaError, match="cannot encode"):
        encode_unit(replace(EXPECTED["apply_unit"], mode="sideways"))
    with pytest.raises(SchemaError, match="cannot encode"):
        encode_unit(replace(EXPECTED["apply_unit"], epoch=1 << 70))


@pytest.mark.parametrize(
    "change",
    [
        {"lane": 16}, {"lane": -1}, {"waits": {16: 1}}, {"waits": {-1: 1}}, {"waits": {3: 1}}, {"waits": {1: 0}},
        {"epoch": 0}, {"seq": 0}, {"waits": dict.fromkeys(range(17), 1)},
    ],
    ids=str,
)  # fmt: skip
def test_units_that_no_planner_makes_are_refused(change: dict[str, Any]) -> None:
    unit = replace(EXPECTED["apply_unit"], **change)
    with pytest.raises(SchemaError):
        decode_unit(encode_unit(unit))


def test_a_unit_that_waits_twice_for_one_lane_is_refused() -> None:
    datum = codec("apply_unit").decode(encode("apply_unit"))
    datum["waits"] = [{"lane": 1, "seq": 9}, {"lane": 1, "seq": 2}]
    with pytest.raises(SchemaError, match="twice"):
        decode_unit(codec("apply_unit").encode(datum))


def test_progress_of_a_lane_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SchemaError, match="lane 16"):
        decode_progress(encode_progress(replace(EXPECTED["progress"], lane=16)))


def bad_batches() -> Iterator[tuple[str, ChangeBatch]]:
    """The golden batch with one thing wrong."""
    batch: ChangeBatch = EXPECTED["change_batch"]
    section = batch.sections[0]

    def int32(*items: int) -> array[int]:
        return array(INT32, items)

    def int64(*items: int) -> array[int]:
        return array(INT64, items)

    def within(**change: Any) -> ChangeBatch:
        return replace(batch, sections=[replace(section, **change)])

    yield "fewer times", replace(batch, commit_times_us=int64(1))
    yield "more ids", replace(batch, source_ids=int64(1, 2, 3))
    yield "positions repeat", replace(batch, positions=int64(100, 100))
    yield "positions fall", replace(batch, positions=int64(101, 100))
    yield "first at the previous", replace(batch, previous_position=100)
    yield "negative position", replace(batch, previous_position=-1)
    yield "negative generation", replace(batch, generation=-1)
    yield "negative part", replace(batch, part=-1)
    yield "two transactions in a part", replace(batch, part=1)
    yield "two transactions in an open part", replace(batch, last_part=False)
    yield "unknown operation", within(ops=b"IUX")
    yield "fewer operations", within(ops=b"IU")
    yield "transaction outside", within(tx=int32(0, 1, 2))
    yield "negative transaction", within(tx=int32(-1, 1, 1))
    yield "transactions fall", within(tx=int32(1, 0, 1))
    yield "ranks fall", within(order=int32(1, 0, 3))
    yield "negative rank", within(order=int32(-1, 0, 3))
    yield "fewer ranks", within(order=int32(0, 1))
    yield "key offsets end early", within(key_offsets=int32(0, 12, 24, 35))
    yield "key offsets end late", within(key_offsets=int32(0, 12, 24, 37))
    yield "key offsets fall", within(key_offsets=int32(0, 24, 12, 36))
    yield "key offsets start late", within(key_offsets=int32(1, 12, 24, 36))
    yield "no key offsets", within(key_offsets=int32())
    yield "row offsets are too few", within(row_offsets=int32(0, 19, 37))
    yield "old keys of a row outside", within(old_index=int32(3))
    yield "old keys of a negative row", within(old_index=int32(-1))
    yield "old keys twice", within(old_index=int32(1, 1), old_keys=bytes(2), old_offsets=int32(0, 1, 2))
    yield "old keys without offsets", within(old_offsets=int32(0))
    yield "masks of a row outside", within(mask_index=int32(3))
    yield "masks out of order", within(mask_index=int32(2, 1), masks=b"\1\1")
    yield "mask too short", within(masks=b"")
    yield "a truncate without options", within(ops=b"IUT")
    yield "message outside", replace(batch, messages=[replace(batch.messages[0], tx=2)])
    yield "message of a negative transaction", replace(batch, messages=[replace(batch.messages[0], tx=-1)])


@pytest.mark.parametrize("batch", [pytest.param(batch, id=name) for name, batch in bad_batches()])
def test_batches_that_contradict_themselves_are_refused(batch: ChangeBatch) -> None:
    data = encode_batch(batch)
    with pytest.raises(SchemaError):
        decode_batch(data)


def test_packed_arrays_of_broken_size_are_refused() -> None:
    datum = codec("change_batch").decode(encode("change_batch"))
    for field in ("positions", "commit_times_us", "source_ids"):
        with pytest.raises(SchemaError, match="whole number"):
            decode_batch(codec("change_batch").encode({**datum, field: datum[field] + b"\0"}))
    for field in ("tx", "order", "key_offsets", "row_offsets", "old_index", "old_offsets", "mask_index"):
        section = {**datum["sections"][0], field: datum["sections"][0][field] + b"\0"}
        with pytest.raises(SchemaError, match="whole number"):
            decode_batch(codec("change_batch").encode({**datum, "sections": [section]}))


def test_a_section_without_rows_is_read() -> None:
    batch: ChangeBatch = EXPECTED["change_batch"]
    empty = Section(batch.sections[0].relation, b"", array(INT32), array(INT32), b"", array(INT32, [0]), b"",
                    array(INT32, [0]))  # fmt: skip
    batch = replace(batch, sections=[empty])
    assert decode_batch(encode_batch(batch)) == batch

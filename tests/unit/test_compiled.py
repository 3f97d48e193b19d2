"""The compiled loops do what their Python forms do, message by message and byte by byte."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres import arrays as arrays_module
from connectors.postgres import pump as pumps
from connectors.postgres.arrays import arrays, arrays_python
from connectors.postgres.facts import ColumnFacts
from connectors.postgres.pgoutput import PgOutputDecoder
from connectors.postgres.pump import Pump, pump_python
from pipeline.builder import BatchBuilder
from pipeline.mapping import TableMapping
from schemas import packed
from schemas.errors import SchemaError
from schemas.rows import pack_fields, pack_row

compiled = pytest.mark.skipif(
    not (pumps.COMPILED and packed.COMPILED and arrays_module.COMPILED), reason="the hot loops are not compiled here"
)
OIDS = (16384, 16399)
Value = bytes | None | str  # None: NULL; "unchanged": left out by the source

Form = Callable[[list[bytes], list[int], bool], tuple[int, list[bytes]]]

values = st.one_of(st.none(), st.just("unchanged"), st.binary(max_size=9))
rows = st.lists(st.tuples(st.sampled_from(b"tb"), values), min_size=3, max_size=3)
changes = st.tuples(st.sampled_from(["I", "U", "UK", "UO", "D"]), st.sampled_from(OIDS), rows, rows)
transactions = st.lists(st.lists(changes, max_size=6), max_size=6)


def wal(body: bytes) -> bytes:
    """A message with its XLogData header."""
    return b"w" + bytes(24) + body


def relation(oid: int) -> bytes:
    """A table of two key columns and a third, identity default."""
    columns = b"".join(struct.pack("!b", n < 2) + b"c%d\0" % n + struct.pack("!Ii", 23, -1) for n in range(3))
    return wal(b"R" + struct.pack("!I", oid) + b"public\0t%d\0d" % oid + struct.pack("!h", 3) + columns)


def row(fields: list[tuple[int, Value]]) -> bytes:
    """TupleData."""
    parts = [struct.pack("!h", len(fields))]
    for kind, value in fields:
        if isinstance(value, bytes):
            parts.append(bytes([kind]) + struct.pack("!i", len(value)) + value)
        else:
            parts.append(b"n" if value is None else b"u")
    return b"".join(parts)


def change(kind: str, oid: int, new: list[tuple[int, Value]], old: list[tuple[int, Value]]) -> bytes:
    """An INSERT, UPDATE (with the old key K or row O) or DELETE."""
    head = kind[0].encode() + struct.pack("!I", oid)
    if kind == "D":
        return wal(head + b"K" + row(new))
    before = kind[1:].encode() + row(old) if len(kind) > 1 else b""
    return wal(head + before + b"N" + row(new))


def stream(work: list[list[tuple[str, int, list[tuple[int, Value]], list[tuple[int, Value]]]]]) -> Iterator[bytes]:
    """All messages of the transactions."""
    yield from map(relation, OIDS)
    for number, found in enumerate(work, start=1):
        yield wal(b"B" + struct.pack("!qqI", number * 100, number - 2**40, 4_000_000_000 + number))
        for one in found:
            yield change(*one)
        yield wal(b"C" + struct.pack("!Bqqq", 0, number * 100, number * 100 + 8, 0))


class NoFacts:
    """A source whose catalogue tells nothing."""

    def type_name(self, oid: int) -> str | None:
        return {23: "int4"}.get(oid)

    def travels(self, oid: int) -> bool:
        return True

    def primary_key(self, schema: str, table: str) -> tuple[str, ...] | None:
        return None

    def columns(self, oid: int) -> list[ColumnFacts]:
        return []


# The second table has a column that is hashed, and no third one.
MAPPING = TableMapping(exclude_columns=("public.t16399.c2",), hash_columns=("public.t16399.c1",), secret=b"secret")


def decoded(pump: Pump, messages: list[bytes], messages_max: int, skip_to: int, mapping: TableMapping) -> object:
    """Everything that the decoder and its builder hold afterwards, and what the pump said on the way."""
    builder = BatchBuilder("s", 1, 0)
    decoder = PgOutputDecoder(builder, skip_to, NoFacts(), binary=False, mapping=mapping)
    left = [memoryview(message) for message in messages]

    def get_copy_data(_: int) -> tuple[int, memoryview]:
        return (len(left[0]), left.pop(0)) if left else (0, memoryview(b""))

    said = []
    while left:
        size, done, other = pump(get_copy_data, decoder, messages_max, 200)
        said.append((size if size <= 0 else 1, done, other and bytes(other)))
    state = (decoder.running, decoder.in_transaction, decoder.end_position, builder.rank, builder.bytes, decoder.tx)
    return said, state, builder.close("live", decoder.end_position, 1)


@compiled
@given(transactions, st.integers(1, 40), st.sampled_from([0, 250]), st.booleans(), st.booleans())
def test_messages(work: list[list[tuple[str, int, list[tuple[int, Value]], list[tuple[int, Value]]]]],
                  messages_max: int, skip_to: int, keepalives: bool, mapped: bool) -> None:  # fmt: skip
    messages = list(stream(work))
    if keepalives:
        messages[2::5] = [b"k" + bytes(17)] * len(messages[2::5])
        messages = [message for message in messages if message[25:26] != b"C" or message[0:1] == b"w"]
    mapping = MAPPING if mapped else TableMapping()
    fast, slow = (decoded(pump, messages, messages_max, skip_to, mapping) for pump in (pumps.pump, pump_python))
    assert fast == slow


@pytest.mark.parametrize("pump", [pump_python, pytest.param(pumps.pump, marks=compiled)])
@pytest.mark.parametrize("rows_a_transaction", [1, 100])
def test_a_batch_is_never_much_larger_than_its_limit(pump: Pump, rows_a_transaction: int) -> None:
    builder = BatchBuilder("s", 1, 0)
    decoder = PgOutputDecoder(builder, 0, NoFacts(), binary=True)
    insert = change("I", OIDS[0], [(ord("b"), b"x" * 1000)] * 3, [])
    messages = [relation(OIDS[0])]
    for number in range(0, 100, rows_a_transaction):
        messages.append(wal(b"B" + struct.pack("!qqI", 100 * number + 1, 0, 7)))
        messages += [insert] * rows_a_transaction
        messages.append(wal(b"C" + struct.pack("!Bqqq", 0, 0, 100 * number + 1, 0)))
    left = [memoryview(message) for message in messages]
    sizes = []
    while left:
        pump(lambda _: (1, left.pop(0)) if left else (0, memoryview(b"")), decoder, 512, 5000)
        sizes.append(builder.bytes)
        builder.bytes = 0
    assert max(sizes) < 5000 + 2 * len(insert)
    assert len(sizes) > 10


@compiled
@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_sorted(numbers: list[int]) -> None:
    for found in (numbers, sorted(numbers)):
        assert packed.is_sorted(array("i", found)) == packed.is_sorted_python(array("i", found))


@compiled
@given(st.lists(st.binary(max_size=5)))
def test_slices(slices: list[bytes]) -> None:
    offsets = packed.offsets(slices)
    assert offsets == packed.offsets_python(slices)
    assert packed.cut(b"".join(slices), offsets) == packed.cut_python(b"".join(slices), offsets) == slices


@compiled
@pytest.mark.parametrize("offsets", [[0, 4], [-1, 2], [2, 1]])
def test_offsets_outside_the_blob_are_refused(offsets: list[int]) -> None:
    with pytest.raises(SchemaError):
        packed.cut(b"abc", array("i", offsets))


Rows = Callable[["array[int]", "array[int]"], tuple["array[int]", "array[int]"]]
FORMS_OF_ROWS = [packed.rows_of_python, pytest.param(packed.rows_of, marks=compiled)]
int32s = st.integers(-(2**31), 2**31 - 1)


@pytest.mark.parametrize("form", FORMS_OF_ROWS)
@given(st.lists(st.integers(0, 9)).map(sorted), st.sets(st.integers(0, 12)).map(sorted))
def test_rows_of_transactions(form: Rows, tx: list[int], wanted: list[int]) -> None:
    rows, numbers = form(array("i", tx), array("i", wanted))
    found = [row for row, number in enumerate(tx) if number in wanted]
    assert (rows.typecode, numbers.typecode) == ("i", "i")
    assert rows.tolist() == found
    assert numbers.tolist() == [wanted.index(tx[row]) for row in found]
    rows.append(7)  # an array like any other
    assert rows.tolist() == [*found, 7]


@compiled
@given(st.lists(int32s).map(sorted), st.data())
def test_rows_of_any_numbers(tx: list[int], data: st.DataObject) -> None:
    wanted = array("i", data.draw(st.sets(st.sampled_from(tx) | int32s if tx else int32s).map(sorted)))
    assert packed.rows_of(array("i", tx), wanted) == packed.rows_of_python(array("i", tx), wanted)


@compiled
@given(st.lists(st.tuples(st.binary(max_size=5), int32s, st.integers(-(2**63), 2**63 - 1))), st.data())
def test_chosen_rows(items: list[tuple[bytes, int, int]], data: st.DataObject) -> None:
    slices = [item[0] for item in items]
    blob, offsets = b"".join(slices), packed.offsets_python(slices)
    drawn = data.draw(st.lists(st.sampled_from(range(len(items))))) if items else []
    rows = array("i", drawn)
    assert packed.gather(blob, offsets, rows) == packed.gather_python(blob, offsets, rows)
    assert packed.pick_bytes(blob, array("i", range(len(blob)))[::-1]) == blob[::-1]
    for values in (array("i", [item[1] for item in items]), array("q", [item[2] for item in items])):
        picked = packed.pick(values, rows)
        assert picked == packed.pick_python(values, rows) == array(values.typecode, [values[row] for row in drawn])
        assert picked.typecode == values.typecode


@compiled
@pytest.mark.parametrize("row", [-1, 2, 2**31 - 1, -(2**31)])
def test_rows_that_are_not_there_are_refused(row: int) -> None:
    rows = array("i", [0, row])
    for refused in (
        lambda: packed.gather(b"abc", array("i", [0, 1, 3]), rows),
        lambda: packed.gather(b"", array("i"), array("i", [row])),
        lambda: packed.pick(array("q", [1, 2]), rows),
        lambda: packed.pick_bytes(b"ab", rows),
    ):
        with pytest.raises(IndexError):
            refused()


@compiled
@pytest.mark.parametrize("offsets", [[0, 4], [-1, 2], [2, 1]])
def test_chosen_rows_outside_the_blob_are_refused(offsets: list[int]) -> None:
    with pytest.raises(SchemaError):
        packed.gather(b"abc", array("i", offsets), array("i", [0]))


fields_of_rows = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.none() | st.binary(max_size=5), min_size=width, max_size=width), min_size=1)
)


def outcome(form: Form, blobs: list[bytes], types: list[int], tuples: bool) -> object:
    """What it returns, or the text of its error."""
    try:
        return form(blobs, types, tuples)
    except SchemaError as error:
        return str(error)


@compiled
@given(fields_of_rows, st.booleans(), st.integers(0, 3), st.integers(0, 2))
def test_arrays(rows: list[list[bytes | None]], tuples: bool, joined: int, cut_off: int) -> None:
    packed_rows = [(pack_row if tuples else pack_fields)(row) for row in rows]
    blobs = [b"".join(packed_rows[:joined]), *packed_rows[joined:]]
    blobs[-1] = blobs[-1][: len(blobs[-1]) - cut_off]
    types = [23 + 2**31 * (n % 2) for n in range(len(rows[0]))]
    assert outcome(arrays, blobs, types, tuples) == outcome(arrays_python, blobs, types, tuples)


@pytest.mark.parametrize("form", [arrays_python, pytest.param(arrays, marks=compiled)])
@pytest.mark.parametrize("damaged", [b"\0\1\0\0\0\1", b"\0\2\0\0\0\0", b"\0\1\xff\xff\xff\xfe", b"\0\1\0\0\0\0x"])
def test_rows_that_are_no_tuples_make_no_array(form: Form, damaged: bytes) -> None:
    with pytest.raises(SchemaError):
        form([damaged], [23], True)


def test_an_array_is_in_the_form_that_the_server_receives() -> None:
    count, (numbers, words) = arrays([pack_row([b"\0\0\0\7", b"ab"]), pack_row([b"\0\0\0\x08", None])], [23, 25], True)
    assert count == 2
    assert numbers == struct.pack("!5i", 1, 0, 23, 2, 1) + struct.pack("!iiii", 4, 7, 4, 8)
    assert words == struct.pack("!5i", 1, 1, 25, 2, 1) + struct.pack("!i", 2) + b"ab" + struct.pack("!i", -1)

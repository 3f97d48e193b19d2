"""Images of blocks in columns: what is laid out so comes back, and nothing else is taken."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.block_image import (
    COMPILED,
    IMAGE_BYTES_MAX,
    Entry,
    bytes_in_rows,
    decode_columns,
    decode_columns_python,
    decode_image,
    encode_columns,
    encode_image,
    encode_rows,
)
from schemas.errors import SchemaError
from schemas.rows import pack_fields, pack_row

compiled = pytest.mark.skipif(not COMPILED, reason="the hot loops are not compiled here")
BYTES_MAX = 1000  # in properties, so that counts of damaged images meet it

fields = st.none() | st.binary(max_size=20) | st.sampled_from([b"x" * 254, b"x" * 255, b"x" * 300])
widths = st.integers(0, 18).flatmap(lambda width: st.just(st.binary(min_size=width, max_size=width)))
columns = st.sampled_from([fields, st.none(), st.binary(max_size=3)]) | widths  # a strategy of its fields each


@st.composite
def blocks(draw: st.DrawFn) -> list[Entry]:
    """Entries whose keys and rows have the same number of fields, some without a row."""
    key, row = draw(st.lists(columns, min_size=1, max_size=2)), draw(st.lists(columns, min_size=1, max_size=4))
    entries = st.tuples(st.tuples(*key).map(pack_fields), st.none() | st.tuples(*row).map(pack_row))
    return draw(st.lists(entries, min_size=1, max_size=8))


def in_order(entries: list[Entry]) -> list[Entry]:
    """As columns return them: those with a row first."""
    return sorted(entries, key=lambda entry: entry[1] is None)


@compiled
@given(blocks())
def test_columns_come_back_as_rows(entries: list[Entry]) -> None:
    layout, image = encode_image(entries)
    assert layout == "columns"
    assert list(decode_image(image, len(entries), layout)) == in_order(entries)
    assert decode_columns_python(image, len(entries), IMAGE_BYTES_MAX) == in_order(entries)
    assert bytes_in_rows(image, len(entries), layout) >= len(encode_rows(entries))


def outcome(form: Callable[[bytes, int, int], list[Entry]], image: bytes, rows: int) -> object:
    """What it returns, or the text of its error."""
    try:
        return form(image, rows, BYTES_MAX)
    except SchemaError as error:
        return str(error)


@compiled
@given(blocks(), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=3), st.integers(-2, 2),
       st.integers(-1, 3), st.integers(0, 3))  # fmt: skip
def test_both_forms_refuse_the_same(
    entries: list[Entry], damage: list[tuple[int, int]], cut: int, more: int, head: int
) -> None:
    from schemas import _block_columns

    image = bytearray(encode_columns(entries) or b"")
    for at, byte in damage:
        image[at % len(image)] = byte
    image = image[: len(image) - cut] if cut > 0 else image + bytes(-cut)
    data = bytes(image[:head] if head < 3 and not damage else image)
    rows = len(entries) + more
    assert outcome(_block_columns.decode, data, rows) == outcome(decode_columns_python, data, rows)


ENTRIES: list[Entry] = [
    (pack_fields([struct.pack("!h", 1)]), pack_row([struct.pack("!h", 1), None, b"ab", b"x" * 255])),
    (pack_fields([struct.pack("!h", 2)]), None),
    (pack_fields([struct.pack("!h", 3)]), pack_row([struct.pack("!h", 3), None, None, b""])),
]
# Never changes: records like it lie in topics.
IMAGE = b"".join([
    bytes.fromhex("0001 0004 00000002"),
    bytes.fromhex("00000002 000000 010302"), bytes.fromhex("00000002 0000 0103"), bytes.fromhex("ffffffff"),
    bytes.fromhex("fffffffe 02ff 6162"), bytes.fromhex("fffffffd 000000ff 00000000"), b"x" * 255,
])  # fmt: skip


def test_the_layout_stays_as_it_is() -> None:
    assert decode_columns(IMAGE, 3) == decode_columns_python(IMAGE, 3, IMAGE_BYTES_MAX) == in_order(ENTRIES)
    assert encode_image(ENTRIES) == (("columns", IMAGE) if COMPILED else ("rows", encode_rows(ENTRIES)))


@pytest.mark.parametrize(
    "entries",
    [
        [], [(b"k", b"v")], [(b"", pack_row([b"a"]))], [(pack_fields([b"k"]), b"\0")],
        [(pack_fields([b"k"]), pack_row([]))],
        [*ENTRIES, (pack_fields([b"k", b"l"]), None)], [*ENTRIES, (pack_fields([b"k"]), pack_row([b"a"]))],
        [*ENTRIES, (pack_fields([b"k"]), (ENTRIES[0][1] or b"") + b"?")],
        [(pack_fields([b"k"]), pack_row([bytes(IMAGE_BYTES_MAX)]))],
    ],
)  # fmt: skip
def test_what_is_not_alike_stays_in_rows(entries: list[Entry]) -> None:
    assert encode_image(entries) == ("rows", encode_rows(entries))
    assert list(decode_image(encode_rows(entries), len(entries), "rows")) == entries


def columns_of(keys: int, fields: int, present: int, *widths: int) -> bytes:
    """An image of nothing but widths."""
    return struct.pack(f"!hhi{len(widths)}i", keys, fields, present, *widths)


@pytest.mark.parametrize(
    ("image", "rows"),
    [
        (b"", 0), (columns_of(0, 1, 0, -1), 0), (columns_of(1, 0, 1, -1), 1), (columns_of(-1, 1, 0), 0),
        (columns_of(1, 1, 2, -1, -1), 1), (columns_of(1, 1, -1, -1, -1), 1), (columns_of(1, 1, 1, -1), 1),
        (columns_of(1, 1, 1, -1, -4), 1), (columns_of(1, 1, 1, -1, 1), 1), (columns_of(1, 1, 1, -1, -2), 1),
        (columns_of(1, 1, 1, -1, -3, -2), 1), (columns_of(1, 1, 1, -1, 2**31 - 1), 1),
        (columns_of(1, 1, 1, -1, -1, 0), 1),
        (columns_of(1, 1, 1, -1, -1), -1), (columns_of(1, 1, 1, -1, -1), 2**31 - 1),  # NULLs take no byte of the image
        (columns_of(1, 0x7FFF, 1 << 8, *[-1] * 0x8000), 1 << 8),
    ],
)  # fmt: skip
def test_damaged_columns_are_refused(image: bytes, rows: int) -> None:
    with pytest.raises(SchemaError, match="block image"):
        decode_columns(image, rows)
    with pytest.raises(SchemaError, match="block image"):
        decode_columns_python(image, rows, IMAGE_BYTES_MAX)

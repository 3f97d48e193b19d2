"""Hypothesis strategies: packed batches of any content, and histories of the small world."""

from __future__ import annotations

from array import array
from itertools import accumulate, pairwise

from hypothesis import strategies as st

from pipeline.catalogue import ForeignKey
from schemas.change_batch import (
    DELETE,
    INSERT,
    TRUNCATE,
    UPDATE,
    ChangeBatch,
    Column,
    LogicalMessage,
    Relation,
    Section,
)
from schemas.packed import INT32, INT64
from tests.properties.model import PUBLIC, Change, Row, Table, Transaction, Value, table

int64s = st.integers(0, (1 << 63) - 1)
times_us = st.integers(-(1 << 62), 1 << 62)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

columns = st.builds(Column, name=names, type=names, key=st.booleans(), binary=st.booleans())
relations = st.builds(
    Relation, oid=st.integers(0, (1 << 32) - 1), schema=names, table=names, identity=st.sampled_from("dnfi"),
    columns=st.lists(columns, max_size=10).map(tuple),
)  # fmt: skip


def _offsets(slices: list[bytes]) -> array[int]:
    return array(INT32, accumulate(map(len, slices), initial=0))


@st.composite
def sections(draw: st.DrawFn, transactions: int) -> Section:
    """Any section whose counts agree, of rows and keys that may be any bytes."""
    relation = draw(relations)
    txs = sorted(draw(st.lists(st.integers(0, transactions - 1), max_size=8)))
    rows = len(txs)
    ops = bytes(draw(st.lists(st.sampled_from([INSERT, UPDATE, DELETE, TRUNCATE]), min_size=rows, max_size=rows)))
    blobs = st.lists(st.binary(max_size=12), min_size=rows, max_size=rows)
    tuples = [b"\0" if op == TRUNCATE else row for op, row in zip(ops, draw(blobs), strict=True)]
    keys = draw(blobs)
    some_rows = st.lists(st.sampled_from(range(rows)), unique=True).map(sorted) if rows else st.just([])
    old_rows, masked = draw(some_rows), draw(some_rows)
    old = [draw(st.binary(max_size=8)) for _ in old_rows]
    size = (len(relation.columns) + 7) // 8
    masks = b"".join([draw(st.binary(min_size=size, max_size=size)) for _ in masked])
    return Section(
        relation=relation, ops=ops, tx=array(INT32, txs),
        order=array(INT32, sorted(draw(st.lists(st.integers(0, 1 << 20), min_size=rows, max_size=rows)))),
        keys=b"".join(keys), key_offsets=_offsets(keys), rows=b"".join(tuples), row_offsets=_offsets(tuples),
        old_index=array(INT32, old_rows), old_keys=b"".join(old), old_offsets=_offsets(old),
        mask_index=array(INT32, masked), masks=masks,
    )  # fmt: skip


@st.composite
def batches(draw: st.DrawFn) -> ChangeBatch:
    """Any batch that a capture may send, and many that none does: heartbeats, parts, several tables."""
    positions = sorted(draw(st.lists(st.integers(1, (1 << 63) - 1), unique=True, max_size=6)))
    count = len(positions)
    part = draw(st.integers(0, 5)) if count == 1 else 0
    last = draw(st.booleans()) if count == 1 else True
    counted = st.lists(times_us, min_size=count, max_size=count)
    messages = st.builds(
        LogicalMessage, tx=st.integers(0, max(0, count - 1)), order=st.integers(0, 99), prefix=names,
        content=st.binary(),
    )  # fmt: skip
    return ChangeBatch(
        stream=draw(names), generation=draw(int64s), kind=draw(st.sampled_from(["live", "snapshot"])),
        previous_position=draw(st.integers(0, positions[0] - 1 if count else (1 << 63) - 1)),
        positions=array(INT64, positions), commit_times_us=array(INT64, draw(counted)),
        source_ids=array(INT64, draw(counted)),
        sections=draw(st.lists(sections(count), max_size=3)) if count else [],
        end_position=draw(int64s), captured_us=draw(times_us), part=part, last_part=last,
        messages=draw(st.lists(messages, max_size=2)) if count else [], run=draw(int64s),
    )  # fmt: skip


# -- the small world --------------------------------------------------------------------------------

ACCOUNT = table("account", [("id", "int8"), ("owner", "text")], ("id",))
ITEM = table(
    "item", [("id", "int8"), ("code", "text"), ("size", "int4")], ("id",), uniques=(("code",), ("size", "code"))
)  # fmt: skip
FULL = table("full", [("id", "int8"), ("code", "text")], ("id",), uniques=(("code",),), identity="f")
PAIR = table("pair", [("a", "int8"), ("b", "text")], ("a", "b"))
CHILD = table(
    "child", [("id", "int8"), ("account", "int4"), ("y", "text"), ("x", "int8")], ("id",),
    foreign_keys=(
        ForeignKey(("account",), (PUBLIC, "account"), ("id",)),  # narrower than the parent's key
        ForeignKey(("y", "x"), (PUBLIC, "pair"), ("b", "a")),  # not in the order of the parent's key
    ),
)  # fmt: skip
LINK = table(
    "link", [("n", "int8"), ("b", "text"), ("a", "int8")], ("n", "b", "a"),
    foreign_keys=(ForeignKey(("a", "b"), (PUBLIC, "pair"), ("a", "b")),),  # within the logged key
)  # fmt: skip
SELF = table(
    "self", [("id", "int8"), ("boss", "int8")], ("id",),
    foreign_keys=(ForeignKey(("boss",), (PUBLIC, "self"), ("id",)),),
)  # fmt: skip
AMOUNT = table("amount", [("id", "numeric"), ("owner", "text")], ("id",))
NOTE = table("note", [("text", "text"), ("n", "int8")], identity="f")
TABLES = (ACCOUNT, ITEM, FULL, PAIR, CHILD, LINK, SELF, AMOUNT, NOTE)

_few = st.integers(-1, 4)
_words = st.sampled_from("abcde")


@st.composite
def rows(draw: st.DrawFn, of: Table) -> Row:
    """A row whose values repeat often; a key has no NULL."""
    found: list[Value] = []
    for n, column in enumerate(of.relation.columns):
        null = n not in of.unique_key and draw(st.integers(0, 5)) == 0
        item: Value = draw(_few) if column.type.startswith("int") else draw(_words)
        found.append(None if null else item)
    return tuple(found)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Any change, whether or not its row exists."""
    of = draw(st.sampled_from(TABLES))
    op = draw(st.sampled_from([INSERT, UPDATE, UPDATE, DELETE]))
    old = draw(rows(of)) if op != INSERT else None
    new = draw(rows(of)) if op != DELETE else None
    left_out: frozenset[int] = frozenset()
    if op == UPDATE and old is not None and new is not None:
        if bool(of.unique_key) and draw(st.integers(0, 2)):
            new = tuple(old[n] if n in of.key else item for n, item in enumerate(new))
        others = [n for n in range(len(new)) if n not in of.key]
        if others and draw(st.integers(0, 3)) == 0:
            left_out = frozenset(n for n in others if draw(st.booleans()))
            new = tuple(old[n] if n in left_out else item for n, item in enumerate(new))
    return Change(of, op, old, new, left_out)


@st.composite
def windows(draw: st.DrawFn, transactions_max: int = 12) -> list[Transaction]:
    """The transactions of one batch; some are empty."""
    count = draw(st.integers(1, 3) | st.integers(transactions_max // 2, transactions_max))
    sizes = [draw(st.integers(0, 3)) for _ in range(count)]
    lists = [[draw(changes()) for _ in range(size)] for size in sizes]
    gaps = [draw(st.integers(1, 9)) for _ in range(count)]
    return [Transaction(at, tuple(found)) for at, found in zip(accumulate(gaps), lists, strict=True)]


def partition(items: list[Transaction], cuts: list[int]) -> list[list[Transaction]]:
    """Consecutive runs, cut where `cuts` say."""
    edges = [0, *sorted(set(cuts)), len(items)]
    return [items[start:end] for start, end in pairwise(edges) if items[start:end]]

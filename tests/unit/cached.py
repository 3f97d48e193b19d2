"""A cache, its log and its target in the small, for the tests of the row cache."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from pipeline.builder import BatchBuilder
from pipeline.cache.store import BlockStore
from pipeline.cache.stream_cache import StreamCache
from pipeline.cache.view import TargetView
from pipeline.catalogue import TableName
from pipeline.directory.block import BlockId, Owner
from schemas.change_batch import INSERT, TRUNCATE, ChangeBatch
from schemas.rows import pack_fields
from tests.properties.model import Change, Row, Table, pack_change, table, unpack_row

ACCOUNT = table("account", [("id", "int8"), ("owner", "text"), ("n", "int4")], ("id",))
NAME = ACCOUNT.relation.name
BUCKETS = 4


class Here:
    """This node masters everything."""

    def owner(self, block: BlockId) -> Owner:
        """Always `a`."""
        return Owner("a", 7)


def cache(generation: int = 1, position: int = 0, *, wanted: Set[TableName] | None = None) -> StreamCache:
    """A node's cache of the wanted tables, of all if none are named."""
    chosen = (lambda _: True) if wanted is None else wanted.__contains__
    return StreamCache("s", chosen, BUCKETS, "a", Here(), BlockStore(1 << 20), generation, position)


def key(n: int) -> bytes:
    return pack_fields([n.to_bytes(8, "big")])


def batch(builder: BatchBuilder, *transactions: tuple[int, list[Change]], last_part: bool = True) -> ChangeBatch:
    for position, changes in transactions:
        tx = builder.begin(position, 0, 0)
        for change in changes:
            pack_change(builder, tx, change)
    return builder.close("live", 0, 0, last_part=last_part)


def view(watermark: int, *applied: int, generation: int = 1) -> TargetView:
    return TargetView(generation, watermark, frozenset(applied))


def insert(row: Row, of: Table = ACCOUNT) -> Change:
    return Change(of, INSERT, None, row)


def row(found: StreamCache, n: int) -> Row | None:
    answer = found.read(ACCOUNT.relation, key(n))
    assert answer is not None, f"row {n} is not known"
    return None if answer.row is None else unpack_row(answer.row, answer.relation)


def snapshot(log: BatchBuilder, position: int, *rows: Row) -> ChangeBatch:
    """A part of a snapshot; without rows, the first part, which empties the table. Its rows have no keys."""
    columns = tuple(replace(column, key=False) for column in ACCOUNT.relation.columns)
    keyless = replace(ACCOUNT, relation=replace(ACCOUNT.relation, identity="n", columns=columns))
    tx = log.begin(position, 0, 0)
    for change in [insert(row, keyless) for row in rows] or [Change(keyless, TRUNCATE)]:
        pack_change(log, tx, change)
    return log.close("snapshot", 0, 0)

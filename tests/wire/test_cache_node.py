"""A node's reads while its cache begins anew under them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from connectors.rows import RowRead
from pipeline.cache.blocks import Block
from pipeline.cache.conflict import row_tag
from pipeline.cache.protocol import decode_request, encode_answer
from pipeline.cache.stream_cache import StreamCache
from pipeline.cache.view import TargetView
from pipeline.directory.block import BlockId
from pipeline.fusion.messages import Kind, Message, Priority
from schemas.change_batch import Relation
from schemas.rows import pack_fields
from tests.properties.model import fields, table
from topologies.cache_follower import StreamFollower
from topologies.cache_node import CacheNode, RowAnswer
from topologies.cache_reader import NotYetError, StreamReader
from topologies.cache_transfers import Fetched, Transfers
from topologies.settings_file import load_settings
from topologies.stream_settings import StreamConfig
from topologies.target_rows import connect_rows

ITEM = table("item", [("id", "int8"), ("n", "int8")], ("id",)).relation
KEY = pack_fields(fields((7,), Relation(0, "", "", "d", ITEM.columns[:1])))
CONFIG = """
[kafka]
bootstrap_servers = "127.0.0.1:9"
[[streams]]
name = "s"
cache = ["public.item"]
[streams.source]
dsn = "postgresql://localhost/a"
[streams.target]
dsn = "postgresql://localhost/b"
"""


class Rows:
    """A target that is at a watermark; `encode_key` is where a reader is held up."""

    def __init__(self, watermark: int, held_up: object) -> None:
        self._watermark, self._held_up = watermark, held_up

    def encode_key(self, key: Sequence[str], relation: Relation) -> bytes:
        """The cache begins anew meanwhile."""
        if callable(self._held_up):
            self._held_up()
        return KEY

    def read(self, table: tuple[str, str], key: Sequence[str], relation: Relation | None) -> RowRead:
        """No such row."""
        return RowRead(TargetView(1, self._watermark, frozenset()), ITEM, None, cacheable=True)

    def decode_row(self, relation: Relation, row: bytes) -> dict[str, object]:
        """Rows are not looked into here."""
        return {"row": row}

    def tables(self) -> list[Relation]:
        """None."""
        return []

    def view(self) -> tuple[TargetView, int]:
        """What is applied."""
        return TargetView(1, self._watermark, frozenset()), 0

    def close(self) -> None:
        """Nothing to close."""


def cache_at(node: CacheNode, follower: StreamFollower, position: int, row: bytes) -> StreamCache:
    """A cache that knows the row as of a position."""
    made = StreamCache("s", follower.wanted, 8, "local", node.members, node.store, 1, position)
    block = Block(ITEM, complete=True, version=position)
    block.put(KEY, row)
    node.store.drop_stream("s")
    made.warm([(made.block_id(ITEM.name, KEY), block)])
    made.see(TargetView(1, position, frozenset()))
    return made


def node_of_one_stream(tmp_path: Path) -> tuple[CacheNode, StreamFollower, StreamConfig]:
    """A node that is not started, and what follows its stream."""
    path = tmp_path / "headrace.toml"
    path.write_text(CONFIG)
    settings = load_settings(path)
    node, stream = CacheNode(settings), settings.streams[0]
    follower = StreamFollower(
        settings, stream, node.members, node.store, node.lock, lambda: connect_rows(stream), node.producer, print
    )
    return node, follower, stream


def read(tmp_path: Path, position: int, *, behind: bool, watermark: int) -> RowAnswer:
    """Read the row of a cache at 100, which begins anew at 50 after the reader's wait if `behind`."""
    node, follower, stream = node_of_one_stream(tmp_path)

    def begin_anew() -> None:
        follower.cache = cache_at(node, follower, 50, b"old")

    follower.cache = cache_at(node, follower, 100, b"new")
    reader = StreamReader(stream, follower)
    reader._rows = Rows(watermark, begin_anew if behind else None)
    node.readers["s"] = reader
    try:
        return asyncio.run(node.read("s", ITEM.name, ["7"], position, 0.1))
    finally:
        reader.pool.shutdown()


def tag(row: bytes) -> str:
    return row_tag(ITEM, row)


def test_a_cache_that_has_what_is_asked_for_answers(tmp_path: Path) -> None:
    assert read(tmp_path, 100, behind=False, watermark=50) == RowAnswer(100, {"row": b"new"}, "cache", tag(b"new"))


def test_a_cache_that_fell_behind_the_position_does_not_answer(tmp_path: Path) -> None:
    """The reader waited for 100, and what it finds then stands for 50."""
    assert read(tmp_path, 50, behind=True, watermark=100) == RowAnswer(50, {"row": b"old"}, "cache", tag(b"old"))
    with pytest.raises(NotYetError, match="the target is at 50, behind 100"):
        read(tmp_path, 100, behind=True, watermark=50)


def test_a_master_asks_a_holder_that_has_lost_the_block_once(tmp_path: Path) -> None:
    node, follower, stream = node_of_one_stream(tmp_path)
    follower.cache = StreamCache("s", follower.wanted, 8, "local", node.members, node.store, 1, 100)
    node.readers["s"] = StreamReader(stream, follower)
    node.members.see({"b"})
    block = next(found for n in range(8) if node.members.owner(found := BlockId("s", *ITEM.name, n)).node == "local")
    asked: list[str] = []

    async def run() -> None:
        def send(peer: str, message: Message) -> bool:
            asked.append(peer)
            answer = encode_answer(decode_request(message.body).number, b"")
            loop.call_soon(transfers.take, peer, Message(Kind.ABSENT, Priority.NORMAL, answer))
            return True

        loop, transfers = asyncio.get_running_loop(), Transfers(node, send)
        transfers.holders.note(block, "b")
        assert await transfers.fetch(block) is Fetched.ABSENT
        await transfers.fetch(block)

    asyncio.run(run())
    assert asked == ["b"]

"""The words of the directory: blocks, their buckets, their owners."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

BUCKETS_MAX = 1 << 31  # an Avro int


class BlockId(NamedTuple):
    """One bucket of one table's keys: what is cached, owned and moved as a whole.

    A tuple, since it is hashed and compared at every lookup.
    """

    stream: str
    schema: str
    table: str
    bucket: int

    def __str__(self) -> str:
        """`stream/schema/table/bucket`: the key in Kafka and the `block` of a GrdAffinity record."""
        return "/".join((*map(_quoted, self[:3]), str(self.bucket)))

    @classmethod
    def parse(cls, text: str) -> BlockId:
        """The block that `text` names. Raises ValueError for anything that `str` would not have written."""
        parts = text.split("/")
        if len(parts) == 4 and parts[3].isdecimal() and len(parts[3]) <= 10:
            block = cls(_plain(parts[0]), _plain(parts[1]), _plain(parts[2]), int(parts[3]))
            if str(block) == text and block.bucket < BUCKETS_MAX and all(block[:3]):
                return block
        raise ValueError(f"{text!r} names no block; write stream/schema/table/bucket, with % and / as %25 and %2F")


class Owner(NamedTuple):
    """The node that masters a block, and the epoch in which it does: a lower one is refused everywhere."""

    node: str
    epoch: int


def bucket_of(key: bytes, buckets: int) -> int:
    """The bucket of a key, 0..buckets-1; the same in every process and version."""
    return crc32(key) % buckets


def buckets_of(keys: Iterable[bytes], buckets: int) -> list[int]:
    """The buckets of keys."""
    return [crc32(key) % buckets for key in keys]


def partition_of(block: BlockId, partitions: int) -> int:
    """The block's partition in the directory's topics: where librdkafka puts its text (CRC-32 of the key)."""
    return hash_of(block) % partitions


def hash_of(block: BlockId) -> int:
    """CRC-32 of the block's text."""
    return crc32(str(block).encode())


def _quoted(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F") if "%" in name or "/" in name else name


def _plain(name: str) -> str:
    return name.replace("%2F", "/").replace("%25", "%")

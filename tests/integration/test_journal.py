"""The journal of blocks on a real broker: what is kept, what is dropped, and what compaction leaves of it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from connectors.postgres.values import decode_row, encode_key
from headrace.embedded import EmbeddedKafka, EmbeddedPostgres
from pipeline.cache.records import block_of
from pipeline.cache.store import BlockStore
from pipeline.cache.stream_cache import StreamCache
from pipeline.cache.view import TargetView
from pipeline.directory.block import BlockId
from schemas.block_image import encode_rows
from schemas.change_batch import Column
from schemas.fusion_block import FusionBlock, decode_fusion_block, encode_fusion_block
from tests.conftest import fresh_database
from tests.support.rig import Rig
from topologies.cache_journal import journal_records, read_blocks
from topologies.cache_members import Members
from topologies.kafka import make_admin
from topologies.topics import ensure_topics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
COLUMNS = (Column("id", "int8", key=True, binary=True), Column("note", "text", key=False, binary=True))
VERSIONS = 60
# Segments roll at once and are cleaned whenever they can be.
TINY = {
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.01",
    "min.compaction.lag.ms": "600000",  # until a test has seen what there is to compact
    "delete.retention.ms": "100",
}


@pytest.fixture(scope="module")
def rig(
    kafka: EmbeddedKafka, source_pg: EmbeddedPostgres, target_pg: EmbeddedPostgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rig]:  # fmt: skip
    """A stream whose `fusion` role alone runs, with tiny segments in the journal."""
    directory = tmp_path_factory.mktemp("rig")
    with (
        fresh_database(source_pg) as source,
        fresh_database(target_pg) as target,
        Rig(directory, kafka.bootstrap_servers, source, target, stream={"cache": ["public.*"]}) as rig,
    ):
        ensure_topics(make_admin(rig.settings), rig.settings)
        set_up_journal(rig, TINY)
        rig.start("fusion")
        yield rig


def set_up_journal(rig: Rig, values: dict[str, str]) -> None:
    """Change settings of the journal's topic."""
    entries = [ConfigEntry(n, v, incremental_operation=AlterConfigOpType.SET) for n, v in values.items()]
    topic = ConfigResource(ResourceType.TOPIC, rig.settings.topic("fusion-blocks"), incremental_configs=entries)
    admin = make_admin(rig.settings)
    for done in admin.incremental_alter_configs([topic]).values():
        done.result()


def block(rig: Rig, bucket: int, version: int, **changes: object) -> FusionBlock:
    image = encode_rows([(bucket.to_bytes(8, "big"), b"row %d of version %d" % (bucket, version) * 50)])
    usual = FusionBlock(
        rig.stream, "public", "t", bucket, 16, 7, version, 1, "a", complete=True, columns=COLUMNS, rows=1, image=image
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def name(found: FusionBlock) -> str:
    return str(BlockId(found.stream, found.schema, found.table, found.bucket))


def write(rig: Rig, kind: str, records: list[tuple[str, bytes | None]]) -> None:
    producer = Producer({"bootstrap.servers": rig.settings.kafka.bootstrap_servers})
    for key, value in records:
        producer.produce(rig.settings.topic(kind), value, key=key)
    assert producer.flush(40) == 0


def journal(rig: Rig) -> list[tuple[bytes, bytes | None]]:
    """All records of the journal that are still there."""
    return list(journal_records(rig.settings))


def newest(rig: Rig) -> dict[bytes, FusionBlock]:
    """What a reader of the whole journal ends with."""
    state = dict(journal(rig))
    return {key: decode_fusion_block(value) for key, value in state.items() if value is not None}


def test_the_newest_version_is_kept_and_compaction_changes_nothing(rig: Rig) -> None:
    dice = random.Random(4)
    records = [block(rig, bucket, 100 + n) for bucket in range(6) for n in range(VERSIONS)]
    dice.shuffle(records)
    # A master of the next epoch goes on from less; an older epoch and an older generation write later than it.
    last = [block(rig, 0, 90, epoch=2, node="b"), block(rig, 0, 999), block(rig, 1, 5000, generation=6)]
    write(rig, "fusion-updates", [(name(each), encode_fusion_block(each)) for each in [*records, *last]])
    write(rig, "fusion-updates", [
        (name(block(rig, 15, 1)), b"no record"), ("a/b/c/1", encode_fusion_block(block(rig, 2, 9000))),
        (name(block(rig, 14, 1, schema="other")), encode_fusion_block(block(rig, 14, 1, schema="other"))),
    ])  # fmt: skip
    markers = [block(rig, 13, 1, table=f"m{n}") for n in range(32)]  # behind everything, in every partition
    marked: list[tuple[str, bytes | None]] = [(name(each), encode_fusion_block(each)) for each in markers]
    write(rig, "fusion-updates", marked)
    rig.until(lambda: sum(b"/public/m" in key for key in newest(rig)) == 32, "the markers are journalled")
    wanted = {f"{rig.stream}/public/t/{b}".encode(): block(rig, b, 99 + VERSIONS) for b in range(1, 6)}
    wanted[f"{rig.stream}/public/t/0".encode()] = last[0]

    def blocks() -> dict[bytes, FusionBlock]:
        return {key: found for key, found in newest(rig).items() if b"/public/t/" in key}

    assert blocks() == wanted
    assert versions(rig) > 2 * len(wanted)
    set_up_journal(rig, {"min.compaction.lag.ms": "0"})

    def compacted() -> bool:
        write(rig, "fusion-updates", marked)  # an active segment is never cleaned: this begins new ones
        return versions(rig) == len(wanted)

    rig.until(compacted, "the journal is compacted")
    assert blocks() == wanted
    warmed = read_blocks(rig.settings, lambda found: found.table == "t" and found.bucket < 6, 1 << 30)
    assert {name(found).encode(): found for found in warmed} == wanted


def test_blocks_of_tables_that_are_cached_no_more_become_tombstones(rig: Rig) -> None:
    kept, gone = block(rig, 9, 5, table="kept"), block(rig, 9, 5, schema="dropped")
    write(rig, "fusion-updates", [(name(kept), encode_fusion_block(kept))])
    rig.until(lambda: name(kept).encode() in newest(rig), "a block is journalled")
    write(rig, "fusion-blocks", [(name(gone), encode_fusion_block(gone)), (name(kept) + "0", b"no record"),
          (name(kept) + "1", encode_fusion_block(kept))])  # fmt: skip
    wrong = {name(gone).encode(), *(f"{name(kept)}{n}".encode() for n in (0, 1))}
    assert name(gone).encode() in newest_keys(rig)
    rig.stop("fusion")
    rig.start("fusion")
    for n in range(32):
        each = block(rig, 9, 6, table=f"n{n}")
        write(rig, "fusion-updates", [(name(each), encode_fusion_block(each))])
    rig.until(lambda: not wrong & newest_keys(rig), "they are gone")
    assert name(kept).encode() in newest_keys(rig)


def test_a_program_of_somebody_else_writes_blocks(rig: Rig) -> None:
    arguments = {
        "servers": rig.settings.kafka.bootstrap_servers, "stream": rig.stream, "generation": 7, "position": 500,
        "prefix": rig.settings.kafka.topic_prefix, "buckets": 16, "schema": ROOT / "schemas" / "fusion_block.avsc",
    }  # fmt: skip
    options = [f"--{name}={value}" for name, value in arguments.items()]
    rows = {n: f"{n}.50" for n in range(1, 9)}
    program = str(ROOT / "examples" / "external_blocks.py")
    command = [sys.executable, program, *options, *(f"{n}={rows[n]}" for n in rows)]
    subprocess.run(command, check=True, timeout=50)

    def kept() -> list[FusionBlock]:
        return [found for found in newest(rig).values() if found.table == "price"]

    rig.until(lambda: sum(found.rows for found in kept()) == len(rows), "the journal has the rows")
    cache = StreamCache(rig.stream, lambda _: True, 16, "a", Members("a"), BlockStore(1 << 20), 7, 500)
    assert cache.warm(map(block_of, kept())) == len(kept())
    cache.see(TargetView(7, 500, frozenset()))
    relation = cache.relations["public", "price"]
    for number, amount in rows.items():
        answer = cache.read(relation, encode_key([str(number)], relation, no_server))
        assert answer is not None
        assert decode_row(relation, answer.row or b"") == {"id": number, "amount": amount}


def no_server(column: Column, text: str) -> bytes:
    raise AssertionError(f"a server is needed to tell the bytes of {column.name} {text}")


def newest_keys(rig: Rig) -> set[bytes]:
    """The keys that have a value at the end of the journal."""
    return {key for key, value in dict(journal(rig)).items() if value is not None}


def versions(rig: Rig) -> int:
    """How many records of the test's blocks the journal has, old ones too."""
    return sum(b"/public/t/" in key for key, _ in journal(rig))

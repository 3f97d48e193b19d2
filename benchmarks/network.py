"""Bytes on the broker: the topics `changes` and `units` together, beside one record a row as JSON and as Avro.

The same row changes of a TPC-B load are sent by one producer to one topic a table: as Debezium's JSON envelope
without schemas, and as the same envelope in Avro with the schema registry's five-byte header. Both keep
Debezium's defaults: uncompressed, batches as the producer forms them. The same with LZ4 is shown for comparison.
What counts is the size of the partitions' log segments, which is what crosses the network once to each
reader.
"""

from __future__ import annotations

import argparse
import datetime
import json
import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from statistics import median

import fastavro
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import chart
from benchmarks.contestants import Backlog, Headrace
from benchmarks.drain import fill, prepare_template
from benchmarks.loads import LOADS
from benchmarks.servers import Servers, servers
from benchmarks.store import Run, Sample, samples, spread, values
from schemas.change_batch import ChangeBatch, Relation
from schemas.change_batch_codec import decode_batch
from schemas.rows import Field, row_fields

TITLE = "Bytes on the broker"
OURS = "Headrace, changes and units"
RIVALS = ("JSON a row", "Avro a row", "JSON a row, LZ4", "Avro a row, LZ4")
_AVRO_TYPES = {"int4": "int", "int8": "long"}
Value = int | str | None
Envelope = dict[str, object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--transactions", type=int, default=20_000)
    parser.add_argument("--lanes", type=int, default=4, help="apply lanes of Headrace")


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Yield a sample a format and repetition."""
    load = LOADS["tpcb"]
    with servers() as bench:
        prepare_template(bench, load)
        for seed in range(given.first_seed, given.first_seed + given.repetitions):
            load.initialise(bench, bench.source, "postgres")
            backlog = Backlog()
            contestant = Headrace(bench, load, f"hr{seed}", "off", backlog, lanes=given.lanes)
            fill(bench, load, backlog, given.transactions, seed)
            contestant.start()
            contestant.wait()
            contestant.stop()
            contestant.check()
            batches = _captured(bench, contestant.name)
            rows = sum(batch.rows() for batch in batches)
            ours = sum(_log_bytes(bench, f"bench_{contestant.name}.{topic}") for topic in ("changes", "units"))
            yield Sample(OURS, seed, {"bytes": ours, "rows": rows, "bytes a row": ours / rows})
            for case in RIVALS:
                size = _send_rows(bench, batches, case, f"rival.{seed}.{RIVALS.index(case)}")
                yield Sample(case, seed, {"bytes": size, "rows": rows, "bytes a row": size / rows})
            contestant.drop()


def _captured(bench: Servers, name: str) -> list[ChangeBatch]:
    consumer = Consumer(
        {"bootstrap.servers": bench.kafka.bootstrap_servers, "group.id": "bench", "enable.auto.commit": False}
    )
    where = TopicPartition(f"bench_{name}.changes", 0, 0)
    _, end = consumer.get_watermark_offsets(where, timeout=10)
    consumer.assign([where])
    batches: list[ChangeBatch] = []
    try:
        while len(batches) < end:
            found = consumer.consume(100, timeout=1)
            batches += [decode_batch(message.value() or b"") for message in found if message.error() is None]
    finally:
        consumer.close()
    return batches


def _log_bytes(bench: Servers, topic: str) -> float:
    """Size of a topic's segments on disk."""
    data = bench.kafka.home / "data"
    return float(sum(path.stat().st_size for path in data.glob(f"{topic}-*/*.log")))


def _send_rows(bench: Servers, batches: Sequence[ChangeBatch], case: str, topic: str) -> float:
    """Send every row change as one record; return the bytes of their topics."""
    broker = bench.kafka.bootstrap_servers
    producer = Producer({
        "bootstrap.servers": broker, "compression.type": "lz4" if "LZ4" in case else "none", "acks": "all",
        "linger.ms": 5, "queue.buffering.max.messages": 1_000_000,
    })  # fmt: skip
    tables = {section.relation.table: section.relation for batch in batches for section in batch.sections}
    admin = AdminClient({"bootstrap.servers": broker})
    for future in admin.create_topics([NewTopic(f"{topic}.{table}", 1, 1) for table in tables]).values():
        future.result(10)
    encoders = {table: _Encoder(relation, avro=case.startswith("Avro")) for table, relation in tables.items()}
    for batch in batches:
        for table, key, envelope in _envelopes(batch):
            record_key, value = encoders[table].encode(key, envelope)
            producer.produce(f"{topic}.{table}", value, record_key)
        producer.poll(0)
    if producer.flush(60):
        raise TimeoutError(f"{topic}: not every record was acknowledged")
    return sum(_log_bytes(bench, f"{topic}.{table}") for table in tables)


class _Encoder:
    """Key and envelope of one table as JSON or Avro."""

    def __init__(self, relation: Relation, *, avro: bool) -> None:
        row = [{"name": c.name, "type": ["null", _AVRO_TYPES.get(c.type, "string")]} for c in relation.columns]
        key = [{"name": c.name, "type": ["null", _AVRO_TYPES.get(c.type, "string")]} for c in relation.columns if c.key]
        source = [(name, "string") for name in ("version", "connector", "name", "snapshot", "db", "schema", "table")]
        source += [(name, "long") for name in ("ts_ms", "txId", "lsn")]
        self._avro = avro
        self._key = fastavro.parse_schema({"type": "record", "name": "Key", "fields": key})
        self._value = fastavro.parse_schema({"type": "record", "name": "Envelope", "fields": [
            {"name": "before", "type": ["null", {"type": "record", "name": "Value", "fields": row}]},
            {"name": "after", "type": ["null", "Value"]},
            {"name": "source", "type": {"type": "record", "name": "Source", "fields": [
                {"name": name, "type": kind} for name, kind in source
            ]}},
            {"name": "op", "type": "string"}, {"name": "ts_ms", "type": "long"},
        ]})  # fmt: skip

    def encode(self, key: Envelope, value: Envelope) -> tuple[bytes, bytes]:
        """Return key and value, the key first."""
        if self._avro:
            return _avro_bytes(self._key, key), _avro_bytes(self._value, value)
        return _json_bytes(key), _json_bytes(value)


def _json_bytes(datum: Envelope) -> bytes:
    return json.dumps(datum, separators=(",", ":")).encode()


def _avro_bytes(schema: object, datum: Envelope) -> bytes:
    out = BytesIO()
    out.write(b"\0\0\0\0\1")
    fastavro.schemaless_writer(out, schema, datum)  # type: ignore[arg-type]
    return out.getvalue()


def _envelopes(batch: ChangeBatch) -> Iterator[tuple[str, Envelope, Envelope]]:
    """Table, key and Debezium's envelope of every row change (default replica identity: no old row)."""
    for section in batch.sections:
        relation = section.relation
        for op, tx, row in zip(section.ops, section.tx, section.row_list(), strict=True):
            fields = row_fields(row, len(relation.columns))
            after = {c.name: _value(c.type, field) for c, field in zip(relation.columns, fields, strict=True)}
            ms = batch.commit_times_us[tx] // 1000
            source = {
                "version": "3.6.0.Final", "connector": "postgresql", "name": "bench", "snapshot": "false",
                "db": "postgres", "schema": relation.schema, "table": relation.table, "ts_ms": ms,
                "txId": batch.source_ids[tx], "lsn": batch.positions[tx],
            }  # fmt: skip
            envelope: Envelope = {
                "before": None, "after": after, "source": source, "op": {73: "c", 85: "u"}[op], "ts_ms": ms + 1,
            }  # fmt: skip
            yield relation.table, {c.name: after[c.name] for c in relation.columns if c.key}, envelope


def _value(kind: str, field: Field) -> Value:
    if field is None:
        return None
    if kind in _AVRO_TYPES:
        return int.from_bytes(field, "big", signed=True)
    if kind == "timestamp":
        (us,) = struct.unpack("!q", field)
        return str(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=us))
    return field.decode()


_WHY = (
    "Every transaction is in both of Headrace's topics, once as captured and once as planned; each copy is as small as "
    "one of the rivals' compressed rows, although it carries what a whole transaction needs."
)


# -- the section of RESULTS.md ---------------------------------------------------------------------


def section(runs: Sequence[Run]) -> str:
    """The section's text."""
    found = samples(runs)
    lines = [
        "TPC-B, four row changes a transaction. `make bench-network`", "",
        "| format | bytes a row change, median (range) | of JSON | of Avro |", "|---|---|---|---|",
    ]  # fmt: skip
    json_size, avro_size = (median(values(found, case, "bytes a row")) for case in RIVALS[:2])
    for case in (OURS, *RIVALS):
        sizes = values(found, case, "bytes a row")
        mid = median(sizes)
        lines.append(f"| {case} | {spread(sizes, '.1f')} | {mid / json_size:.0%} | {mid / avro_size:.0%} |")
    lines += ["", _WHY]
    return "\n".join(lines)


def charts(runs: Sequence[Run]) -> list[str]:
    """Write the section's chart; return its name."""
    found = samples(runs)
    cases = (*RIVALS, OURS)
    sizes = [round(median(values(found, case, "bytes a row")), 1) for case in cases]
    chart.bars("network", "Bytes a row change", cases, {"bytes": sizes})
    return ["network"]

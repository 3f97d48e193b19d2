"""The baseline: one prepared statement a row and one commit a source transaction, pipelined over the connection.

`ROWWISE_DSN=... python -m benchmarks.rowwise BOOTSTRAP TOPIC SYNCHRONOUS_COMMIT` applies a changes topic, from its
start, until it is killed. It is as fast as this way goes: statements are prepared once, values stay in wire format, and
many transactions are on their way before the first answer is read (libpq's pipeline mode). Each writes its position in
its own transaction, as any exactly-once consumer must.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import groupby

from confluent_kafka import Consumer, TopicPartition

from connectors.postgres.catalogue import read_catalogue
from connectors.postgres.errors import connect
from connectors.postgres.ordered import RowWriter
from connectors.postgres.pipelined import Statement, StatementPipeline
from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch

ENV_DSN = "ROWWISE_DSN"  # not an argument: those are shown to everybody on the machine
BEGIN, COMMIT = Statement(b"BEGIN", [], []), Statement(b"COMMIT", [], [])
PROGRESS = b"UPDATE bench_progress SET position = $1::int8, transactions = transactions + 1"


def main(bootstrap: str, topic: str, synchronous_commit: str) -> None:
    """Apply until killed."""
    dsn = os.environ[ENV_DSN]
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "rowwise", "enable.auto.commit": False,
        "fetch.max.bytes": 16 * 2**20, "max.partition.fetch.bytes": 8 * 2**20,
    })  # fmt: skip
    consumer.assign([TopicPartition(topic, 0, 0)])
    with connect(dsn, "bench rowwise", synchronous_commit=synchronous_commit) as conn:
        conn.prepare_threshold = None
        conn.execute("SET session_replication_role = replica")
        conn.execute("CREATE TABLE bench_progress (position bigint, transactions bigint)")
        conn.execute("INSERT INTO bench_progress VALUES (0, 0)")
        pipeline = StatementPipeline(conn)
        writer = RowWriter(conn, pipeline, read_catalogue(conn), enforced=False)
        while True:
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                pipeline.run(_statements(writer, decode_batch(message.value() or b"")))


def _statements(writer: RowWriter, batch: ChangeBatch) -> Iterator[Statement]:
    for position, changes in groupby(writer.changes([batch]), key=lambda change: change.position):
        yield BEGIN
        yield from (change.statement for change in changes)
        yield Statement(PROGRESS, [str(position).encode()], [0])
        yield COMMIT


if __name__ == "__main__":
    main(*sys.argv[1:])

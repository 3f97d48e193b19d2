"""Before a capture begins: where it goes on, and what its target has to have by then."""

from __future__ import annotations

import logging
from contextlib import closing

from connectors.base import load_connector
from connectors.source import Tail
from pipeline.errors import RetriableError, StreamStoppedError
from schemas.change_batch_codec import decode_batch
from schemas.errors import SchemaError
from topologies.apart import require_apart
from topologies.kafka import last_record
from topologies.settings import Settings
from topologies.stream_parts import connect_ledger
from topologies.stream_settings import StreamConfig

log = logging.getLogger(__name__)


def find_tail(settings: Settings, stream: StreamConfig) -> Tail | None:
    """The end of what the changes topic has of the stream; None where it is a new one.

    Raises StreamStoppedError when records were lost, or can't be read.
    """
    topic, partition = settings.topic("changes"), settings.numbers()[stream.name]
    where = f"topic {topic}, partition {partition}"
    record = last_record(settings, topic, partition)
    if record is None:
        _require_new(stream, where)
        return None
    try:
        batch = decode_batch(record)
    except SchemaError as error:
        raise StreamStoppedError(
            f"stream {stream.name}: the last record of {where} can't be read: {error}. If a newer version wrote it, "
            f"upgrade, else stop all roles and `headrace resync --stream {stream.name} --yes`."
        ) from error
    position = batch.last_position if batch.last_part else batch.previous_position
    return Tail(batch.generation, position, batch.kind == "snapshot" and not batch.table_copy, batch.end_position)


def _require_new(stream: StreamConfig, where: str) -> None:
    """An empty topic is right for a new stream only: otherwise records were lost."""
    with closing(connect_ledger(stream)) as ledger:
        row = ledger.stream_row()
    if row is not None and row.generation:
        raise StreamStoppedError(
            f"stream {stream.name}: {where} is empty, but the ledger has applied up to position {row.watermark}: the "
            "topic was deleted, or its retention is shorter than the outage. Changes may be lost. Take a new "
            f"snapshot: stop all roles, then `headrace resync --stream {stream.name} --yes`."
        )


def tail_text(tail: Tail | None) -> str:
    """How a capture starts, for the log."""
    if tail is None:
        return "anew"
    if tail.snapshot_open:
        return "with a new snapshot: the last one was not finished"
    return f"after position {tail.position}"


def prepare_target(stream: StreamConfig, *, anew: bool) -> bool:
    """Create what the target lacks, before anything that needs it is sent; whether values must travel as text.

    A stream that goes on does not wait for a target that is away. Raises ConfigError, RetriableError.
    """
    source = load_connector(stream.source.connector).source_admin
    target = load_connector(stream.target.connector).target_admin
    if source is None or target is None:
        return True
    here = source(stream.name, stream.source_settings())
    there = target(stream.name, stream.target_settings())
    try:
        require_apart(stream.name, stream.source_settings(), here, there)
        if stream.target.create_tables == "missing":
            for line in there.create_missing(here.definitions()):
                log.info("stream %s: created on the target: %s", stream.name, line)
        releases = here.release(), there.release()
    except RetriableError as error:
        if anew:
            raise
        log.warning("%s; values travel as text until the capture starts again", error)
        return True
    if releases[0] != releases[1]:
        log.info("stream %s: values travel as text from %s to %s", stream.name, *releases)
    return releases[0] != releases[1]

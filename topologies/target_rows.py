"""The targets of cached streams: opened for single rows, and asked which tables they have."""

from __future__ import annotations

import logging

from connectors.base import load_connector
from connectors.errors import RefusedError
from connectors.rows import TargetRows
from pipeline.cache.orphans import TargetTables
from pipeline.errors import ConfigError, HeadraceError
from topologies.settings import Settings
from topologies.stream_settings import StreamConfig

log = logging.getLogger(__name__)


def connect_rows(stream: StreamConfig) -> TargetRows:
    """Open the target for single rows. Raises ConfigError, RetriableError."""
    make = load_connector(stream.target.connector).rows
    if make is None:
        raise ConfigError(f"stream {stream.name}: connector {stream.target.connector} can't read single rows")
    return make(stream.name, stream.target_settings())


def target_tables(settings: Settings) -> dict[str, TargetTables]:
    """The tables of each target that answers, by stream. One that is away, or has no ledger yet, is left out."""
    found = {}
    for stream in settings.cached_streams():
        try:
            found[stream.name] = _tables(stream)
        except (HeadraceError, RefusedError) as error:
            log.debug("stream %s: %s", stream.name, error)
    return found


def _tables(stream: StreamConfig) -> TargetTables:
    """Raises ConfigError, RetriableError, RefusedError."""
    rows = connect_rows(stream)
    try:
        # The tables are those of when the connection was opened: one that was created since costs its blocks, which
        # come again with its next changes.
        view, _ = rows.view()
        return TargetTables(view.generation, view.watermark, {relation.name for relation in rows.tables()})
    finally:
        rows.close()

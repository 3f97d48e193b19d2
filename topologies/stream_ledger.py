"""A stream's ledger, as the stages open it."""

from __future__ import annotations

from connectors.base import load_connector
from connectors.ledger import Ledger
from pipeline.errors import ConfigError
from topologies.stream_settings import StreamConfig


def connect_ledger(stream: StreamConfig) -> Ledger:
    """A connection to the ledger in the stream's target, to be closed. Raises ConfigError, RetriableError."""
    make = load_connector(stream.target.connector).ledger
    if make is None:
        raise ConfigError(f"stream {stream.name}: connector {stream.target.connector} is no target")
    return make(stream.name, stream.target_settings())

"""The parts of a stream's connectors, as the stages and the commands open them."""

from __future__ import annotations

from typing import Literal, TypeVar

from connectors.base import load_connector
from connectors.ledger import Ledger
from pipeline.errors import ConfigError
from topologies.stream_settings import StreamConfig

Part = TypeVar("Part")


def required(part: Part | None, stream: StreamConfig, side: Literal["source", "target"]) -> Part:
    """`part`, which the connector of that side has. Raises ConfigError where it has none."""
    if part is None:
        connector = stream.source.connector if side == "source" else stream.target.connector
        raise ConfigError(f"stream {stream.name}: connector {connector} is no {side}")
    return part


def connect_ledger(stream: StreamConfig) -> Ledger:
    """A connection to the ledger in the stream's target, to be closed. Raises ConfigError, RetriableError."""
    make = required(load_connector(stream.target.connector).ledger, stream, "target")
    return make(stream.name, stream.target_settings())

"""The parts of a stream's connectors that commands use, made from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing

from connectors.admin import SourceAdmin, TargetAdmin
from connectors.base import Connector, TableCheck, load_connector
from connectors.dead_letters import DeadLetters
from connectors.ledger import Ledger
from connectors.settings import SourceSettings, TargetSettings
from pipeline.errors import ConfigError
from topologies.settings import Settings
from topologies.stream_parts import connect_ledger, required
from topologies.stream_settings import StreamConfig


def chosen_streams(settings: Settings, name: str | None) -> Sequence[StreamConfig]:
    """The stream of that name, or all. Raises ConfigError for a name that there is none of."""
    return settings.streams if name is None else [settings.stream(name)]


def source_admin(stream: StreamConfig) -> SourceAdmin:
    """The source's side of commands. Raises ConfigError."""
    make = required(load_connector(stream.source.connector).source_admin, stream, "source")
    return make(stream.name, stream.source_settings())


def target_admin(stream: StreamConfig) -> TargetAdmin:
    """The target's side of commands. Raises ConfigError."""
    make = required(load_connector(stream.target.connector).target_admin, stream, "target")
    return make(stream.name, stream.target_settings())


def dead_letters(stream: StreamConfig) -> DeadLetters:
    """The dead letters at the target. Raises ConfigError."""
    make = load_connector(stream.target.connector).dead_letters
    if make is None:
        raise ConfigError(f"stream {stream.name}: connector {stream.target.connector} keeps no dead letters")
    return make(stream.name, stream.target_settings())


def open_ledger(stream: StreamConfig) -> AbstractContextManager[Ledger]:
    """A connection to the stream's ledger. Raises ConfigError, RetriableError."""
    return closing(connect_ledger(stream))


def position_text(stream: StreamConfig, generation: int, position: int) -> str:
    """A position as the source database writes it. Raises ConfigError."""
    make = load_connector(stream.source.connector).position_text
    return make(generation, position) if make is not None else str(position)


def parse_position(stream: StreamConfig, text: str) -> int:
    """The position that `text` means: a number, or as the source database writes it. Raises ConfigError."""
    parse = load_connector(stream.source.connector).parse_position
    try:
        return int(text) if text.isdecimal() or parse is None else parse(text)
    except ValueError:
        raise ConfigError(f"stream {stream.name}: {text!r} is no position of its source") from None


def comparison(stream: StreamConfig) -> Callable[[SourceSettings, TargetSettings], Iterator[TableCheck]]:
    """What compares source and target, by the source's connector. Raises ConfigError."""
    connector: Connector = load_connector(stream.source.connector)
    if connector.verify is None:
        raise ConfigError(f"stream {stream.name}: connector {connector.name} cannot compare source and target")
    return connector.verify

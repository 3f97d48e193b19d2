"""A connector: the parts that one database offers, and how an installed one is found.

A new database is one folder with a `CONNECTOR` object and one entry-point line in group
`headrace.connectors`; nothing else in the code names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points

from connectors.admin import SourceAdmin, TargetAdmin
from connectors.dead_letters import DeadLetters
from connectors.lane import LaneTarget
from connectors.ledger import Ledger
from connectors.rows import TargetRows
from connectors.settings import SourceSettings, TargetSettings
from connectors.source import Source
from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TableCheck:
    """Row counts of one table on both sides, and how many rows differ."""

    table: str
    source_rows: int
    target_rows: int
    differences: int


@dataclass(frozen=True, slots=True)
class Connector:
    """The parts of one database. Each maker takes the stream's name first."""

    name: str
    source: Callable[[str, SourceSettings], Source] | None = None
    source_admin: Callable[[str, SourceSettings], SourceAdmin] | None = None
    ledger: Callable[[str, TargetSettings], Ledger] | None = None
    lane_target: Callable[[str, int, TargetSettings], LaneTarget] | None = None
    target_admin: Callable[[str, TargetSettings], TargetAdmin] | None = None
    dead_letters: Callable[[str, TargetSettings], DeadLetters] | None = None
    rows: Callable[[str, TargetSettings], TargetRows] | None = None
    verify: Callable[[SourceSettings, TargetSettings], Iterator[TableCheck]] | None = None
    position_text: Callable[[int, int], str] | None = None  # of (generation, position), as the database writes it
    parse_position: Callable[[str], int] | None = None  # the other way; raises ValueError
    check_dsn: Callable[[str], None] | None = None  # raises ValueError, with nothing of the DSN in its text


@cache  # the entry points of all installed packages are read for one: 30 ms
def load_connector(name: str) -> Connector:
    """Return the installed connector of that name. Raises ConfigError naming the ones there are."""
    found = entry_points(group="headrace.connectors")
    if name not in found.names:
        raise ConfigError(f"connector {name!r} is not installed; there are: {', '.join(sorted(found.names))}")
    connector = found[name].load()
    if not isinstance(connector, Connector):
        raise ConfigError(f"connector {name!r}: its entry point is no Connector")
    return connector

"""What a connector offers: a source of change batches, a target for units, and their settings.

A new database is one folder with a `CONNECTOR` object and one entry-point line in group
`headrace.connectors`; nothing else in the code names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from connectors.dead_letters import DeadLetters
from connectors.settings import SourceSettings as SourceSettings
from connectors.settings import TargetSettings as TargetSettings
from pipeline.cache.view import TargetView
from pipeline.catalogue import Catalogue, TableName
from pipeline.definitions import SequenceState, TableDefinition
from pipeline.errors import ConfigError, HeadraceError
from pipeline.fence import Fenced, LaneRow
from pipeline.planner import Restart
from schemas.change_batch import ChangeBatch, Relation
from schemas.dead_letter import DeadLetter


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of what a stream has in its changes topic.

    `position` is the last whole transaction's, `end_position` where the source goes on (0: not known).
    `snapshot_open` says that a snapshot was not finished.
    """

    generation: int
    position: int
    snapshot_open: bool
    end_position: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a preflight check. A blocker keeps the stream from starting."""

    blocker: bool
    subject: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A stream's row in the ledger; `stopped` is the text of the error that stopped it, or empty."""

    epoch: int
    generation: int
    watermark: int
    watermark_time_us: int
    changes_offset: int
    stopped: str


@dataclass(frozen=True, slots=True)
class TableCheck:
    """Row counts of one table on both sides, and how many rows differ."""

    table: str
    source_rows: int
    target_rows: int
    differences: int


class Source(Protocol):
    """A source database as one stream of change batches."""

    def batches(self, tail: Tail | None) -> Iterator[ChangeBatch | None]:
        """Yield batches that continue `tail`, forever; None when there was nothing for a moment.

        Without a tail the stream starts anew (with a snapshot if the settings say so). Never blocks for
        more than 100 ms. Raises ConfigError, StreamStoppedError, RetriableError.
        """

    def confirm(self, end_position: int) -> None:
        """Allow the source to forget what lies at or below `end_position`: Kafka has acknowledged it."""

    def copy_tables(self, tables: Collection[TableName]) -> None:
        """Send these tables (by their names on the target) anew among the changes, soon; see `pipeline.table_copies`.

        Comes back at once. What can't be copied now is tried again.
        """

    def keepalive(self) -> None:
        """Tell the source that this consumer lives, while back-pressure keeps it from reading."""

    def close(self) -> None:
        """Drop the connections. The slot stays."""


class SourceAdmin(Protocol):
    """What commands ask of a source; every call opens and closes its own connection."""

    def check(self) -> list[Finding]:
        """Preflight."""

    def tables(self) -> list[tuple[str, str]]:
        """The tables that the stream replicates by their names on the target, parents before children."""

    def release(self) -> str:
        """What the server is; two of one release understand each other's binary values."""

    def definitions(self) -> list[TableDefinition]:
        """What a target needs to have of these tables, by its own names."""

    def sequences(self) -> list[SequenceState]:
        """The sequences of the stream's tables, as they stand."""

    def slot_exists(self) -> bool:
        """Whether the stream's slot exists."""

    def mark(self) -> int:
        """Write a marker transaction; return a position: its own or lower, above all commits before the call."""

    def current_position(self) -> int:
        """The source's newest position."""

    def drop(self) -> list[str]:
        """Remove what the stream created; return what was removed, a line each."""

    def drop_slot(self) -> list[str]:
        """Remove the stream's slot, ending a capture that uses it; return what was removed, a line each."""


@dataclass(frozen=True, slots=True)
class UnitGroup:
    """Queued units of one lane merged into one target transaction: first_seq..last_seq of `epoch`.

    `serial` selects source order row by row. `behind` holds, for each transaction of a unit that is to be
    parked, the parked positions that it depends on.
    """

    stream: str
    generation: int
    lane: int
    epoch: int
    first_seq: int
    last_seq: int
    next_offset: int
    batches: Sequence[ChangeBatch]
    serial: bool = False
    behind: Sequence[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """What a commit did. `fenced` is set when the ledger refused the group, and nothing was changed.

    `closed` says that transactions were parked and the epoch is closed: nothing more is admitted in it.
    """

    rows: int = 0
    closed: bool = False
    fenced: Fenced | None = None


class RefusedError(Exception):
    """The target refuses the data itself (integrity, data type): the ordered way or an operator decides."""

    def __init__(self, message: str, sqlstate: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class SchemaChangeError(RefusedError):
    """The source's table has changed in a way that the target may not follow by itself. Never poison: it stops."""

    def __init__(self, message: str, relation: Relation) -> None:
        super().__init__(message, "HR010")
        self.relation = relation


class KeyTextError(HeadraceError):
    """A key in a request names no table or does not fit its key columns."""


class LaneTarget(Protocol):
    """One lane's connection to the target. Used by one thread; keeps no state that matters."""

    def lane_row(self) -> LaneRow:
        """Read the lane's ledger row. Raises RetriableError."""

    def lane_seqs(self, epoch: int) -> dict[int, int]:
        """Read the applied seq of every lane of the stream; empty when the ledger's epoch is another."""

    def stream_row(self) -> StreamRow:
        """Read the stream's ledger row."""

    def apply(self, group: UnitGroup) -> Applied:
        """Apply and commit `group` with its ledger entries in one transaction.

        The fence is the transaction's first statement. Raises RefusedError (rolled back), RetriableError
        (the outcome of a COMMIT may be unknown: read the lane row, then decide).
        """

    def apply_part(self, group: UnitGroup, *, first: bool) -> Applied:
        """Apply a part of a large transaction and leave the target transaction open for the next.

        `first` rolls an unfinished one back. No ledger row is locked before the last part, so a planner can
        take over meanwhile; a unit of an older epoch is refused at the next part.
        """

    def apply_last(self, group: UnitGroup) -> Applied:
        """Apply the last part of a large transaction and commit all its parts; fenced like `apply`."""

    def park(self, group: UnitGroup) -> Applied:
        """Keep the transactions of `group` as dead letters, and count them as applied; fenced like `apply`."""

    def apply_or_park(self, group: UnitGroup) -> Applied:
        """Apply the transactions of `group` one by one in source order, in one target transaction.

        One that is refused is kept as a dead letter, and so is one that depends on a kept one. When there are
        any, the same target transaction closes the epoch: units planned in it don't know of them.
        """

    def unpublished_letters(self) -> list[DeadLetter]:
        """Return the next dead letters of the stream that the topic may not have yet."""

    def mark_published(self, letters: Sequence[DeadLetter]) -> None:
        """Note that the topic has `letters`."""

    def stop_stream(self, reason: str) -> None:
        """Write the reason that stops the stream into the ledger."""

    def close(self) -> None:
        """Drop the connection; an open transaction is rolled back by the server."""


class Ledger(Protocol):
    """The planner's and the commands' view of the ledger. One connection, used by one thread at a time."""

    def ensure(self) -> None:
        """Create the ledger and the stream's rows if they are missing."""

    def takeover(self) -> Restart:
        """Raise the epoch of the stream and all its lanes; return where to start. Rule 3."""

    def advance(self, epoch: int, generation: int, watermark: int, time_us: int, changes_offset: int) -> bool:
        """Move the watermark and delete `applied` rows below it; False when `epoch` is not current."""

    def stop(self, reason: str) -> None:
        """Write the reason that stops the stream, unless one is there already."""

    def request_resync(self, tables: Sequence[tuple[str, str]], changes_offset: int) -> int:
        """Forget all progress and dead letters, and have the next capture copy `tables` anew, emptied first.

        `changes_offset`: where planners go on. Return the number of dead letters there were.
        """

    def resync_requested(self) -> bool:
        """Whether a new snapshot is wanted."""

    def clear_resync(self) -> None:
        """Note that the new snapshot has begun."""

    def request_copies(self, tables: Sequence[TableName]) -> None:
        """Have single tables copied anew while the stream goes on; until then their changes are left out.

        Raises ConfigError when the stream is to be copied as a whole.
        """

    def requested_copies(self) -> list[TableName]:
        """The tables whose copy is wanted, and is not in Kafka yet."""

    def copies_sent(self, tables: Sequence[TableName]) -> None:
        """Note that Kafka has the copies of these tables."""

    def clear_stop(self) -> None:
        """Forget the reason that stopped the stream: an operator starts it again."""

    def is_current(self, epoch: int) -> bool:
        """Whether `epoch` still rules: no other planner took over, no crash of the target lost commits of it."""

    def is_closed(self, epoch: int) -> bool:
        """Whether `epoch` was closed by dead letters: nothing of it is lost, and nothing more is admitted."""

    def stream_row(self) -> StreamRow | None:
        """Read the stream's row; None before the stream was ever started."""

    def lane_rows(self) -> dict[int, LaneRow]:
        """Read all lane rows of the stream."""

    def applied(self) -> dict[int, frozenset[int]]:
        """Read the applied positions above the watermark, by generation; nothing is changed."""

    def catalogue(self) -> Catalogue:
        """Read the tables of the target."""

    def totals(self) -> tuple[int, int]:
        """Transactions and rows applied since the stream began."""

    def anomalies(self) -> tuple[int, int]:
        """Rows that were missing, and rows that were there already, since the stream began."""

    def parked_count(self) -> int:
        """The number of dead letters."""

    def drop(self) -> list[str]:
        """Remove the stream's rows; return what was removed, a line each."""

    def close(self) -> None:
        """Drop the connection."""


class TargetAdmin(Protocol):
    """What commands ask of a target."""

    def check(self, tables: Sequence[tuple[str, str]]) -> list[Finding]:
        """Preflight for the stream's tables."""

    def release(self) -> str:
        """What the server is, as `SourceAdmin.release`."""

    def create_missing(self, tables: Sequence[TableDefinition]) -> list[str]:
        """Create the tables that are not there; returns what was done, a line each. Raises ConfigError."""

    def set_sequences(self, states: Sequence[SequenceState]) -> list[str]:
        """Set the target's sequences at least as far as these; returns a line for each."""


@dataclass(frozen=True, slots=True)
class RowRead:
    """A row of the target (None: there is none) and the ledger in the same snapshot.

    `cacheable`: the row's bytes are what the source would have logged.
    """

    view: TargetView
    relation: Relation
    row: bytes | None
    cacheable: bool


class TargetRows(Protocol):
    """Single rows of a target, for a cache. One connection, used by one thread at a time."""

    def tables(self) -> list[Relation]:
        """The tables that have a primary key, with the columns that a source of the same types logs."""

    def view(self) -> tuple[TargetView, int]:
        """What is applied, and the offset in `changes` that goes with the watermark. Raises RetriableError."""

    def read(self, table: TableName, key: Sequence[str], relation: Relation | None) -> RowRead:
        """Read a row by the texts of its key; `relation` is the source's, where known.

        Raises KeyTextError, RetriableError.
        """

    def encode_key(self, key: Sequence[str], relation: Relation) -> bytes:
        """The bytes that the source logs for a key. Raises KeyTextError."""

    def decode_row(self, relation: Relation, row: bytes) -> Mapping[str, object]:
        """A row as values that JSON knows."""

    def close(self) -> None:
        """Drop the connection."""


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


def load_connector(name: str) -> Connector:
    """Return the installed connector of that name. Raises ConfigError naming the ones there are."""
    found = entry_points(group="headrace.connectors")
    if name not in found.names:
        raise ConfigError(f"connector {name!r} is not installed; there are: {', '.join(sorted(found.names))}")
    connector = found[name].load()
    if not isinstance(connector, Connector):
        raise ConfigError(f"connector {name!r}: its entry point is no Connector")
    return connector

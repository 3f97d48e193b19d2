"""The ledger as planner and commands see it: what has been applied, in the target beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.catalogue import Catalogue, TableName
from pipeline.fence import LaneRow
from pipeline.table_copies import TableCopy
from pipeline.window import Restart


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A stream's row in the ledger; `stopped` is the text of the error that stopped it, or empty."""

    epoch: int
    generation: int
    watermark: int
    watermark_time_us: int
    changes_offset: int
    stopped: str


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

    def table_copies(self) -> list[TableCopy]:
        """The copies of single tables that the watermark has not passed, in the order of their requests."""

    def copies_sent(self, tables: Sequence[TableName]) -> None:
        """Note that Kafka has the copies of these tables."""

    def clear_stop(self) -> None:
        """Forget the reason that stopped the stream: an operator starts it again."""

    def is_current(self, epoch: int) -> bool:
        """Whether `epoch` still rules: no other planner took over, no crash of the target lost commits of it."""

    def closed_by(self, epoch: int) -> str | None:
        """What closed `epoch`: nothing of it is lost, and nothing more is admitted. None when it was not closed."""

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

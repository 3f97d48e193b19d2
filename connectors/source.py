"""A source database as one stream of change batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.catalogue import TableName
from schemas.change_batch import ChangeBatch


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

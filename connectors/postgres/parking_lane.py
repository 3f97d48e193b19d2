"""A lane that can park what the target refuses."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.errors import RefusedError, SchemaChangeError
from connectors.lane import Applied, UnitGroup
from connectors.postgres.errors import translated
from connectors.postgres.lane import DAMAGED, PostgresLane, extent
from connectors.postgres.letters import close_epoch, insert_letters, mark_published, unpublished_letters
from connectors.postgres.unit_writer import CHECK, DEFER
from pipeline.conflicts import KeyRules
from pipeline.parking import Parked, ParkedKeys, Refusal, parked_behind, settle_in_order
from pipeline.relations import has_news
from schemas.change_batch import ChangeBatch
from schemas.dead_letter import DeadLetter
from schemas.errors import SchemaError


class ParkingLane(PostgresLane):
    """See `connectors.lane.LaneTarget`."""

    def park(self, group: UnitGroup) -> Applied:
        """Keep the group's transactions as dead letters; see `connectors.lane.LaneTarget`."""
        with self._transaction(f"parking {extent(group)}"):
            if not self._begin_fenced(group, 0):
                return self._refused(group)
            batch = group.batches[0]
            parked = [parked_behind(batch, tx, positions) for tx, positions in enumerate(group.behind)]
            return self._commit_parked(group, parked, close=False)

    def apply_or_park(self, group: UnitGroup) -> Applied:
        """Apply what can be applied and keep the rest; see `connectors.lane.LaneTarget`."""
        with self._transaction(f"applying or parking {extent(group)}"):
            if not self._begin_fenced(group, 0):
                return self._refused(group)
            keys = ParkedKeys(self._stream, KeyRules(self._writer.catalogue))
            parked = settle_in_order(group.batches[0], keys, lambda batch: self._try(batch, group.epoch))
            return self._commit_parked(group, parked, close=bool(parked))

    def _try(self, batch: ChangeBatch, epoch: int | None = None) -> Refusal | None:
        """Write one transaction, in order or as a set; nothing of it stays when it is refused.

        Without an epoch it comes late: the columns that the target has by now are as they should be.
        """
        writer = self._writer
        try:
            with writer.whole(), translated(f"{self._where}: applying position {batch.last_position}", applying=True):
                if epoch is not None and has_news(batch, writer.schema.shapes):
                    writer.write_changed([batch], epoch)
                else:
                    writer.write_one(batch)
                if DEFER in writer.begin:
                    self._pipeline.run([CHECK, DEFER])
        except SchemaChangeError:
            raise  # it stops the stream, and is never parked
        except (RefusedError, SchemaError) as error:
            if epoch is not None and writer.schema.written:
                writer.load()  # DDL of it may have been rolled back
            return Refusal(error.sqlstate if isinstance(error, RefusedError) else DAMAGED, str(error))
        return None

    def _commit_parked(self, group: UnitGroup, parked: Sequence[Parked], *, close: bool) -> Applied:
        insert_letters(self._conn, self._stream, parked)
        self._pipeline.run([self._ledger.positions(group)])
        if close:
            close_epoch(self._conn, self._stream, "transactions were parked")
        self._end()
        return Applied(closed=close)

    def unpublished_letters(self) -> list[DeadLetter]:
        """Dead letters that the topic may not have yet."""
        with translated(f"{self._where}: reading dead letters"):
            return unpublished_letters(self._conn, self._stream)

    def mark_published(self, letters: Sequence[DeadLetter]) -> None:
        """Note that the topic has them."""
        with translated(f"{self._where}: noting dead letters as published"):
            mark_published(self._conn, letters)

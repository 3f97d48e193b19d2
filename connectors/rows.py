"""Single rows of a target, for a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.cache.view import TargetView
from pipeline.catalogue import TableName
from schemas.change_batch import Relation


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

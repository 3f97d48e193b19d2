"""Names of blocks and of those who master them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


class BlockId(NamedTuple):
    """The rows of `table` whose keys fall into `bucket`."""

    stream: str
    schema: str
    table: str
    bucket: int

    def __str__(self) -> str:
        return f"{self.stream}/{self.schema}.{self.table}/{self.bucket}"


@dataclass(frozen=True, slots=True)
class Owner:
    """The node that masters a block, and the epoch of that decision."""

    node: str
    epoch: int


class Placement(Protocol):
    """Says who masters a block."""

    def owner(self, block: BlockId) -> Owner:
        """The block's master."""

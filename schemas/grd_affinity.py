"""GrdAffinity: who masters a block, or, for the block `*`, which nodes take part."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.errors import SchemaError
from schemas.single_object import codec

MEMBERS = "*"  # not a block's text
EPOCH_MAX = (1 << 44) - 1  # milliseconds until the year 2527


@dataclass(frozen=True, slots=True)
class GrdAffinity:
    """One decision.

    `master` is empty where the hash decides. Of the block `*` the holders are the members of the partition.
    `scores` are accesses a second by node, as they were when it was decided.
    """

    block: str
    master: str
    epoch: int
    read_mostly: bool
    holders: tuple[str, ...]
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    decided_us: int = 0


def encode_affinity(affinity: GrdAffinity) -> bytes:
    """Return the record of `affinity`."""
    return codec("grd_affinity").encode({
        "block": affinity.block, "master": affinity.master, "epoch": affinity.epoch,
        "read_mostly": affinity.read_mostly, "holders": list(affinity.holders), "scores": affinity.scores,
        "reason": affinity.reason, "decided_us": affinity.decided_us,
    })  # fmt: skip


def decode_affinity(data: bytes) -> GrdAffinity:
    """Return the decision in `data`. Raises SchemaError."""
    datum = codec("grd_affinity").decode(data)
    affinity = GrdAffinity(holders=tuple(datum.pop("holders")), **datum)
    if not 0 <= affinity.epoch <= EPOCH_MAX:
        raise SchemaError(f"block {affinity.block}: epoch {affinity.epoch} is not in 0..{EPOCH_MAX}")
    if "" in affinity.holders:
        raise SchemaError(f"block {affinity.block}: a holder without a name")
    return affinity

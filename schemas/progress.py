"""Progress: what a lane has committed, published after the commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from schemas.apply_unit import LANES_MAX
from schemas.errors import SchemaError
from schemas.single_object import codec


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a unit could not be applied. `poison` means that a serial unit failed too."""

    position: int
    sqlstate: str
    error: str
    poison: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """One target transaction of a lane, or why there is none: a failure, or an `alert` while it pauses.

    `lag_buckets` maps a stage to a packed histogram (pipeline.lag).
    """

    stream: str
    generation: int
    lane: int
    epoch: int
    seq: int
    position: int
    commit_time_us: int
    applied_us: int
    transactions: int
    rows: int
    queued: int
    lag_buckets: dict[str, bytes] = field(default_factory=dict)
    failure: Failure | None = None
    alert: str = ""


def encode_progress(progress: Progress) -> bytes:
    """Return the record of `progress`."""
    datum: dict[str, Any] = {name: getattr(progress, name) for name in Progress.__slots__}
    failure = progress.failure
    if failure is not None:
        datum["failure"] = {name: getattr(failure, name) for name in Failure.__slots__}
    return codec("progress").encode(datum)


def decode_progress(data: bytes) -> Progress:
    """Return the progress in `data`. Raises SchemaError."""
    datum = codec("progress").decode(data)
    failure = datum.pop("failure")
    if not 0 <= datum["lane"] < LANES_MAX:
        raise SchemaError(f"lane {datum['lane']} is not one of 0..{LANES_MAX - 1}")
    return Progress(**datum, failure=Failure(**failure) if failure is not None else None)

"""ApplyUnit: what the planner sends to a lane."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import SchemaError
from schemas.single_object import codec

LANES_MAX = 16
NORMAL = "normal"
SERIAL = "serial"
PARK = "park"  # the transactions are kept as dead letters, behind others that they depend on


@dataclass(frozen=True, slots=True)
class ApplyUnit:
    """The transactions of one window for one lane; `batch` is an encoded ChangeBatch.

    `waits` maps another lane to the seq it must have reached (in the same epoch) before this unit may
    begin. `previous_position` is the last position of the window before. `behind` holds, for each transaction
    of a unit of mode PARK, positions of parked transactions that it depends on.
    """

    stream: str
    generation: int
    lane: int
    epoch: int
    seq: int
    mode: str
    previous_position: int
    waits: dict[int, int]
    planned_us: int
    batch: bytes
    behind: tuple[tuple[int, ...], ...] = ()


def encode_unit(unit: ApplyUnit) -> bytes:
    """Return the record of `unit`."""
    return codec("apply_unit").encode({
        "stream": unit.stream, "generation": unit.generation, "lane": unit.lane, "epoch": unit.epoch,
        "seq": unit.seq, "mode": unit.mode, "previous_position": unit.previous_position,
        "waits": [{"lane": lane, "seq": seq} for lane, seq in unit.waits.items()],
        "planned_us": unit.planned_us, "behind": unit.behind, "batch": unit.batch,
    })  # fmt: skip


def decode_unit(data: bytes) -> ApplyUnit:
    """Return the unit in `data`. Raises SchemaError."""
    datum = codec("apply_unit").decode(data)
    listed = datum.pop("waits")
    if len(listed) >= LANES_MAX:
        raise SchemaError(f"{len(listed)} waits for {LANES_MAX - 1} other lanes")
    waits = {wait["lane"]: wait["seq"] for wait in listed}
    if len(waits) < len(listed):
        raise SchemaError("a unit waits for one lane twice")
    behind = tuple(tuple(positions) for positions in datum.pop("behind"))
    unit = ApplyUnit(waits=waits, behind=behind, **datum)
    for lane in (unit.lane, *waits):
        if not 0 <= lane < LANES_MAX:
            raise SchemaError(f"lane {lane} is not one of 0..{LANES_MAX - 1}")
    if unit.lane in waits:
        raise SchemaError(f"a unit of lane {unit.lane} waits for its own lane")
    if unit.epoch < 1 or unit.seq < 1 or any(seq < 1 for seq in waits.values()):
        raise SchemaError(f"epoch {unit.epoch}, seq {unit.seq}, waits {waits}: numbers start at 1")
    return unit

"""RoleReport: what a role does for one stream, once a second, for people and the monitor."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.single_object import codec


@dataclass(frozen=True, slots=True)
class Control:
    """A controller's present value, and why it is that. `changed_us`: when it last changed, 0: never."""

    name: str
    value: float
    unit: str
    changed_us: int
    reason: str


@dataclass(frozen=True, slots=True)
class Buffer:
    """A bounded buffer: how full it is, and its limit."""

    name: str
    used: int
    limit: int
    unit: str


@dataclass(frozen=True, slots=True)
class RoleReport:
    """`role` is capture, plan or apply/<lane>; it is done with everything up to `position`.

    `oldest_us` is the source commit time of the oldest transaction at work, 0 when there is none.
    `lag_buckets` maps a stage to a packed histogram of what passed it since the last report (pipeline.lag).
    """

    stream: str
    role: str
    time_us: int
    generation: int = 0
    position: int = 0
    commit_time_us: int = 0
    oldest_us: int = 0
    lag_buckets: dict[str, bytes] = field(default_factory=dict)
    controls: list[Control] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)


def encode_report(report: RoleReport) -> bytes:
    """Return the record of `report`."""
    datum = {name: getattr(report, name) for name in RoleReport.__slots__}
    datum["controls"] = [{name: getattr(c, name) for name in Control.__slots__} for c in report.controls]
    datum["buffers"] = [{name: getattr(b, name) for name in Buffer.__slots__} for b in report.buffers]
    return codec("role_report").encode(datum)


def decode_report(data: bytes) -> RoleReport:
    """Return the report in `data`. Raises SchemaError."""
    datum = codec("role_report").decode(data)
    controls = [Control(**control) for control in datum.pop("controls")]
    buffers = [Buffer(**buffer) for buffer in datum.pop("buffers")]
    return RoleReport(**datum, controls=controls, buffers=buffers)

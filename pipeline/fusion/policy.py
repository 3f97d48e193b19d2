"""The numbers of batching: sizes, waits, weights and bounds, a priority each.

Waits are the brief's 100 µs to 2 ms: a message waits for company no longer than this when the link is idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.fusion.messages import Priority

BATCH_MIN, BATCH_MAX = 10, 1000
UTILISATION_TARGET = 0.90
# One frame. 1 MiB takes 1 ms on a 10 Gbit/s link: what an urgent message may have to wait behind.
FRAME_BYTES_MAX = 1024 * 1024
COMPRESS_BYTES_MIN = 4096


@dataclass(frozen=True, slots=True)
class ClassPolicy:
    """One priority. `share` scales the controller's batch size, `weight` its part of a busy link.

    `queued_max` messages and `queued_bytes_max` bytes may wait; beyond them an offer is refused.
    """

    wait_us: int
    weight: int
    share: float
    queued_max: int
    queued_bytes_max: int


def _classes() -> Mapping[Priority, ClassPolicy]:
    mib = 1024 * 1024
    return {
        Priority.CRITICAL: ClassPolicy(0, 1, 0.0, 10_000, 4 * mib),
        Priority.HIGH: ClassPolicy(100, 8, 0.25, 20_000, 16 * mib),
        Priority.NORMAL: ClassPolicy(500, 4, 1.0, 50_000, 64 * mib),
        Priority.LOW: ClassPolicy(2000, 1, 1.0, 50_000, 64 * mib),
    }


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """All of it. `aged_us`: a message that has waited so long goes next, whatever its weight."""

    classes: Mapping[Priority, ClassPolicy] = field(default_factory=_classes)
    aged_us: int = 50_000
    batch_min: int = BATCH_MIN
    batch_max: int = BATCH_MAX
    frame_bytes_max: int = FRAME_BYTES_MAX
    compress_bytes_min: int = COMPRESS_BYTES_MIN

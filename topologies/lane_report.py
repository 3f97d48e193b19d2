"""What a lane reports of itself: its queue, and what its controller has decided."""

from __future__ import annotations

from schemas.role_report import Buffer, RoleReport
from topologies.kafka import QUEUED_KB_MAX
from topologies.lane import LaneWorker
from topologies.unit_queue import QUEUED_BYTES_MAX, QUEUED_UNITS_MAX


def lane_report(worker: LaneWorker, records_max: int, now_us: int) -> RoleReport:
    """The report of now. `records_max`: units that one read of the consumer can add to a queue that was not full."""
    return RoleReport(
        worker.stream, f"apply/{worker.lane}", now_us, controls=[worker.merge.control()],
        buffers=[
            Buffer("queued units", len(worker.queue), QUEUED_UNITS_MAX + records_max, "units"),
            Buffer("queued bytes", worker.queue.bytes, QUEUED_BYTES_MAX + QUEUED_KB_MAX * 1024, "bytes"),
        ],
    )  # fmt: skip

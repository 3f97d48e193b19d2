"""What a batcher has done: counts by priority, compression, utilisation, gain."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.fusion.messages import Priority
from pipeline.lag import Histogram

# What a message costs on the wire when it is sent alone: our frame header and table entry are counted from
# the frames themselves; Ethernet, IP and TCP headers with options, and an acknowledgement for two segments.
LONE_PACKET_BYTES = 66 + 33
PACKET_BYTES = 1448  # payload of a full Ethernet segment


@dataclass(slots=True)
class ClassCounts:
    """One priority. `latency` is from the offer to the frame that carries the message."""

    offered: int = 0
    refused: int = 0
    sent: int = 0
    sent_bytes: int = 0
    latency: Histogram = field(default_factory=Histogram)


@dataclass(slots=True)
class BatchStatistics:
    """Counters of one target node; all only grow, but for `utilisation`, the last interval's."""

    classes: dict[Priority, ClassCounts] = field(default_factory=lambda: {p: ClassCounts() for p in Priority})
    frames: int = 0
    messages: int = 0
    body_bytes: int = 0  # before compression
    frame_bytes: int = 0  # as handed to the transport
    compressed_from: int = 0  # of the frames that were compressed
    compressed_to: int = 0
    not_shrunk: int = 0  # attempts that were thrown away
    utilisation: float = 0.0
    _cost_us: dict[int, tuple[float, int]] = field(default_factory=dict)  # log2(batch) -> busy µs, messages

    @property
    def compression(self) -> float:
        """Bytes before compression to bytes after it, of the frames that were compressed; 1.0 when none was."""
        return self.compressed_from / self.compressed_to if self.compressed_to else 1.0

    @property
    def estimated_gain(self) -> float:
        """Wire bytes of the same messages sent one by one, to the wire bytes of the frames; 1.0 when idle."""
        if not self.frame_bytes:
            return 1.0
        alone = self.body_bytes + self.messages * (LONE_PACKET_BYTES + _HEADER_BYTES)
        packets = max(self.frames, self.frame_bytes // PACKET_BYTES)
        return alone / (self.frame_bytes + packets * LONE_PACKET_BYTES)

    @property
    def measured_gain(self) -> float | None:
        """Busy time a message in the smallest batches seen, to that in the batches seen most.

        None before batches of two different sizes were timed.
        """
        if len(self._cost_us) < 2:
            return None
        smallest = self._cost_us[min(self._cost_us)]
        usual = max(self._cost_us.values(), key=lambda cost: cost[1])
        return (smallest[0] / smallest[1]) / (usual[0] / usual[1]) if usual[0] else None

    def timed(self, messages: int, busy_us: float) -> None:
        """Count how long the link was busy with a batch."""
        bucket = messages.bit_length()
        total_us, count = self._cost_us.get(bucket, (0.0, 0))
        self._cost_us[bucket] = (total_us + busy_us, count + messages)


_HEADER_BYTES = 48  # of a frame with one message; see pipeline.fusion.frame

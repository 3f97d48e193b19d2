"""CacheFusionBatcher: what goes to one node next, and how much of it at once.

Critical messages pass every queue and are never kept for company. The others are served by deficit round robin
(Shreedhar and Varghese, SIGCOMM 1995) on bytes, so that each keeps its weight's share of a busy link; a message
that has aged goes first, whatever its weight. One owner, no lock; time is an argument in microseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.fusion.compression import Compressor
from pipeline.fusion.frame import ENTRY_BYTES, HEADER_BYTES, encode_frame
from pipeline.fusion.messages import BackPressureError, Buffer, Message, OversizedMessageError, Priority
from pipeline.fusion.policy import BatchPolicy, ClassPolicy
from pipeline.fusion.sizing import ModelSize, SizeController
from pipeline.fusion.statistics import BatchStatistics

QUANTUM_BYTES = 16 * 1024  # a round's allowance of weight 1; more than a usual block, so that a round moves each class
LATENCY_SAMPLES_MAX = 64  # of one frame: a logarithm a message would cost as much as queueing it
_SHARED = (Priority.HIGH, Priority.NORMAL, Priority.LOW)


@dataclass(slots=True)
class _Queue:
    """Messages of one priority with their times of arrival."""

    policy: ClassPolicy
    items: deque[tuple[Message, int]] = field(default_factory=deque)
    queued_bytes: int = 0
    deficit: int = 0

    def put(self, message: Message, now_us: int) -> None:
        self.items.append((message, now_us))
        self.queued_bytes += len(message.body)

    def pop(self) -> tuple[Message, int]:
        item = self.items.popleft()
        self.queued_bytes -= len(item[0].body)
        return item


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame to send, as buffers for a gathering write."""

    buffers: Sequence[Buffer]
    number: int
    priority: Priority
    messages: int
    raw_bytes: int
    frame_bytes: int


class CacheFusionBatcher:
    """Batches the messages to one node.

    The owner offers messages, asks `due_us` when to come back, sends what `take` returns, and reports with
    `observe` how well the link was used.
    """

    def __init__(
        self, target: str, session: int, policy: BatchPolicy | None = None, controller: SizeController | None = None
    ) -> None:
        self.target = target
        self.policy = policy or BatchPolicy()
        self.controller: SizeController = controller or ModelSize()
        self.statistics = BatchStatistics()
        self._session = session
        self._number = 0
        self._queues = {priority: _Queue(self.policy.classes[priority]) for priority in Priority}
        self._compressor = Compressor(self.policy.compress_bytes_min)
        self._turn = 0

    # ---- in -------------------------------------------------------------------------------------

    def offer(self, message: Message, now_us: int) -> None:
        """Queue a message. Raises BackPressureError (nothing queued), OversizedMessageError."""
        if message.size > self.policy.frame_bytes_max:
            raise OversizedMessageError(
                f"node {self.target}: a message of {message.size} bytes, a frame holds {self.policy.frame_bytes_max}"
            )
        queue, counts = self._queues[message.priority], self.statistics.classes[message.priority]
        if (
            len(queue.items) >= queue.policy.queued_max
            or queue.queued_bytes + message.size > queue.policy.queued_bytes_max
        ):
            counts.refused += 1
            raise BackPressureError(self.target, message.priority, len(queue.items), queue.queued_bytes)
        counts.offered += 1
        queue.put(message, now_us)

    def depth(self, priority: Priority) -> int:
        """Messages of a priority that wait."""
        return len(self._queues[priority].items)

    @property
    def waiting(self) -> int:
        """All messages that wait."""
        return sum(len(queue.items) for queue in self._queues.values())

    @property
    def waiting_bytes(self) -> int:
        """Their bytes."""
        return sum(queue.queued_bytes for queue in self._queues.values())

    # ---- out ------------------------------------------------------------------------------------

    def due_us(self, now_us: int) -> int | None:
        """When `take` has something to say: `now_us` if at once, None while nothing waits."""
        due: int | None = None
        for priority, queue in self._queues.items():
            if queue.items:
                at = now_us if self._full(priority, queue) else queue.items[0][1] + queue.policy.wait_us
                due = at if due is None or at < due else due
        return None if due is None else max(due, now_us)

    def size_of(self, priority: Priority) -> int:
        """Messages that a batch begun for this priority may have."""
        share = self._queues[priority].policy.share
        return max(self.policy.batch_min, min(self.policy.batch_max, round(self.controller.size * share)))

    def take(self, now_us: int, *, urgent_only: bool = False) -> Frame | None:
        """Return the next frame, None when nothing is due (or nothing critical, with `urgent_only`)."""
        critical = self._queues[Priority.CRITICAL]
        if critical.items:
            return self._frame(self._take_critical(critical), now_us)
        due = self.due_us(now_us)
        if urgent_only or due is None or due > now_us:
            return None
        return self._frame(self._take_shared(now_us), now_us)

    def drain(self) -> list[Message]:
        """Empty all queues, most urgent first: the node is gone, its messages go another way or nowhere."""
        return [queue.pop()[0] for queue in self._queues.values() for _ in range(len(queue.items))]

    def observe(self, utilisation: float, *, backlog: bool) -> None:
        """Tell the controller how well an interval has used the link."""
        self.statistics.utilisation = utilisation
        self.controller.observe(utilisation, backlog=backlog)

    def _full(self, priority: Priority, queue: _Queue) -> bool:
        if priority is Priority.CRITICAL:
            return True
        return len(queue.items) >= self.size_of(priority) or queue.queued_bytes >= self.policy.frame_bytes_max

    def _take_critical(self, queue: _Queue) -> list[tuple[Message, int]]:
        """All critical messages that are there: they share a frame, but wait for none."""
        taken: list[tuple[Message, int]] = []
        room = self.policy.frame_bytes_max
        while queue.items and len(taken) < self.policy.batch_max and queue.items[0][0].size <= room:
            room -= queue.items[0][0].size
            taken.append(queue.pop())
        return taken

    def _take_shared(self, now_us: int) -> list[tuple[Message, int]]:
        """A batch of the shared priorities: the aged first, then deficit round robin."""
        taken: list[tuple[Message, int]] = []
        lead = next(priority for priority in _SHARED if self._queues[priority].items)
        size = max(self.size_of(p) for p in _SHARED if self._queues[p].items)
        room = self.policy.frame_bytes_max
        for priority in reversed(_SHARED):  # one aged message of each, the least urgent first
            queue = self._queues[priority]
            aged = priority is not lead and queue.items and now_us - queue.items[0][1] >= self.policy.aged_us
            if aged and len(taken) < size and queue.items[0][0].size <= room:
                room -= queue.items[0][0].size
                taken.append(queue.pop())
        while len(taken) < size and self.waiting:
            room, stuck = self._round(taken, size, room)
            if stuck:
                break
        return taken

    def _round(self, taken: list[tuple[Message, int]], size: int, room: int) -> tuple[int, bool]:
        """Serve the class whose turn it is; whether a message did not fit ends the batch."""
        priority = _SHARED[self._turn]
        queue = self._queues[priority]
        if not queue.items:
            queue.deficit = 0
            self._turn = (self._turn + 1) % len(_SHARED)
            return room, False
        if queue.deficit <= 0:
            queue.deficit += QUANTUM_BYTES * queue.policy.weight
        while queue.items and queue.deficit > 0 and len(taken) < size:
            size_bytes = len(queue.items[0][0].body)
            if size_bytes > room:
                return room, True
            room -= size_bytes
            queue.deficit -= size_bytes + ENTRY_BYTES
            taken.append(queue.pop())
        if queue.deficit <= 0 or not queue.items:
            self._turn = (self._turn + 1) % len(_SHARED)
        return room, False

    def _frame(self, taken: list[tuple[Message, int]], now_us: int) -> Frame:
        messages = [message for message, _ in taken]
        raw_bytes = sum([len(message.body) for message in messages])
        dense = sum([len(message.body) for message in messages if message.dense])
        packed = None
        if 2 * dense < raw_bytes:
            packed = self._compressor.compress([message.body for message in messages], raw_bytes)
        self._number += 1
        buffers = encode_frame(messages, self._session, self._number, packed, raw_bytes)
        frame_bytes = HEADER_BYTES + ENTRY_BYTES * len(messages) + (raw_bytes if packed is None else len(packed))
        self._count(taken, now_us, raw_bytes, frame_bytes, None if packed is None else len(packed))
        return Frame(buffers, self._number, messages[0].priority, len(messages), raw_bytes, frame_bytes)

    def _count(
        self, taken: list[tuple[Message, int]], now_us: int, raw_bytes: int, frame_bytes: int, packed_bytes: int | None
    ) -> None:
        statistics = self.statistics
        statistics.frames += 1
        statistics.messages += len(taken)
        statistics.body_bytes += raw_bytes
        statistics.frame_bytes += frame_bytes
        statistics.not_shrunk = self._compressor.not_shrunk
        if packed_bytes is not None:
            statistics.compressed_from += raw_bytes
            statistics.compressed_to += packed_bytes
        step = 1 + len(taken) // LATENCY_SAMPLES_MAX
        for number, (message, offered_us) in enumerate(taken):
            counts = statistics.classes[message.priority]
            counts.sent += 1
            counts.sent_bytes += len(message.body)
            if number % step == 0:
                counts.latency.add(now_us - offered_us)

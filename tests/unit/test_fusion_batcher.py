"""The batcher case by case: order, urgency, fairness, bounds, statistics."""

from __future__ import annotations

import pytest

from pipeline.fusion.batcher import CacheFusionBatcher, Frame
from pipeline.fusion.frame import decode_frame
from pipeline.fusion.messages import BackPressureError, Kind, Message, OversizedMessageError, Priority
from pipeline.fusion.policy import BatchPolicy, ClassPolicy
from pipeline.fusion.sizing import FixedSize
from pipeline.lag import Histogram

SESSION = 7
TEXT = b"a row image, " * 700  # 9 KB that shrink well


def message(priority: Priority, body: bytes = b"x", *, dense: bool = False) -> Message:
    return Message(Kind.BLOCK, priority, body, dense)


def batcher(size: int = 100, policy: BatchPolicy | None = None) -> CacheFusionBatcher:
    return CacheFusionBatcher("b", SESSION, policy, FixedSize(size))


def received(frame: Frame | None) -> list[Message]:
    assert frame is not None
    data = b"".join(frame.buffers)
    assert len(data) == frame.frame_bytes
    return decode_frame(data)[1]


def test_nothing_is_due_when_nothing_waits() -> None:
    empty = batcher()
    assert empty.due_us(0) is None
    assert empty.take(0) is None


def test_critical_passes_every_queue_and_waits_for_nothing() -> None:
    full = batcher()
    for _ in range(5000):
        full.offer(message(Priority.HIGH), 0)
    full.offer(message(Priority.CRITICAL, b"now"), 1)
    assert full.due_us(1) == 1
    assert [bytes(m.body) for m in received(full.take(1))] == [b"now"]
    assert full.depth(Priority.HIGH) == 5000


def test_urgent_only_leaves_the_others() -> None:
    waiting = batcher()
    waiting.offer(message(Priority.HIGH), 0)
    assert waiting.take(10_000, urgent_only=True) is None
    assert waiting.depth(Priority.HIGH) == 1


@pytest.mark.parametrize(("priority", "wait_us"), [(Priority.HIGH, 100), (Priority.NORMAL, 500), (Priority.LOW, 2000)])
def test_a_lone_message_goes_after_the_wait_of_its_priority(priority: Priority, wait_us: int) -> None:
    lone = batcher()
    lone.offer(message(priority), 1000)
    assert lone.due_us(1000) == 1000 + wait_us
    assert lone.take(1000 + wait_us - 1) is None
    assert len(received(lone.take(1000 + wait_us))) == 1


def test_a_full_batch_goes_at_once() -> None:
    filling = batcher(50)
    for n in range(50):
        assert filling.take(0) is None, n
        filling.offer(message(Priority.NORMAL), 0)
    assert filling.due_us(0) == 0
    assert len(received(filling.take(0))) == 50


def test_priorities_have_batch_sizes_of_their_own() -> None:
    sized = batcher(400)
    assert [sized.size_of(p) for p in Priority] == [10, 100, 400, 400]


def test_a_frame_stays_below_its_bytes() -> None:
    large = batcher(1000)
    for _ in range(40):
        large.offer(message(Priority.NORMAL, b"y" * 100_000, dense=True), 0)
    frame = large.take(0)
    assert frame is not None
    assert frame.messages == 10
    assert frame.raw_bytes <= large.policy.frame_bytes_max
    with pytest.raises(OversizedMessageError):
        large.offer(message(Priority.LOW, bytes(large.policy.frame_bytes_max + 1)), 0)


def test_a_busy_link_is_shared_by_weight() -> None:
    """Each class keeps at least its weight's part, the lowest too."""
    busy = batcher(100)
    shares = {Priority.HIGH: 8, Priority.NORMAL: 4, Priority.LOW: 1}
    sent = dict.fromkeys(shares, 0)
    for step in range(400):
        for priority in shares:
            while busy.depth(priority) < 200:
                busy.offer(message(priority, b"z" * 1000, dense=True), step)
        for m in received(busy.take(step)):
            sent[m.priority] += m.size
    total = sum(sent.values())
    for priority, weight in shares.items():
        assert sent[priority] / total == pytest.approx(weight / 13, rel=0.15)


def test_an_aged_message_goes_first() -> None:
    busy = batcher(10)
    busy.offer(message(Priority.LOW, b"old"), 0)
    for now in range(1, 200):
        busy.offer(message(Priority.HIGH), now)
    taken = received(busy.take(busy.policy.aged_us))
    assert bytes(taken[0].body) == b"old"


def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    classes = dict(BatchPolicy().classes)
    classes[Priority.LOW] = ClassPolicy(2000, 1, 1.0, queued_max=3, queued_bytes_max=100)
    full = batcher(policy=BatchPolicy(classes=classes))
    full.offer(message(Priority.LOW, b"s" * 90), 0)
    with pytest.raises(BackPressureError) as by_bytes:
        full.offer(message(Priority.LOW, b"s" * 20), 0)
    assert (by_bytes.value.queued, by_bytes.value.queued_bytes) == (1, 90)
    full.offer(message(Priority.LOW), 0)
    full.offer(message(Priority.LOW), 0)
    with pytest.raises(BackPressureError, match="node b: 3 messages"):
        full.offer(message(Priority.LOW), 0)
    counts = full.statistics.classes[Priority.LOW]
    assert (counts.offered, counts.refused, full.depth(Priority.LOW)) == (3, 2, 3)


def test_compression_above_4_kib_and_only_when_it_shrinks() -> None:
    packing = batcher()
    packing.offer(message(Priority.NORMAL, b"a" * 4096), 0)
    small = packing.take(1000)
    assert small is not None
    assert small.frame_bytes > 4096
    packing.offer(message(Priority.NORMAL, TEXT), 0)
    large = packing.take(1000)
    assert large is not None
    assert large.frame_bytes < len(TEXT) / 5
    assert bytes(received(large)[0].body) == TEXT
    assert packing.statistics.compression > 5
    noise = bytes(n * n * 7919 % 251 ^ n % 256 for n in range(1, 9000))
    for _ in range(4):
        packing.offer(message(Priority.NORMAL, noise), 0)
        assert bytes(received(packing.take(1000))[0].body) == noise
    # Tried, not shrunk: skipped, tried, skipped.
    assert 1 <= packing.statistics.not_shrunk < 4


def test_bodies_are_not_copied_when_they_are_not_compressed() -> None:
    body = memoryview(bytearray(b"d" * 8192))
    sending = batcher()
    sending.offer(Message(Kind.BLOCK, Priority.NORMAL, body, dense=True), 0)
    frame = sending.take(1000)
    assert frame is not None
    assert frame.buffers[1] is body


def test_numbers_grow_and_drain_empties_most_urgent_first() -> None:
    counting = batcher()
    frames = []
    for n in range(3):
        counting.offer(message(Priority.CRITICAL), n)
        frames.append(counting.take(n))
    assert [frame.number for frame in frames if frame] == [1, 2, 3]
    for priority in (Priority.LOW, Priority.CRITICAL, Priority.HIGH):
        counting.offer(message(priority), 9)
    assert [m.priority for m in counting.drain()] == [Priority.CRITICAL, Priority.HIGH, Priority.LOW]
    assert (counting.waiting, counting.waiting_bytes) == (0, 0)


def test_statistics_say_what_was_gained() -> None:
    told = batcher(1000)
    for _ in range(500):
        told.offer(message(Priority.NORMAL, b"c" * 100), 0)
    told.take(500)
    statistics = told.statistics
    assert (statistics.frames, statistics.messages, statistics.body_bytes) == (1, 500, 50_000)
    assert statistics.estimated_gain > 2
    assert statistics.measured_gain is None
    statistics.timed(1, 20.0)
    statistics.timed(500, 1000.0)
    assert statistics.measured_gain == pytest.approx(10.0)
    latency = statistics.classes[Priority.NORMAL].latency
    assert isinstance(latency, Histogram)
    assert 50 <= latency.total <= 64

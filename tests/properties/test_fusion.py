"""The batcher against any traffic, and the decoder against any bytes."""

from __future__ import annotations

import contextlib
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pipeline.fusion.batcher import CacheFusionBatcher, Frame
from pipeline.fusion.frame import FrameError, decode_frame
from pipeline.fusion.messages import BackPressureError, Kind, Message, Priority
from pipeline.fusion.policy import BatchPolicy
from pipeline.fusion.sizing import ModelSize

PRIORITIES = st.sampled_from(Priority)
SIZES = st.one_of(st.integers(1, 300), st.integers(3000, 20_000))
# A gap in time, then a message; the body repeats its number, so that it compresses, or is told to be dense.
TRAFFIC = st.lists(st.tuples(st.integers(0, 3000), PRIORITIES, SIZES, st.booleans()), max_size=120)
POLICY = BatchPolicy(frame_bytes_max=64 * 1024)


def body(number: int, size: int) -> bytes:
    return (number.to_bytes(4, "big") * (size // 4 + 1))[: size + 4]


def deliver(frame: Frame, now_us: int, sent: dict[int, int], arrived: dict[Priority, list[int]]) -> None:
    header, messages = decode_frame(b"".join(frame.buffers))
    assert header.count == len(messages) == frame.messages <= POLICY.batch_max
    assert header.raw_bytes <= POLICY.frame_bytes_max
    for message in messages:
        number = int.from_bytes(message.body[:4], "big")
        assert message.body == body(number, message.size - 4)
        arrived[message.priority].append(number)
        sent[number] = now_us


@given(TRAFFIC, st.integers(1, 40))
def test_every_message_arrives_once_in_order_and_in_time(
    traffic: list[tuple[int, Priority, int, bool]], late_every: int
) -> None:
    """The sender comes when something is due, but every n-th time it is late."""
    batcher = CacheFusionBatcher("b", 1, POLICY, ModelSize(20))
    now, lateness = 0, 0
    offered: dict[Priority, list[int]] = defaultdict(list)
    times: dict[int, int] = {}
    sent: dict[int, int] = {}
    arrived: dict[Priority, list[int]] = defaultdict(list)

    def send_until(end_us: int | None) -> int:
        at = now
        while (due := batcher.due_us(at)) is not None and (end_us is None or due <= end_us):
            at = due
            frame = batcher.take(at)
            assert frame is not None
            deliver(frame, at, sent, arrived)
        return at

    for number, (gap, priority, size, dense) in enumerate(traffic):
        if number % late_every:
            send_until(now + gap)
        else:
            lateness += gap
        now += gap
        try:
            batcher.offer(Message(Kind.BLOCK, priority, body(number, size), dense), now)
        except BackPressureError:
            continue
        offered[priority].append(number)
        times[number] = now
        if priority is Priority.CRITICAL:
            frame = batcher.take(now)
            assert frame is not None
            deliver(frame, now, sent, arrived)
            assert sent[number] == now, "a critical message leaves with the first frame"
        batcher.observe(0.5, backlog=bool(number % 2))
    now = send_until(None)
    assert arrived == offered
    assert (batcher.waiting, batcher.waiting_bytes, batcher.due_us(now)) == (0, 0, None)
    for priority, numbers in offered.items():
        for number in numbers:
            wait = sent[number] - times[number]
            assert wait <= POLICY.classes[priority].wait_us + lateness, (priority, number)
    statistics = batcher.statistics
    assert sum(counts.sent for counts in statistics.classes.values()) == statistics.messages == len(times)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_frame_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        decode_frame(data)


@given(st.data())
def test_a_damaged_frame_is_refused_or_still_whole(data: st.DataObject) -> None:
    """Whatever is overwritten, cut or added: a refusal or messages that add up, and no other error."""
    batcher = CacheFusionBatcher("b", 1)
    for number in range(data.draw(st.integers(1, 6))):
        batcher.offer(Message(Kind.BLOCK, Priority.NORMAL, body(number, data.draw(SIZES))), 0)
    frame = batcher.take(10_000)
    assert frame is not None
    raw = bytearray(b"".join(frame.buffers))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(raw), 120) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    cut = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    try:
        header, messages = decode_frame(bytes(cut))
    except FrameError:
        return
    assert sum(message.size for message in messages) == header.raw_bytes

"""Hostile frames: each kind of damage is refused under its own name, before memory is spent on it."""

from __future__ import annotations

import struct

import lz4.block
import pytest

from pipeline.fusion.arrival import PEERS_MAX, Arrivals
from pipeline.fusion.frame import (
    ENTRY_BYTES,
    HEADER_BYTES,
    RAW_BYTES_MAX,
    FrameError,
    Header,
    decode_frame,
    decode_header,
    decode_rest,
    encode_frame,
)
from pipeline.fusion.messages import Kind, Message, Priority

MESSAGES = [Message(Kind.REQUEST, Priority.HIGH, b"ask"), Message(Kind.BLOCK, Priority.LOW, b"answer")]
GOOD = b"".join(encode_frame(MESSAGES, 5, 9, None, 9))
RAW_AT, BODY_AT, TABLE_AT = 24, 28, HEADER_BYTES


def changed(at: int, data: bytes) -> bytes:
    return GOOD[:at] + data + GOOD[at + len(data) :]


def bomb(announced: int, real: int) -> bytes:
    packed = lz4.block.compress(bytes(real), store_size=False)
    message = [Message(Kind.BLOCK, Priority.LOW, memoryview(bytes(1)))]
    frame = b"".join(encode_frame(message, 1, 1, packed, announced))
    return (
        frame[:TABLE_AT] + struct.pack("<I", Kind.BLOCK << 28 | Priority.LOW << 24 | announced) + frame[-len(packed) :]
    )


def test_a_good_frame_is_read() -> None:
    header, messages = decode_frame(GOOD)
    assert (header.session, header.number, header.count) == (5, 9, 2)
    assert [(m.kind, m.priority, bytes(m.body)) for m in messages] == [(m.kind, m.priority, m.body) for m in MESSAGES]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "truncated"),
        (GOOD[: HEADER_BYTES - 1], "truncated"),
        (GOOD[:-1], "truncated"),
        (GOOD + b"x", "truncated"),
        (b"GET /" + GOOD[5:], "no_frame"),
        (changed(3, b"\1"), "version"),
        (changed(4, b"\2"), "malformed"),
        (changed(5, b"\7"), "malformed"),
        (changed(6, b"\0\0"), "malformed"),
        (changed(6, b"\xff\xff"), "malformed"),
        (changed(RAW_AT, struct.pack("<II", RAW_BYTES_MAX + 1, 9)), "oversized"),
        (changed(BODY_AT, struct.pack("<I", 0xFFFFFFFF)), "oversized"),
        (changed(BODY_AT, struct.pack("<I", 8)), "malformed"),
        (changed(4, b"\1"), "malformed"),  # compressed, and no smaller
        (changed(TABLE_AT + 3, b"\x91"), "unknown_kind"),
        (changed(TABLE_AT + 3, b"\x19"), "unknown_kind"),
        (changed(TABLE_AT, b"\4"), "malformed"),
        (bomb(RAW_BYTES_MAX + 1, RAW_BYTES_MAX + 1), "oversized"),
        (bomb(1_000_000, 50_000_000), "compression"),
        (bomb(100_000, 50_000), "compression"),
    ],
)  # fmt: skip
def test_a_bad_frame_is_refused_under_its_name(frame: bytes, reason: str) -> None:
    with pytest.raises(FrameError) as refused:
        decode_frame(frame)
    assert refused.value.reason == reason


def test_a_frame_is_checked_before_its_first_message() -> None:
    frame = changed(TABLE_AT + ENTRY_BYTES + 3, b"\x91")  # the second message is of no known kind
    with pytest.raises(FrameError, match="unknown kind"):
        decode_rest(decode_header(frame), frame[HEADER_BYTES:])
    first = next(decode_rest(decode_header(GOOD), GOOD[HEADER_BYTES:]))
    assert bytes(first.body) == b"ask"


def test_the_header_alone_tells_how_much_to_read() -> None:
    assert decode_header(GOOD[:HEADER_BYTES]).rest_bytes == 2 * ENTRY_BYTES + 9


def header(session: int, number: int) -> Header:
    return Header(compressed=False, priority=Priority.LOW, count=1, session=session, number=number, raw_bytes=1,
                  body_bytes=1)  # fmt: skip


def test_frames_are_admitted_once_and_in_order() -> None:
    arrivals = Arrivals()
    for session, number in ((1, 1), (1, 2), (1, 5), (2, 1)):
        arrivals.admit("a", "bulk", header(session, number))
    arrivals.admit("a", "express", header(1, 1))
    for session, number in ((2, 1), (1, 6), (2, 0)):
        with pytest.raises(FrameError) as refused:
            arrivals.admit("a", "bulk", header(session, number))
        assert refused.value.reason == "replayed"
        arrivals.refuse(refused.value)
    assert arrivals.refused == {"replayed": 3}


def test_the_memory_of_peers_is_bounded() -> None:
    arrivals = Arrivals()
    for n in range(PEERS_MAX):
        arrivals.admit(f"p{n}", "bulk", header(1, 1))
    with pytest.raises(FrameError, match="known already"):
        arrivals.admit("one more", "bulk", header(1, 1))
    arrivals.admit("p0", "bulk", header(1, 2))

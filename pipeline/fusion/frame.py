"""The frame: a batch of messages as bytes, and everything that a hostile or broken peer may get wrong.

Little-endian. Header of 40 bytes: magic `HRF`, version, flags (bit 0: LZ4), priority, message count, session
(when the sending process began), number (1, 2, ... within the session), body bytes before and after compression.
Then 4 bytes a message: body bytes (24 bits), priority (4 bits), kind (4 bits). Then the bodies, joined.
TCP and Kafka carry checksums of their own, and TLS authenticates; the frame has none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.fusion.compression import decompress
from pipeline.fusion.messages import Buffer, Kind, Message, Priority
from pipeline.fusion.policy import BATCH_MAX, FRAME_BYTES_MAX

VERSION = 2
MAGIC = b"HRF"
_HEADER = struct.Struct("<3sBBBHQQII8x")
HEADER_BYTES = _HEADER.size
ENTRY_BYTES = 4
_LZ4 = 1
# A body may be one block larger than the frame limit of the batcher; nothing beyond is read or allocated.
RAW_BYTES_MAX = 4 * FRAME_BYTES_MAX
_PRIORITIES = {int(priority): priority for priority in Priority}
_SIZE_MASK = 0xFFFFFF
assert RAW_BYTES_MAX <= _SIZE_MASK  # a size is less
_CODES = {kind << 4 | priority: (kind, priority) for kind in Kind for priority in Priority}


class FrameError(ValueError):
    """A frame that is refused; `reason` is a counter's name."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Header:
    """A frame's header, checked."""

    compressed: bool
    priority: Priority
    count: int
    session: int
    number: int
    raw_bytes: int
    body_bytes: int

    @property
    def rest_bytes(self) -> int:
        """Bytes that follow the header."""
        return self.count * ENTRY_BYTES + self.body_bytes


def encode_frame(
    messages: Sequence[Message], session: int, number: int, packed: bytes | None, raw_bytes: int
) -> list[Buffer]:
    """Return the frame as buffers for a gathering write; bodies are not copied.

    `packed` are the bodies compressed; None sends them as they are, `raw_bytes` in all.
    """
    body_bytes = raw_bytes if packed is None else len(packed)
    flags = 0 if packed is None else _LZ4
    header = _HEADER.pack(
        MAGIC, VERSION, flags, messages[0].priority, len(messages), session, number, raw_bytes, body_bytes
    )
    entries = [m.kind << 28 | m.priority << 24 | len(m.body) for m in messages]
    table = struct.pack(f"<{len(entries)}I", *entries)
    return [header + table, *([m.body for m in messages] if packed is None else [packed])]


def decode_header(data: Buffer) -> Header:
    """Return the header in the first 40 bytes. Raises FrameError before anything else is read."""
    if len(data) < HEADER_BYTES:
        raise FrameError("truncated", f"{len(data)} bytes, a header has {HEADER_BYTES}")
    magic, version, flags, priority, count, session, number, raw, body = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise FrameError("no_frame", f"starts with {magic.hex()}, is no frame of this protocol")
    if version != VERSION:
        raise FrameError("version", f"version {version}, this node speaks {VERSION}; upgrade the older node")
    if flags & ~_LZ4 or priority not in _PRIORITIES or not 1 <= count <= BATCH_MAX:
        raise FrameError("malformed", f"flags {flags}, priority {priority}, {count} messages")
    if raw > RAW_BYTES_MAX or body > RAW_BYTES_MAX:
        raise FrameError("oversized", f"{body} bytes for {raw}, over the limit of {RAW_BYTES_MAX}")
    compressed = bool(flags & _LZ4)
    if (not compressed and raw != body) or (compressed and body >= raw):
        raise FrameError("malformed", f"{body} bytes on the wire for {raw}")
    return Header(compressed, _PRIORITIES[priority], count, session, number, raw, body)


def decode_rest(header: Header, rest: Buffer) -> Iterator[Message]:
    """Return the messages of a frame; their bodies are slices of one buffer. Raises FrameError, before the first.

    They are made one by one: a thousand take half a millisecond, in which a critical message would have to wait.
    """
    if len(rest) != header.rest_bytes:
        raise FrameError("truncated", f"{len(rest)} bytes after the header, {header.rest_bytes} were announced")
    view = memoryview(rest)
    table_bytes = header.count * ENTRY_BYTES
    entries = struct.unpack(f"<{header.count}I", view[:table_bytes])
    if sum([entry & _SIZE_MASK for entry in entries]) != header.raw_bytes:
        raise FrameError("malformed", f"messages do not add up to {header.raw_bytes} bytes")
    if unknown := {entry >> 24 for entry in entries} - _CODES.keys():
        raise FrameError("unknown_kind", f"messages of an unknown kind or priority: {sorted(unknown)}")
    body = view[table_bytes:]
    if header.compressed:
        try:
            body = memoryview(decompress(body, header.raw_bytes))
        except ValueError as error:
            raise FrameError("compression", str(error)) from error
    return _cut(entries, body)


def _cut(entries: Sequence[int], body: memoryview) -> Iterator[Message]:
    at = 0
    for entry in entries:
        kind, priority = _CODES[entry >> 24]
        end = at + (entry & _SIZE_MASK)
        yield Message(kind, priority, body[at:end])
        at = end


def decode_frame(data: Buffer) -> tuple[Header, list[Message]]:
    """Return header and messages of one whole frame (a Kafka record). Raises FrameError."""
    header = decode_header(data)
    return header, list(decode_rest(header, memoryview(data)[HEADER_BYTES:]))

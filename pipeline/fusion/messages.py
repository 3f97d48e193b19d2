"""Messages, their priorities, and the refusals that a caller has to answer for."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from pipeline.errors import RetriableError

Buffer = bytes | bytearray | memoryview


class Priority(IntEnum):
    """Most urgent first. CRITICAL passes every queue; the others share the link by weight."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class Kind(IntEnum):
    """What a message is about; the body's form belongs to `pipeline.cache.protocol`."""

    POSITION = 1  # a node's visible position of a stream; also a sign of life
    REQUEST = 2  # asks the master for a block
    BLOCK = 3  # a block, asked for or shipped by a remaster
    ABSENT = 4  # the answer to a request for a block that the node does not hold


class Message(NamedTuple):
    """A message for one node. The body is not copied: it must not change before it is sent.

    A tuple, which is made three times as fast as a frozen dataclass: a node makes 100,000 of them a second.
    `dense` says that the body is compressed or random already, so that compressing is no use.
    """

    kind: Kind
    priority: Priority
    body: Buffer
    dense: bool = False

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body)


class BackPressureError(RetriableError):
    """The queue of a priority to one node is full: nothing was queued; slow down or drop the message."""

    def __init__(self, target: str, priority: Priority, queued: int, queued_bytes: int) -> None:
        super().__init__(
            f"node {target}: {queued} messages ({queued_bytes} bytes) of priority {priority.name.lower()} wait already"
        )
        self.target = target
        self.priority = priority
        self.queued = queued
        self.queued_bytes = queued_bytes


class OversizedMessageError(ValueError):
    """A message is larger than a frame may be. A bug or a block of the wrong size; never retried."""

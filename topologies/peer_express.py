"""Critical messages between those of a bulk frame.

A frame of bulk may hold a thousand messages, and handling them all takes milliseconds in which the event loop reads
no other socket. So between two of them the express connections are looked at, and what has come there is handled at
once. Not with TLS: there only the transport can read.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator

from pipeline.fusion.messages import Message

LOOK_NS = 50_000  # between two looks, each a system call of 1-2 µs


def direct_socket(transport: asyncio.Transport) -> socket.socket | None:
    """A socket beside the transport's, for what the transport can't do; None with TLS. It never blocks."""
    if transport.get_extra_info("sslcontext") is not None:
        return None
    return socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))


class Express:
    """The express connections of a node. Used in the event loop's thread only."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._looked_ns = 0

    def add(self, descriptor: int, read: Callable[[], None]) -> None:
        """Look at a connection from now on; `read` takes what has come, and never waits."""
        self._readers[descriptor] = read
        self._poll.register(descriptor, select.POLLIN)

    def remove(self, descriptor: int) -> None:
        """No longer; before the descriptor is closed."""
        if self._readers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def between(self, messages: Iterable[Message]) -> Iterator[Message]:
        """The messages, with looks between them."""
        self.look()
        for message in messages:
            yield message
            self.look()

    def look(self) -> None:
        """Handle what has come, unless the last look was just now."""
        now_ns = time.monotonic_ns()
        if not self._readers or now_ns - self._looked_ns < LOOK_NS:
            return
        self._looked_ns = now_ns
        for descriptor, _ in self._poll.poll(0):
            read = self._readers.get(descriptor)
            if read is not None:
                read()

"""The way to one peer: two connections, a batcher, a window of unacknowledged frames; Kafka while the peer is away.

Critical messages have a connection of their own, so that no bulk in a socket's buffer is before them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable

from pipeline.errors import RetriableError
from pipeline.fusion.batcher import CacheFusionBatcher, Frame
from pipeline.fusion.messages import Message, Priority
from topologies.peer_wire import GREETING_S, Sender

log = logging.getLogger(__name__)
UNACKED_FRAMES_MAX = 4  # enough to keep the link busy while an acknowledgement is under way
RECONNECT_S = (0.1, 0.2, 0.5, 1.0, 2.0)
AWAY_S = 1.0  # without a connection for so long, messages take the way through Kafka
OBSERVE_S = 0.05
RATE_MEMORY_S = 10.0  # the link's rate is the highest of the last intervals (as BBR estimates it)


def now_us() -> int:
    """Monotonic time for the batcher."""
    return time.monotonic_ns() // 1000


class PeerLink:
    """Sends messages to one peer. Everything runs in the event loop's thread."""

    def __init__(
        self, node: str, peer: str, address: str, token: bytes, context: ssl.SSLContext | None,
        detour: Callable[[str, Frame], None], batcher: CacheFusionBatcher | None = None,
    ) -> None:  # fmt: skip
        session = time.time_ns()
        self.peer = peer
        self.batcher = batcher or CacheFusionBatcher(peer, session)
        self._express = CacheFusionBatcher(peer, session)
        self._away = CacheFusionBatcher(peer, session)
        self._node, self._token, self._context = node, token, context
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._detour = detour
        self._senders: dict[str, Sender] = {}
        self._wake = asyncio.Event()
        self._sent = self._acked = 0
        self._sent_bytes: dict[int, tuple[int, int, int]] = {}  # frame count -> bytes, messages, time of sending
        self.acked_bytes = 0
        self.rate_bytes_s = 0.0  # of the link, where it is known
        self._rates: list[tuple[float, float]] = []
        self._seen_s = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Connect, and keep connecting."""
        self._tasks = [asyncio.create_task(self._keep(channel)) for channel in ("bulk", "express")]
        self._tasks += [asyncio.create_task(self._pump()), asyncio.create_task(self._observe())]

    async def stop(self) -> None:
        """End the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sender in self._senders.values():
            if sender.transport is not None:
                sender.transport.abort()

    @property
    def connected(self) -> bool:
        """Whether both connections stand."""
        return len(self._senders) == 2

    @property
    def away(self) -> bool:
        """Whether the peer has been out of reach for some time."""
        return not self.connected and time.monotonic() - self._seen_s > AWAY_S

    @property
    def unacked(self) -> int:
        """Bulk frames that were sent and not acknowledged."""
        return self._sent - self._acked

    def sockets(self) -> list[socket.socket]:
        """The sockets of the connections, to look at."""
        transports = [sender.transport for sender in self._senders.values() if sender.transport is not None]
        return [transport.get_extra_info("socket") for transport in transports]

    def send(self, message: Message) -> None:
        """Queue a message; a critical one is written at once. Raises BackPressureError, OversizedMessageError."""
        if self.away:
            self._send_around(message)
        elif message.priority is Priority.CRITICAL and "express" in self._senders:
            self._express.offer(message, at := now_us())
            self._write("express", self._express.take(at, urgent_only=True))
        else:
            self.batcher.offer(message, now_us())
            self._wake.set()

    def _send_around(self, message: Message) -> None:
        """Through Kafka, with what has waited for the peer. The broker batches by itself."""
        for waiting in (*self.batcher.drain(), message):
            self._away.offer(waiting, 0)
        while (frame := self._away.take(now_us())) is not None:
            self._detour(self.peer, frame)

    def _write(self, channel: str, frame: Frame | None) -> None:
        sender = self._senders.get(channel)
        if frame is not None and sender is not None:
            sender.write(frame.buffers)

    # ---- bulk ------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Send frames as they fall due while the window is open."""
        while True:
            at = now_us()
            due = self.batcher.due_us(at)
            if due is None or "bulk" not in self._senders or self.unacked >= UNACKED_FRAMES_MAX:
                self._wake.clear()
                await self._wake.wait()
            elif due > at:
                self._wake.clear()
                try:
                    async with asyncio.timeout((due - at) / 1e6):
                        await self._wake.wait()
                except TimeoutError:
                    continue
            else:
                self._send_frame(at)

    def _send_frame(self, at_us: int) -> None:
        frame = self.batcher.take(at_us)
        if frame is not None:
            self._sent += 1
            self._sent_bytes[self._sent] = (frame.frame_bytes, frame.messages, at_us)
            self._write("bulk", frame)

    def _bulk_acked(self, frames: int) -> None:
        at = now_us()
        while self._acked < min(frames, self._sent):
            self._acked += 1
            size, messages, sent_us = self._sent_bytes.pop(self._acked)
            self.acked_bytes += size
            self.batcher.statistics.timed(messages, at - sent_us)
        self._wake.set()

    async def _observe(self) -> None:
        """Tell the controller how well the link is used: its rate now, to the best of the last seconds."""
        while True:
            before, began_s = self.acked_bytes, time.monotonic()
            await asyncio.sleep(OBSERVE_S)
            now_s = time.monotonic()
            rate = (self.acked_bytes - before) / (now_s - began_s)
            self._rates = [(s, r) for s, r in self._rates if now_s - s < RATE_MEMORY_S] + [(now_s, rate)]
            best = self.rate_bytes_s or max(r for _, r in self._rates)
            if best and rate:
                self.batcher.observe(min(1.0, rate / best), backlog=self.batcher.waiting > self.batcher.controller.size)

    # ---- connections -----------------------------------------------------------------------------

    async def _keep(self, channel: str) -> None:
        attempt = 0
        while True:
            try:
                sender = await self._connect(channel)
            except (OSError, RetriableError, TimeoutError) as error:
                if attempt == 0:
                    log.info("node %s (%s:%d) is not reachable: %s", self.peer, self._host, self._port, error)
                await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])
                attempt += 1
                continue
            attempt = 0
            await sender.closed
            self._seen_s = time.monotonic()
            self._senders.pop(channel, None)
            log.info("node %s: the %s connection was lost", self.peer, channel)

    async def _connect(self, channel: str) -> Sender:
        on_ack = self._bulk_acked if channel == "bulk" else _ignore
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(GREETING_S):
            _, sender = await loop.create_connection(
                lambda: Sender(self._node, self.peer, channel, self._token, on_ack), self._host, self._port,
                ssl=self._context,
            )  # fmt: skip
            if await sender.ready is not None or sender.transport is None:
                raise RetriableError("it has refused the greeting: do both nodes have the same token and peers?")
        if channel == "bulk":
            self._sent = self._acked = 0
            self._sent_bytes.clear()
        self._senders[channel] = sender
        self._wake.set()
        return sender


def _ignore(frames: int) -> None:
    """Acknowledgements of the express connection say nothing: it has no window."""

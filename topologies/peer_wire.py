"""Both ends of a connection between nodes: greeting, frames, acknowledgements.

A connection carries frames one way and acknowledgements (the number of frames taken, 8 bytes) the other way. The
connecting side proves that it knows the token by an HMAC of the other side's nonce (RFC 2104); TLS, when
configured, authenticates both sides by certificate and hides the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable, Sequence

from pipeline.fusion.frame import HEADER_BYTES, FrameError, Header, decode_header, decode_rest
from pipeline.fusion.messages import Buffer, Message
from topologies.peer_express import Express, direct_socket

log = logging.getLogger(__name__)
NONCE_BYTES = 32
GREETING_BYTES_MAX = 512
GREETING_S = 5.0
CHANNELS = ("bulk", "express")
_SIZE = struct.Struct("<H")
_ACK = struct.Struct("<Q")
_BUFFERS_MAX = 1024  # IOV_MAX of Linux
OnFrame = Callable[[str, str, Header, Iterable[Message]], None]
OnRefused = Callable[[str, FrameError], None]


def unsent(buffers: Sequence[Buffer], sent: int) -> list[Buffer]:
    """What is left of the buffers after `sent` bytes."""
    for number, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[number + 1 :]]
        sent -= len(buffer)
    return []


def proof(token: bytes, nonce: bytes, node: str, to: str, channel: str) -> str:
    """What shows that `node` knows the token."""
    return hmac.new(
        token, b"\0".join([nonce, node.encode(), to.encode(), channel.encode()]), hashlib.sha256
    ).hexdigest()


class Receiver(asyncio.BufferedProtocol):
    """The accepting side: reads frames straight into buffers of their size."""

    def __init__(
        self, node: str, peers: frozenset[str], token: bytes, on_frame: OnFrame, on_refused: OnRefused,
        express: Express | None = None,
    ) -> None:  # fmt: skip
        self._node = node
        self._peers = peers
        self._token = token
        self._on_frame = on_frame
        self._on_refused = on_refused
        self._express = express or Express()
        self._direct: socket.socket | None = None
        self._nonce = os.urandom(NONCE_BYTES)
        self._buffer = bytearray(_SIZE.size)
        self._filled = 0
        self._step: Callable[[bytearray], bytearray] = self._greeting_size
        self._header: Header | None = None
        self._frames = 0
        self._transport: asyncio.Transport | None = None
        self.peer, self.channel = "", ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the nonce; a peer that does not greet in time is cut off."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport is needed")
        self._transport = transport
        transport.write(self._nonce)
        asyncio.get_running_loop().call_later(GREETING_S, self._require_greeting)

    def _require_greeting(self) -> None:
        if not self.peer:
            self.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        del sizehint
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Go on when the buffer is full."""
        self._filled += nbytes
        try:
            while self._filled == len(self._buffer) and self._transport is not None:
                full = self._buffer
                self._filled = 0
                self._buffer = self._step(full)
        except FrameError as error:
            self._on_refused(self.peer or "unknown", error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more comes."""
        del exc
        self._transport = None
        if self._direct is not None:
            self._express.remove(self._direct.fileno())
            self._direct.close()
            self._direct = None

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _read_now(self) -> None:
        """Take what has come without waiting for the loop's turn, which then finds nothing."""
        try:
            while self._direct is not None and self._transport is not None and not self._transport.is_closing():
                size = self._direct.recv_into(self.get_buffer(0))
                if size == 0:
                    return
                self.buffer_updated(size)
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("connection of %s: %s", self.peer, error)  # the transport tells of it next

    # ---- steps: each takes a full buffer and returns the next one to fill ------------------------

    def _greeting_size(self, data: bytearray) -> bytearray:
        (size,) = _SIZE.unpack(data)
        if not 0 < size <= GREETING_BYTES_MAX:
            raise FrameError("greeting", f"a greeting of {size} bytes")
        self._step = self._greeting
        return bytearray(size)

    def _greeting(self, data: bytearray) -> bytearray:
        try:
            said = json.loads(data)
            node, channel, shown = str(said["node"]), str(said["channel"]), str(said["proof"])
        except (ValueError, KeyError, TypeError) as error:
            raise FrameError("greeting", "an unreadable greeting") from error
        wanted = proof(self._token, self._nonce, node, self._node, channel)
        if node not in self._peers or channel not in CHANNELS or not hmac.compare_digest(shown, wanted):
            raise FrameError("greeting", f"node {node[:40]!r} is not a peer, or does not know the token")
        self.peer, self.channel = node, channel
        if channel == "express" and self._transport is not None:
            self._direct = direct_socket(self._transport)
            if self._direct is not None:
                self._express.add(self._direct.fileno(), self._read_now)
        self._acknowledge()
        self._step = self._head
        return bytearray(HEADER_BYTES)

    def _head(self, data: bytearray) -> bytearray:
        self._header = decode_header(data)
        self._step = self._rest
        return bytearray(self._header.rest_bytes)

    def _rest(self, data: bytearray) -> bytearray:
        if self._header is None:
            raise FrameError("malformed", "no header")
        messages: Iterable[Message] = decode_rest(self._header, data)
        if self.channel != "express":
            messages = self._express.between(messages)
        self._on_frame(self.peer, self.channel, self._header, messages)
        self._frames += 1
        self._acknowledge()
        self._step = self._head
        return bytearray(HEADER_BYTES)

    def _acknowledge(self) -> None:
        if self._transport is not None:
            self._transport.write(_ACK.pack(self._frames))


class Sender(asyncio.Protocol):
    """The connecting side: greets, then sends what it is given and hears what arrived."""

    def __init__(self, node: str, to: str, channel: str, token: bytes, on_ack: Callable[[int], None]) -> None:
        self._node, self._to, self._channel, self._token = node, to, channel, token
        self._on_ack = on_ack
        self._data = b""
        self._greeted = False
        self.ready = asyncio.get_running_loop().create_future()
        self.closed = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._direct: socket.socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the nonce."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport is needed")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """The nonce, then acknowledgements; only the last one matters."""
        self._data += data
        if not self._greeted:
            if len(self._data) < NONCE_BYTES:
                return
            nonce, self._data, self._greeted = self._data[:NONCE_BYTES], self._data[NONCE_BYTES:], True
            self._greet(nonce)
        whole = len(self._data) - len(self._data) % _ACK.size
        if whole:
            (frames,) = _ACK.unpack_from(self._data, whole - _ACK.size)
            self._data = self._data[whole:]
            if not self.ready.done():
                self.ready.set_result(None)
            self._on_ack(frames)

    def _greet(self, nonce: bytes) -> None:
        greeting = json.dumps({
            "node": self._node, "channel": self._channel,
            "proof": proof(self._token, nonce, self._node, self._to, self._channel),
        }).encode()  # fmt: skip
        if self.transport is not None:
            self.transport.write(_SIZE.pack(len(greeting)) + greeting)
            self._direct = direct_socket(self.transport)

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Send the buffers in order. Without TLS the kernel gathers them; a transport would join them first."""
        if self.transport is None:
            return
        rest: Sequence[Buffer] = buffers
        if self._direct is not None and not self.transport.get_write_buffer_size() and len(buffers) <= _BUFFERS_MAX:
            try:
                rest = unsent(buffers, self._direct.sendmsg(buffers))
            except BlockingIOError:
                rest = buffers
            except OSError as error:
                log.debug("connection to %s: %s", self._to, error)  # the transport tells of it next
        if rest:
            self.transport.writelines(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """The owner connects again."""
        self.transport = None
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        for future in (self.ready, self.closed):
            if not future.done():
                future.set_result(exc)

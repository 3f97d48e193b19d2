"""A TCP proxy that cuts connections, delays, goes silent, and swallows the reply to a COMMIT.

A thread a direction; what it does is changed while connections are open.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

CHUNK_BYTES = 65536
POLL_S = 0.05
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"  # a simple query of the PostgreSQL protocol, the last thing a client sends
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


class Proxy:
    """Forwards 127.0.0.1:`port` to `host`:`to_port`. `faults` counts what was done."""

    def __init__(self, host: str, to_port: int) -> None:
        self.faults: Counter[str] = Counter()
        self.delay_s = 0.0  # of each chunk, both ways
        self.silent = False  # half open: nothing is forwarded, nothing is closed
        self._commits_to_swallow = 0
        self._to = (host, to_port)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(POLL_S)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset all connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _reset(*pair)
        self.faults["connections cut"] += len(pairs)

    def swallow_commits(self, count: int) -> None:
        """Of the next commits, let the server do its work, keep the reply, and reset the client."""
        self._commits_to_swallow = count

    @property
    def commits_left(self) -> int:
        """Commits still to be swallowed."""
        return self._commits_to_swallow

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                server = socket.create_connection(self._to, timeout=5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.append((client, server))
            swallow = threading.Event()
            for source, sink, upward in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, swallow, upward), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, swallow: threading.Event, upward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                while self.silent and not self._closing.is_set():
                    time.sleep(POLL_S)
                if self.delay_s:
                    time.sleep(self.delay_s)
                if upward and data.endswith(COMMIT) and self._take_commit():
                    swallow.set()
                if not upward and swallow.is_set():
                    self.faults["replies to COMMIT swallowed"] += 1
                    break
                sink.sendall(data)
        _reset(source, sink)

    def _take_commit(self) -> bool:
        with self._lock:
            taken = self._commits_to_swallow > 0
            self._commits_to_swallow -= taken
        return taken


def _reset(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            each.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            each.close()

"""TCP ports of the embedded servers: chosen once for a data directory, the same again after a restart."""

from __future__ import annotations

import json
import socket
import zlib
from pathlib import Path

from headrace.embedded.errors import EmbeddedError, io_error

LOOPBACK = "127.0.0.1"
# Below the kernel's range for outgoing connections (from 32768 on). Inside it a client that retries while the
# server is down may be given the server's port as its own: it then connects to itself and keeps the port.
PORT_MIN = 20_000
PORT_MAX = 32_000

_given_out: set[int] = set()  # in this process, so that two servers about to start do not choose the same


def remembered_port(memory: Path, role: str, wanted: int | None) -> int:
    """The port for `role` ("broker", "server", …) of the server whose ports are kept in the file `memory`.

    `wanted` wins; then the remembered port; else a free one, which starts from a number that depends on the
    directory, so that servers started at the same time rarely meet. It is remembered.

    :raises EmbeddedError: the memory cannot be written, or no port is free.
    """
    ports = _read(memory)
    port = wanted if wanted is not None else ports.get(role)
    if port is None:
        port = _free_port(start=zlib.crc32(f"{memory.resolve()} {role}".encode()))
    _given_out.add(port)
    if ports.get(role) != port:
        _write(memory, {**ports, role: port})
    return port


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        # As servers do: connections that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def require_free(name: str, port: int, memory: Path) -> None:
    """:raises EmbeddedError: another program listens on the `port` that belongs to the server `name`."""
    if not is_free(port):
        raise EmbeddedError(
            f"{name} cannot start: port {port} is in use by another program.",
            where=memory,
            remedy=f"Find it with `ss -ltnp 'sport = :{port}'` and stop it, or delete the file named above: "
            "then a free port is chosen (clients must be told).",
        )


def accepts(port: int) -> bool:
    """Whether something accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _free_port(start: int) -> int:
    span = PORT_MAX - PORT_MIN
    for step in range(span):
        port = PORT_MIN + (start + step) % span
        if port not in _given_out and is_free(port):
            return port
    raise EmbeddedError(
        f"No TCP port between {PORT_MIN} and {PORT_MAX} is free.", remedy="Stop some servers, or name a port."
    )


def _read(memory: Path) -> dict[str, int]:
    try:
        return {str(role): int(port) for role, port in json.loads(memory.read_text()).items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}  # none yet, or damaged: choose again
    except OSError as error:
        raise io_error("read the chosen ports", memory, error) from error


def _write(memory: Path, ports: dict[str, int]) -> None:
    try:
        memory.write_text(json.dumps(ports) + "\n")
    except OSError as error:
        raise io_error("remember the chosen ports", memory, error) from error

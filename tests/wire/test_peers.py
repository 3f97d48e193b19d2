"""Two nodes' transport over real sockets: what arrives, who is let in, what a hostile peer can do."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pipeline.fusion.arrival import Arrivals
from pipeline.fusion.batcher import Frame
from pipeline.fusion.frame import FrameError, Header, encode_frame
from pipeline.fusion.messages import Kind, Message, Priority
from topologies import peer_express
from topologies.node_settings import CacheSettings
from topologies.peer_link import PeerLink
from topologies.peer_tls import peer_context
from topologies.peer_wire import NONCE_BYTES, Receiver, proof

TOKEN = b"secret"
WAIT_S = 40.0


class Listener:
    """Node b: collects what arrives."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, bytes]] = []
        self.arrivals = Arrivals()
        self.express = peer_express.Express()
        self.port = 0
        self.receivers: list[Receiver] = []

    def receiver(self) -> Receiver:
        made = Receiver("b", frozenset({"a"}), TOKEN, self.arrived, self.refused, self.express)
        self.receivers.append(made)
        return self.receivers[-1]

    def arrived(self, peer: str, channel: str, header: Header, messages: Iterable[Message]) -> None:
        try:
            self.arrivals.admit(peer, channel, header)
        except FrameError as error:
            self.refused(peer, error)
            return
        self.got += [(peer, channel, bytes(message.body)) for message in messages]

    def refused(self, peer: str, error: FrameError) -> None:
        self.arrivals.refuse(error)


@asynccontextmanager
async def listening(context: ssl.SSLContext | None = None) -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.get_running_loop().create_server(listener.receiver, "127.0.0.1", 0, ssl=context)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
        for receiver in listener.receivers:
            receiver.close()
        await asyncio.sleep(0.01)  # transports close in the loop's next turns


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what is awaited happens in callbacks of other connections
            await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), WAIT_S + 5))


def link_to(
    port: int, token: bytes = TOKEN, node: str = "a", detours: list[Frame] | None = None,
    context: ssl.SSLContext | None = None,
) -> PeerLink:  # fmt: skip
    kept = detours if detours is not None else []
    return PeerLink(node, "b", f"127.0.0.1:{port}", token, context, lambda _, frame: kept.append(frame))


def test_everything_arrives_once_and_in_order() -> None:
    async def body() -> None:
        async with listening() as listener:
            link = link_to(listener.port)
            link.start()
            await until(lambda: link.connected)
            for n in range(3000):
                priority = Priority.CRITICAL if n % 100 == 0 else Priority.NORMAL
                link.send(Message(Kind.BLOCK, priority, n.to_bytes(4, "big") * (1 + n % 3000)))
            await until(lambda: len(listener.got) == 3000)
            numbers = {"bulk": [], "express": []}  # type: dict[str, list[int]]
            for peer, channel, data in listener.got:
                number = int.from_bytes(data[:4], "big")
                assert (peer, len(data)) == ("a", 4 * (1 + number % 3000))
                numbers[channel].append(number)
            assert numbers["express"] == list(range(0, 3000, 100))
            assert numbers["bulk"] == [n for n in range(3000) if n % 100]
            assert not listener.arrivals.refused
            await link.stop()

    run(body)


@pytest.mark.parametrize(("token", "node"), [(b"guess", "a"), (b"", "a"), (TOKEN, "stranger")])
def test_who_does_not_know_the_token_or_is_no_peer_is_not_let_in(token: bytes, node: str) -> None:
    async def body() -> None:
        async with listening() as listener:
            link = link_to(listener.port, token, node)
            link.start()
            await until(lambda: listener.arrivals.refused["greeting"] >= 2)
            assert not link.connected
            await link.stop()

    run(body)


def test_messages_take_the_detour_while_the_peer_is_away() -> None:
    async def body() -> None:
        detours: list[Frame] = []
        link = link_to(1, detours=detours)
        link.start()
        link.send(Message(Kind.BLOCK, Priority.NORMAL, b"waits"))
        await until(lambda: link.away)
        link.send(Message(Kind.BLOCK, Priority.LOW, b"goes"))
        assert b"waits" in b"".join(b"".join(frame.buffers) for frame in detours)
        assert link.batcher.waiting == 0
        await link.stop()

    run(body)


def test_a_connection_that_breaks_is_made_again() -> None:
    async def body() -> None:
        async with listening() as listener:
            link = link_to(listener.port)
            link.start()
            await until(lambda: link.connected)
            before = [*link._senders.values()]
            for sender in before:
                assert sender.transport is not None
                sender.transport.abort()
            await until(lambda: link.connected and not set(before) & set(link._senders.values()))
            link.send(Message(Kind.BLOCK, Priority.NORMAL, b"again"))
            link.send(Message(Kind.REQUEST, Priority.CRITICAL, b"now"))
            await until(lambda: len(listener.got) == 2)
            await link.stop()

    run(body)


async def greeted(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    nonce = await reader.readexactly(NONCE_BYTES)
    said = {"node": "a", "channel": "bulk", "proof": proof(TOKEN, nonce, "a", "b", "bulk")}
    data = json.dumps(said).encode()
    writer.write(struct.pack("<H", len(data)) + data)
    await reader.readexactly(8)
    return reader, writer


def frame(number: int) -> bytes:
    return b"".join(encode_frame([Message(Kind.BLOCK, Priority.LOW, b"data")], 1, number, None, 4))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n....................", "no_frame"),
        (frame(1)[:3] + b"\x07" + frame(1)[4:], "version"),
        (frame(1)[:24] + b"\xff\xff\xff\xff\xff\xff\xff\xff" + frame(1)[32:], "oversized"),
        (frame(1) + frame(1), "replayed"),
    ],
)  # fmt: skip
def test_a_hostile_frame_is_counted_and_the_node_goes_on(sent: bytes, reason: str) -> None:
    async def body() -> None:
        async with listening() as listener:
            _, writer = await greeted(listener.port)
            writer.write(sent)
            await until(lambda: listener.arrivals.refused[reason] == 1)
            writer.close()
            await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
            link = link_to(listener.port)
            link.start()
            await until(lambda: link.connected)
            link.send(Message(Kind.BLOCK, Priority.NORMAL, b"after"))
            await until(lambda: listener.got and listener.got[-1][2] == b"after")
            await link.stop()

    run(body)


@pytest.mark.parametrize("sent", [b"\0\0", b"\xff\xff", b"\5\0[1,2]", b"\2\0{}", b"\4\0\xff\xff\xff\xff"])
def test_a_bad_greeting_is_cut_off(sent: bytes) -> None:
    async def body() -> None:
        async with listening() as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            await reader.readexactly(NONCE_BYTES)
            writer.write(sent)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            assert listener.arrivals.refused["greeting"] == 1
            writer.close()

    run(body)


def certificates(directory: Path, name: str) -> CacheSettings:
    """An authority of its own and a certificate that it has signed."""
    made = {kind: directory / f"{name}-{kind}.pem" for kind in ("ca", "ca-key", "cert", "key")}
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    signed = ["-CA", str(made["ca"]), "-CAkey", str(made["ca-key"])]
    for subject, key, cert, more in (("ca", "ca-key", "ca", []), ("node", "key", "cert", signed)):
        command = [*new, "-subj", f"/CN={subject}", "-keyout", str(made[key]), "-out", str(made[cert]), *more]
        subprocess.run(command, check=True, capture_output=True)
    return CacheSettings(tls_cert=made["cert"], tls_key=made["key"], tls_ca=made["ca"])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_with_certificates_only_nodes_of_the_same_authority_are_heard(tmp_path: Path) -> None:
    ours, theirs = certificates(tmp_path, "ours"), certificates(tmp_path, "theirs")

    async def body() -> None:
        async with listening(peer_context(ours, ssl.Purpose.CLIENT_AUTH)) as listener:
            good = link_to(listener.port, context=peer_context(ours, ssl.Purpose.SERVER_AUTH))
            bad = link_to(listener.port, context=peer_context(theirs, ssl.Purpose.SERVER_AUTH))
            plain = link_to(listener.port)
            for link in (good, bad, plain):
                link.start()
            await until(lambda: good.connected)
            good.send(Message(Kind.BLOCK, Priority.NORMAL, b"secret" * 100_000))
            await until(lambda: listener.got)
            assert listener.got[0][2] == b"secret" * 100_000
            assert not bad.connected
            assert not plain.connected
            for link in (good, bad, plain):
                await link.stop()

    run(body)


def test_a_critical_message_is_handled_between_two_of_a_bulk_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the first one is handled, and does not wait for the last one."""
    monkeypatch.setattr(peer_express, "LOOK_NS", 0)
    bulk = [Message(Kind.BLOCK, Priority.LOW, b"%d" % n) for n in range(100)]
    got: list[bytes] = []
    frames: list[int] = []

    async def body() -> None:
        async with listening() as listener:
            link = link_to(listener.port)

            def arrived(peer: str, channel: str, header: Header, messages: Iterable[Message]) -> None:
                frames.append(header.count)
                for message in messages:
                    got.append(bytes(message.body))
                    if got == [b"0"]:
                        link.send(Message(Kind.REQUEST, Priority.CRITICAL, b"now"))
                    if b"now" not in got:
                        time.sleep(0.01)

            monkeypatch.setattr(listener, "arrived", arrived)
            link.start()
            await until(lambda: link.connected)
            for message in bulk:
                link.send(message)
            await until(lambda: len(got) == len(bulk) + 1)
            assert frames[0] > 2
            assert got.index(b"now") < frames[0]
            assert [body for body in got if body != b"now"] == [message.body for message in bulk]
            await link.stop()

    run(body)

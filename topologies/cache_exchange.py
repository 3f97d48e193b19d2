"""Blocks between nodes: asking a master, answering, shipping what was remastered, signs of life.

Through Kafka (`fusion-messages`) while a peer is out of reach.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakSet

from confluent_kafka import Message as Record

from pipeline.cache.blocks import Block
from pipeline.cache.protocol import (
    Position,
    Request,
    accept_block,
    decode_answer,
    decode_position,
    decode_request,
    encode_answer,
    encode_position,
    encode_request,
)
from pipeline.cache.records import block_of, record_of
from pipeline.directory.block import BlockId
from pipeline.errors import HeadraceError
from pipeline.fusion.arrival import Arrivals
from pipeline.fusion.batcher import Frame
from pipeline.fusion.frame import FrameError, Header, decode_frame
from pipeline.fusion.messages import BackPressureError, Kind, Message, OversizedMessageError, Priority
from schemas.errors import SchemaError
from schemas.fusion_block import FusionBlock, encode_fusion_block
from topologies.kafka import read_from_end
from topologies.peer_link import PeerLink
from topologies.peer_wire import Receiver, proof
from topologies.topics import KEYED_PARTITIONS

if TYPE_CHECKING:
    from topologies.cache_node import CacheNode

log = logging.getLogger(__name__)
FETCH_S = 0.5  # then the target is asked
ANSWER_S = 0.4  # how long a master waits for the version that is asked for
ALIVE_S = 0.5  # between two signs of life
FETCHES_MAX = 1000
SHIPPED_MAX = 5000  # blocks that a remaster ships; the others come when they are asked for
TAIL_S = 0.2


class Exchange:
    """This node's traffic with its peers. Runs in the event loop's thread, but for the Kafka tail."""

    def __init__(self, node: CacheNode) -> None:
        self._node = node
        self._settings = node.settings.cache
        token = self._settings.token
        self._token = token.get_secret_value().encode() if token is not None else b""
        self.links: dict[str, PeerLink] = {}
        self.arrivals = Arrivals()
        self._fetches: dict[int, tuple[BlockId, str, asyncio.Future[bool]]] = {}
        self._by_block: dict[BlockId, asyncio.Future[bool]] = {}
        self._number = 0
        self._server: asyncio.Server | None = None
        self._receivers: WeakSet[Receiver] = WeakSet()
        self._alive_s = 0.0
        self._stopping = threading.Event()
        self._tail: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, connect; nothing without peers."""
        settings = self._settings
        if not settings.peers:
            return
        host, _, port = settings.listen.rpartition(":")
        names = frozenset(settings.peers)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: self._receive(names), host, int(port),
            ssl=self._context(ssl.Purpose.CLIENT_AUTH),
        )  # fmt: skip
        for peer, address in settings.peers.items():
            context = self._context(ssl.Purpose.SERVER_AUTH)
            self.links[peer] = PeerLink(settings.node, peer, address, self._token, context, self._detour)
            self.links[peer].start()
        loop = asyncio.get_running_loop()
        self._tail = threading.Thread(target=self._follow_detour, args=(loop,), name="fusion-messages", daemon=True)
        self._tail.start()

    def _receive(self, names: frozenset[str]) -> Receiver:
        receiver = Receiver(self._settings.node, names, self._token, self._arrived, self._refused)
        self._receivers.add(receiver)
        return receiver

    def _context(self, purpose: ssl.Purpose) -> ssl.SSLContext | None:
        """TLS with certificates on both sides. Names are not compared: the token says which node it is."""
        settings = self._settings
        if settings.tls_cert is None or settings.tls_key is None or settings.tls_ca is None:
            return None
        context = ssl.create_default_context(purpose, cafile=str(settings.tls_ca))
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def stop(self) -> None:
        """End all connections."""
        self._stopping.set()
        if self._server is not None:
            self._server.close()
        for receiver in [*self._receivers]:
            receiver.close()
        for task in self._tasks:
            task.cancel()
        for link in self.links.values():
            await link.stop()
        if self._tail is not None:
            await asyncio.to_thread(self._tail.join, 2.0)

    def tick(self) -> None:
        """Membership and signs of life, about ten times a second."""
        if self._node.members.see({peer for peer, link in self.links.items() if link.connected}):
            self._remastered()
        now_s = time.monotonic()
        if self.links and now_s - self._alive_s >= ALIVE_S:
            self._alive_s = now_s
            self._tell_positions()

    def _tell_positions(self) -> None:
        members = self._node.members
        for stream, reader in self._node.readers.items():
            cache = reader.follower.cache
            body = encode_position(Position(cache.generation, cache.visible, members.epoch, members.nodes, stream))
            for link in self.links.values():
                if link.connected:
                    self._send(link, Message(Kind.POSITION, Priority.HIGH, body))

    def _remastered(self) -> None:
        """Ship the blocks that another node masters now; they stay here as copies."""
        members, buckets = self._node.members, self._settings.buckets
        log.info("nodes %s in epoch %d", ", ".join(members.nodes), members.epoch)
        for reader in self._node.readers.values():
            with self._node.lock:
                given = reader.follower.cache.remastered()
            for block_id in given[:SHIPPED_MAX]:
                link = self.links.get(members.owner(block_id).node)
                record = self._record(block_id, buckets)
                if link is None or record is None:
                    continue
                if not self._send(link, Message(Kind.BLOCK, Priority.LOW, encode_answer(0, record))):
                    break
                self._node.counts["shipped"] += 1

    def _send(self, link: PeerLink, message: Message) -> bool:
        """Send, or count why not: nothing here is worth waiting for."""
        try:
            link.send(message)
        except (BackPressureError, OversizedMessageError) as error:
            self._node.counts["unsent"] += 1
            log.debug("%s", error)
            return False
        return True

    def _record(self, block_id: BlockId, buckets: int) -> bytes | None:
        reader = self._node.readers.get(block_id.stream)
        if reader is None:
            return None
        with self._node.lock:
            cache = reader.follower.cache
            exported = cache.export(block_id) if cache.current else None
            if exported is None:
                return None
            record = record_of(block_id, exported[0], buckets, cache.generation, exported[1], self._settings.node)
        # The master's epoch now: what the receiver compares with.
        epoch = self._node.members.owner(block_id).epoch
        try:
            return encode_fusion_block(replace(record, epoch=epoch), compress=False)
        except SchemaError as error:
            log.warning("block %s can't be sent: %s", block_id, error)
            return None

    # ---- asking ----------------------------------------------------------------------------------

    async def fetch(self, block_id: BlockId) -> bool:
        """Get a block from its master; whether it is here now."""
        under_way = self._by_block.get(block_id)
        if under_way is not None:
            return await asyncio.shield(under_way)
        owner = self._node.members.owner(block_id)
        link = self.links.get(owner.node)
        if link is None or link.away or len(self._fetches) >= FETCHES_MAX:
            return False
        cache = self._node.readers[block_id.stream].follower.cache
        with self._node.lock:
            if self._node.store.get(block_id) is not None:
                return False  # it is here, and does not know the key
            version = cache.begin_fetch(block_id)
        self._number += 1
        number, future = self._number, asyncio.get_running_loop().create_future()
        self._fetches[number] = (block_id, owner.node, future)
        self._by_block[block_id] = future
        request = encode_request(Request(number, cache.generation, version, block_id))
        self._node.counts["fetches"] += 1
        try:
            if not self._send(link, Message(Kind.REQUEST, Priority.CRITICAL, request)):
                return False
            async with asyncio.timeout(FETCH_S):
                return await asyncio.shield(future)
        except TimeoutError:
            self._node.counts["fetch_timeouts"] += 1
            return False
        finally:
            del self._fetches[number], self._by_block[block_id]
            if not future.done():
                future.set_result(False)
            with self._node.lock:
                cache.end_fetch(block_id)

    # ---- arriving --------------------------------------------------------------------------------

    def _refused(self, peer: str, error: FrameError) -> None:
        self.arrivals.refuse(error)
        log.warning("from node %s: %s", peer, error)

    def _arrived(self, peer: str, channel: str, header: Header, messages: list[Message]) -> None:
        """A frame. Refused ones and refused messages are counted, and the node goes on."""
        try:
            self.arrivals.admit(peer, channel, header)
        except FrameError as error:
            self._refused(peer, error)
            return
        for message in messages:
            try:
                self._handle(peer, message)
            except FrameError as error:
                self._refused(peer, error)

    def _handle(self, peer: str, message: Message) -> None:
        if message.kind is Kind.POSITION:
            said = decode_position(message.body)
            if self._node.members.hear(said.nodes, said.epoch):
                self._remastered()
        elif message.kind is Kind.REQUEST:
            self._answer_soon(peer, decode_request(message.body))
        else:
            self._take_answer(peer, message)

    def _take_answer(self, peer: str, message: Message) -> None:
        number, record = decode_answer(message.body)
        block_id, asked, future = self._fetches.get(number, (None, "", None))
        if number and asked != peer:
            raise FrameError("unasked", f"an answer to request {number}, which was not sent to {peer}")
        installed = message.kind is Kind.BLOCK and self._install(peer, record, block_id)
        if future is not None and not future.done():
            future.set_result(installed)

    def _install(self, peer: str, record: bytes, asked: BlockId | None) -> bool:
        node = self._node
        block = accept_block(record, peer, self._settings.buckets, self._known, node.members.owner, self._settings.node)
        block_id, content = _unpack(block)
        if asked is not None and block_id != asked:
            raise FrameError("unasked", f"{block_id} came for {asked}")
        with node.lock:
            taken = node.readers[block_id.stream].follower.cache.install(block_id, content, block.generation)
        node.counts["blocks_taken" if taken else "blocks_late"] += 1
        return taken

    def _known(self, block_id: BlockId) -> bool:
        reader = self._node.readers.get(block_id.stream)
        return reader is not None and reader.follower.wanted(block_id[1:3])

    def _answer_soon(self, peer: str, request: Request) -> None:
        if not self._known(request.block) or request.block.bucket >= self._settings.buckets:
            raise FrameError("unknown_block", f"{request.block} is not cached here")
        task = asyncio.create_task(self._answer(peer, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, peer: str, request: Request) -> None:
        """Send the block once it is as new as asked for; say so when it is not here."""
        node, record = self._node, None
        try:
            await node.wait_visible(request.block.stream, request.version, ANSWER_S)
            cache = node.readers[request.block.stream].follower.cache
            if cache.generation == request.generation:
                record = self._record(request.block, self._settings.buckets)
        except HeadraceError as error:
            log.debug("request of %s: %s", peer, error)
        kind = Kind.ABSENT if record is None else Kind.BLOCK
        node.counts["answers" if record is not None else "answers_absent"] += 1
        link = self.links.get(peer)
        if link is not None:
            self._send(link, Message(kind, Priority.NORMAL, encode_answer(request.number, record or b"")))

    # ---- through Kafka ---------------------------------------------------------------------------

    def _detour(self, peer: str, frame: Frame) -> None:
        """Leave a frame in `fusion-messages`; lost ones are asked for again."""
        self._node.counts["detours"] += 1
        data, sender = b"".join(frame.buffers), self._settings.node
        shown = proof(self._token, data, sender, peer, "kafka")
        try:
            self._node.producer.produce(
                self._node.settings.topic("fusion-messages"), data, key=peer,
                headers={"from": sender.encode(), "proof": shown.encode()},
            )  # fmt: skip
            self._node.producer.poll(0)
        except BufferError:
            self._node.counts["unsent"] += 1

    def _follow_detour(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand frames for this node to the loop. They come from whoever may write the topic."""
        settings = self._node.settings
        consumer = read_from_end(settings, settings.topic("fusion-messages"), list(range(KEYED_PARTITIONS)))
        try:
            while not self._stopping.is_set():
                for record in consumer.consume(100, timeout=TAIL_S):
                    if record.error() is None and record.key() == self._settings.node.encode():
                        loop.call_soon_threadsafe(self._arrived_around, record)
        finally:
            consumer.close()

    def _arrived_around(self, record: Record) -> None:
        headers, value = dict(record.headers() or ()), record.value() or b""
        peer, shown = _text(headers.get("from")), _text(headers.get("proof"))
        try:
            wanted = proof(self._token, value, peer, self._settings.node, "kafka")
            if peer not in self.links or not hmac.compare_digest(shown.encode(), wanted.encode()):
                raise FrameError("greeting", f"a record of topic fusion-messages from {peer[:40]!r} without its proof")
            header, messages = decode_frame(value)
        except FrameError as error:
            self._refused(peer, error)
            return
        self._arrived(peer, "kafka", header, messages)


def _text(value: object) -> str:
    """A record header as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _unpack(block: FusionBlock) -> tuple[BlockId, Block]:
    try:
        return block_of(block)
    except SchemaError as error:
        raise FrameError("damaged_block", str(error)) from error

"""Blocks between nodes: asking a master, answering, shipping what was remastered, signs of life.

Through Kafka (`fusion-messages`) while a peer is out of reach.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakSet

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
from pipeline.fusion.frame import FrameError, Header
from pipeline.fusion.messages import BackPressureError, Kind, Message, OversizedMessageError, Priority
from schemas.errors import SchemaError
from schemas.fusion_block import FusionBlock, encode_fusion_block
from topologies.cache_detour import Detour
from topologies.peer_link import PeerLink
from topologies.peer_tls import peer_context
from topologies.peer_wire import Receiver

if TYPE_CHECKING:
    from topologies.cache_node import CacheNode

log = logging.getLogger(__name__)
FETCH_S = 0.5  # then the target is asked
ANSWER_S = 0.4  # how long a master waits for the version that is asked for
ALIVE_S = 0.5  # between two signs of life
FETCHES_MAX = 1000
SHIPPED_MAX = 5000  # blocks that a remaster ships; the others come when they are asked for
GONE_S = 3.0  # a peer that is only heard through Kafka is gone after so long without a sign of life


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
        self._heard_s: dict[str, float] = {}  # peer -> when it was heard through Kafka
        self._detour = Detour(node.settings, node.producer, self._token, self._refused)
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
            ssl=peer_context(settings, ssl.Purpose.CLIENT_AUTH),
        )  # fmt: skip
        for peer, address in settings.peers.items():
            context = peer_context(settings, ssl.Purpose.SERVER_AUTH)
            self.links[peer] = PeerLink(settings.node, peer, address, self._token, context, self._detour.send)
            self.links[peer].start()
        loop = asyncio.get_running_loop()
        self._detour.start(loop, self._arrived_around)

    def _receive(self, names: frozenset[str]) -> Receiver:
        receiver = Receiver(self._settings.node, names, self._token, self._arrived, self._refused)
        self._receivers.add(receiver)
        return receiver

    async def stop(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for receiver in [*self._receivers]:
            receiver.close()
        for task in self._tasks:
            task.cancel()
        for link in self.links.values():
            await link.stop()
        await asyncio.to_thread(self._detour.stop)

    def tick(self) -> None:
        """Membership and signs of life, about ten times a second."""
        now_s = time.monotonic()
        near = {peer for peer, link in self.links.items() if link.connected}
        far = {peer for peer, heard_s in self._heard_s.items() if now_s - heard_s < GONE_S}
        if self._node.members.see(near | far):
            self._remastered()
        if self.links and now_s - self._alive_s >= ALIVE_S:
            self._alive_s = now_s
            self._tell_positions()

    def _tell_positions(self) -> None:
        """To all peers: one that can't be reached directly hears it through Kafka."""
        members = self._node.members
        for stream, reader in self._node.readers.items():
            cache = reader.follower.cache
            body = encode_position(Position(cache.generation, cache.visible, members.epoch, members.nodes, stream))
            for link in self.links.values():
                if link.connected or link.away:
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
        if link is None or len(self._fetches) >= FETCHES_MAX:
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

    def _arrived_around(self, peer: str, header: Header, messages: list[Message]) -> None:
        """A frame that came through Kafka."""
        self._heard_s[peer] = time.monotonic()
        self._node.counts["detoured"] += 1
        self._arrived(peer, "kafka", header, messages)

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


def _unpack(block: FusionBlock) -> tuple[BlockId, Block]:
    try:
        return block_of(block)
    except SchemaError as error:
        raise FrameError("damaged_block", str(error)) from error

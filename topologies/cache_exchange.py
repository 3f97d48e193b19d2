"""This node and its peers: connections, signs of life, shipping what was remastered; requests are in Transfers.

Through Kafka (`fusion-messages`) while a peer is out of reach.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Iterable
from weakref import WeakSet

from pipeline.cache.protocol import (
    Position,
    decode_position,
    decode_request,
    encode_answer,
    encode_position,
)
from pipeline.directory.block import BlockId
from pipeline.directory.directory import Change
from pipeline.fusion.arrival import Arrivals
from pipeline.fusion.frame import FrameError, Header
from pipeline.fusion.messages import BackPressureError, Kind, Message, OversizedMessageError, Priority
from topologies.cache_detour import Detour
from topologies.cache_state import NodeState
from topologies.cache_transfers import Transfers
from topologies.peer_express import Express
from topologies.peer_link import PeerLink
from topologies.peer_tls import peer_context
from topologies.peer_wire import Receiver

log = logging.getLogger(__name__)
ALIVE_S = 0.5  # between two signs of life
SHIPPED_MAX = 5000  # blocks that a remaster ships; the others come when they are asked for
GONE_S = 3.0  # a peer that is only heard through Kafka is gone after so long without a sign of life


class Exchange:
    """This node's traffic with its peers. Runs in the event loop's thread, but for the Kafka tail."""

    def __init__(self, node: NodeState) -> None:
        self._node = node
        self._settings = node.settings.cache
        token = self._settings.token
        self._token = token.get_secret_value().encode() if token is not None else b""
        self.links: dict[str, PeerLink] = {}
        self.arrivals = Arrivals()
        self.transfers = Transfers(node, self._send_to)
        self._server: asyncio.Server | None = None
        self._receivers: WeakSet[Receiver] = WeakSet()
        self._express = Express()
        self._alive_s = 0.0
        self._heard_s: dict[str, float] = {}  # peer -> when it was heard through Kafka
        self._detour = Detour(node.settings, node.producer, self._token, self._refused)

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
        receiver = Receiver(self._settings.node, names, self._token, self._arrived, self._refused, self._express)
        self._receivers.add(receiver)
        return receiver

    async def stop(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for receiver in [*self._receivers]:
            receiver.close()
        self.transfers.stop()
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
        """The nodes have changed: ship the blocks that another node masters now; they stay here as copies."""
        log.info("nodes %s in epoch %d", ", ".join(self._node.members.nodes), self._node.members.epoch)
        for reader in self._node.readers.values():
            with self._node.lock:
                given = reader.follower.cache.remastered()
            self._ship(given)

    def moved(self, change: Change) -> None:
        """The directory has moved a block: its new master gets it, or learns who had it."""
        block, before, after = change.block, change.before.node, change.after.node
        reader = self._node.readers.get(block.stream)
        if reader is None:
            return
        with self._node.lock:
            given = reader.follower.cache.remastered([block])
        if before == self._settings.node:
            self._ship(given)
        elif after == self._settings.node and before:
            self.transfers.holders.note(block, before)

    def _ship(self, given: list[BlockId]) -> None:
        for block_id in given[:SHIPPED_MAX]:
            master = self._node.members.owner(block_id).node
            record = self.transfers.record(block_id) if master in self.links else None
            if record is None:
                continue
            if not self._send_to(master, Message(Kind.BLOCK, Priority.LOW, encode_answer(0, record))):
                break
            self._node.counts["shipped"] += 1

    def _send_to(self, peer: str, message: Message) -> bool:
        link = self.links.get(peer)
        return link is not None and self._send(link, message)

    def _send(self, link: PeerLink, message: Message) -> bool:
        """Send, or count why not: nothing here is worth waiting for."""
        try:
            link.send(message)
        except (BackPressureError, OversizedMessageError) as error:
            self._node.counts["unsent"] += 1
            log.debug("%s", error)
            return False
        return True

    # ---- arriving --------------------------------------------------------------------------------

    def _refused(self, peer: str, error: FrameError) -> None:
        self.arrivals.refuse(error)
        log.warning("from node %s: %s", peer, error)

    def _arrived(self, peer: str, channel: str, header: Header, messages: Iterable[Message]) -> None:
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
            self.transfers.asked_for(peer, decode_request(message.body))
        else:
            self.transfers.take(peer, message)

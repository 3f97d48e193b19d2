"""Blocks on request: asking for one, answering, passing a request on to who has the block.

Two steps where the node that is asked has the block, else three: the master passes the request on, and the holder
answers the requester directly. A request is passed on once. What comes is checked, and joined with the changes since.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from pipeline.cache.blocks import Block
from pipeline.cache.protocol import Request, accept_block, decode_answer, encode_answer, encode_request
from pipeline.cache.records import block_of, record_of
from pipeline.directory.block import BlockId
from pipeline.directory.holders import Holders
from pipeline.directory.routes import Outcome, Route, Routes
from pipeline.errors import HeadraceError
from pipeline.fusion.frame import FrameError
from pipeline.fusion.messages import Kind, Message, Priority
from schemas.errors import SchemaError
from schemas.fusion_block import FusionBlock, encode_fusion_block
from topologies.cache_state import NodeState

log = logging.getLogger(__name__)
FETCH_S = 0.5  # then another way is tried, or the target asked
ANSWER_S = 0.4  # how long a node waits for the version that is asked for
FETCHES_MAX = 1000
TRIES_MAX = 2  # the way that was learned, then through the master


class Fetched(Enum):
    """How a fetch ended."""

    HERE = "here"  # the block is here now
    ABSENT = "absent"  # nobody has it: this node may keep what it reads of it
    NOT = "not"  # it is here already and does not know the key, or it did not come in time


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that waits for its answer."""

    block: BlockId
    route: Route
    epoch: int
    at_ns: int
    answer: asyncio.Future[Fetched]


class Transfers:
    """This node's requests and answers. Runs in the event loop's thread. `send` queues a message for a peer."""

    def __init__(self, node: NodeState, send: Callable[[str, Message], bool]) -> None:
        self._node = node
        self._me = node.settings.cache.node
        self._buckets = node.settings.cache.buckets
        self._send = send
        self.routes = Routes(self._me)
        self.holders = Holders()
        self._asked: dict[int, Asked] = {}
        self._by_block: dict[BlockId, asyncio.Future[Fetched]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Answer nobody any more."""
        for task in self._tasks:
            task.cancel()

    # ---- asking ----------------------------------------------------------------------------------

    async def fetch(self, block_id: BlockId) -> Fetched:
        """Get a block from who has it. Readers of one block share a request."""
        under_way = self._by_block.get(block_id)
        if under_way is not None:
            return await asyncio.shield(under_way)
        if len(self._asked) >= FETCHES_MAX:
            return Fetched.NOT
        together = self._by_block[block_id] = asyncio.get_running_loop().create_future()
        found = Fetched.NOT
        try:
            found = await self._try_ways(block_id)
        finally:
            del self._by_block[block_id]
            together.set_result(found)
        return found

    async def _try_ways(self, block_id: BlockId) -> Fetched:
        found, before = Fetched.NOT, Route("", "")
        for number in range(TRIES_MAX):
            route = self._route(block_id)
            if not route.ask or route == before or block_id in self._node.store:
                break
            if number:
                self.routes.retried()
            found, before = await self._ask(block_id, route), route
            if found is Fetched.HERE:
                break
        return found

    def _route(self, block_id: BlockId) -> Route:
        members = self._node.members
        owner = members.owner(block_id)
        holders = members.holders(block_id)
        if owner.node == self._me:
            holders = (*holders, *self.holders.of(block_id, members.nodes, self._me))
        return self.routes.plan(block_id, owner, members.nodes, holders)

    async def _ask(self, block_id: BlockId, route: Route) -> Fetched:
        node, number = self._node, secrets.randbits(64) or 1
        cache = node.readers[block_id.stream].follower.cache
        with node.lock:
            version = cache.begin_fetch(block_id)
        answer: asyncio.Future[Fetched] = asyncio.get_running_loop().create_future()
        epoch = node.members.owner(block_id).epoch
        self._asked[number] = Asked(block_id, route, epoch, time.monotonic_ns(), answer)
        request = encode_request(Request(number, cache.generation, version, block_id))
        node.counts["fetches"] += 1
        try:
            if not self._send(route.ask, Message(Kind.REQUEST, Priority.CRITICAL, request)):
                self.routes.failed(block_id, Outcome.BUSY)
                return Fetched.NOT
            async with asyncio.timeout(FETCH_S):
                return await answer
        except TimeoutError:
            self.routes.failed(block_id, Outcome.LOST)
            node.counts["fetch_timeouts"] += 1
            return Fetched.NOT
        finally:
            del self._asked[number]
            with node.lock:
                cache.end_fetch(block_id)

    # ---- what arrives ----------------------------------------------------------------------------

    def take(self, peer: str, message: Message) -> None:
        """A block, asked for or shipped, or the news that there is none. Raises FrameError."""
        number, record = decode_answer(message.body)
        asked = self._asked.get(number)
        if asked is None and number:
            raise FrameError("unasked", f"an answer of {peer} to request {number}, which was not made or was given up")
        found = Fetched.ABSENT if message.kind is Kind.ABSENT else Fetched.NOT
        try:
            if message.kind is Kind.BLOCK:
                found = Fetched.HERE if self._install(peer, record, asked) else Fetched.NOT
        except FrameError:
            self._settle(asked, peer, found, came=False)
            raise
        self._settle(asked, peer, found, came=message.kind is Kind.BLOCK)

    def _settle(self, asked: Asked | None, peer: str, found: Fetched, *, came: bool) -> None:
        """Count the answer, and let who waits for it go on."""
        if asked is None:
            return
        if came:
            latency_us = (time.monotonic_ns() - asked.at_ns) / 1000
            self.routes.answered(asked.block, asked.route, peer, asked.epoch, latency_us)
        else:
            self.routes.failed(asked.block, Outcome.BUSY)
            if found is Fetched.ABSENT:
                self.holders.forget(asked.block, peer)  # else a master asks it again at each miss
        if not asked.answer.done():
            asked.answer.set_result(found)

    def _install(self, peer: str, record: bytes, asked: Asked | None) -> bool:
        node = self._node
        block = accept_block(
            record, peer, self._buckets, self._known, node.members.owner, self._me, asked=asked is not None
        )
        block_id, content = _unpack(block)
        if asked is not None and block_id != asked.block:
            raise FrameError("unasked", f"{block_id} came for {asked.block}")
        with node.lock:
            taken = node.readers[block_id.stream].follower.cache.install(block_id, content, block.generation)
        node.counts["blocks_taken" if taken else "blocks_late"] += 1
        return taken

    def _known(self, block_id: BlockId) -> bool:
        reader = self._node.readers.get(block_id.stream)
        return reader is not None and reader.follower.wanted(block_id[1:3])

    # ---- answering -------------------------------------------------------------------------------

    def asked_for(self, peer: str, request: Request) -> None:
        """Answer a request soon, or pass it on now. Raises FrameError for one that makes no sense here."""
        if not self._known(request.block) or request.block.bucket >= self._buckets:
            raise FrameError("unknown_block", f"{request.block} is not cached here")
        requester = request.requester or peer
        if requester not in self._node.settings.cache.peers:
            raise FrameError("unknown_node", f"{peer} asks for node {requester[:40]!r}, which is no peer")
        if not request.requester and self._pass_on(requester, request):
            return
        task = asyncio.create_task(self._answer(requester, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pass_on(self, requester: str, request: Request) -> bool:
        """Let a holder answer, if the block is not here; whether one was asked to."""
        node, block = self._node, request.block
        if block in node.store:
            return False
        for holder in self.holders.of(block, node.members.nodes, requester):
            body = encode_request(replace(request, requester=requester))
            if self._send(holder, Message(Kind.REQUEST, Priority.CRITICAL, body)):
                self.holders.note(block, requester)
                node.counts["passed_on"] += 1
                return True
        return False

    async def _answer(self, requester: str, request: Request) -> None:
        """Send the block once it is as new as asked for; say so when it is not here."""
        node, record = self._node, None
        try:
            reader = node.readers[request.block.stream]
            await reader.wait_visible(request.version, ANSWER_S)
            cache = reader.follower.cache
            if cache.generation == request.generation:
                record = self.record(request.block)
        except HeadraceError as error:
            log.debug("request of %s: %s", requester, error)
        kind = Kind.ABSENT if record is None else Kind.BLOCK
        node.counts["answers" if record is not None else "answers_absent"] += 1
        self.holders.note(request.block, requester)
        self._send(requester, Message(kind, Priority.NORMAL, encode_answer(request.number, record or b"")))

    def record(self, block_id: BlockId) -> bytes | None:
        """A block as it is sent; None when it is not here."""
        reader = self._node.readers.get(block_id.stream)
        if reader is None:
            return None
        with self._node.lock:
            cache = reader.follower.cache
            exported = cache.export(block_id) if cache.current else None
            if exported is None:
                return None
            record = record_of(block_id, exported[0], self._buckets, cache.generation, exported[1], self._me)
        # The master's epoch now: what the receiver compares with.
        epoch = self._node.members.owner(block_id).epoch
        try:
            return encode_fusion_block(replace(record, epoch=epoch), compress=False)
        except SchemaError as error:
            log.warning("block %s can't be sent: %s", block_id, error)
            return None


def _unpack(block: FusionBlock) -> tuple[BlockId, Block]:
    try:
        return block_of(block)
    except SchemaError as error:
        raise FrameError("damaged_block", str(error)) from error

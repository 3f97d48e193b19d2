"""Bodies of the messages between nodes, and which of them a node takes for true."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.cache.records import block_id_of
from pipeline.directory.block import BlockId, Owner
from pipeline.fusion.frame import FrameError
from pipeline.fusion.messages import Buffer
from schemas.errors import SchemaError
from schemas.fusion_block import FusionBlock, decode_fusion_block

_POSITION = struct.Struct("<QQQH")
_REQUEST = struct.Struct("<QQQ")
_NUMBER = struct.Struct("<Q")
NODES_MAX = 256


@dataclass(frozen=True, slots=True)
class Position:
    """A sign of life: how far a node has come, the nodes that it sees, and the epoch of that membership."""

    generation: int
    visible: int
    epoch: int
    nodes: tuple[str, ...]
    stream: str


def encode_position(position: Position) -> bytes:
    """Return the body of a POSITION message."""
    names = "\0".join([position.stream, *position.nodes]).encode()
    return _POSITION.pack(position.generation, position.visible, position.epoch, len(position.nodes)) + names


def decode_position(body: Buffer) -> Position:
    """Return the position in a body. Raises FrameError."""
    if len(body) < _POSITION.size:
        raise FrameError("malformed", f"a position of {len(body)} bytes")
    generation, visible, epoch, count = _POSITION.unpack_from(body)
    try:
        stream, *nodes = bytes(body[_POSITION.size :]).decode().split("\0")
    except UnicodeDecodeError as error:
        raise FrameError("malformed", "a position with an unreadable name") from error
    if count != len(nodes) or count > NODES_MAX:
        raise FrameError("malformed", f"a position that names {len(nodes)} of {count} nodes")
    return Position(generation, visible, epoch, tuple(nodes), stream)


@dataclass(frozen=True, slots=True)
class Request:
    """Asks for a block of at least `version`.

    A master that knows who has it passes the request on in the name of its `requester`, who gets the answer. The
    number is a random one, so that only those who were given it can answer.
    """

    number: int
    generation: int
    version: int
    block: BlockId
    requester: str = ""  # the sender itself


def encode_request(request: Request) -> bytes:
    """Return the body of a REQUEST message."""
    names = f"{request.requester}\0{request.block}"
    return _REQUEST.pack(request.number, request.generation, request.version) + names.encode()


def decode_request(body: Buffer) -> Request:
    """Return the request in a body. Raises FrameError."""
    try:
        number, generation, version = _REQUEST.unpack_from(body)
        requester, _, name = bytes(body[_REQUEST.size :]).decode().partition("\0")
        block = BlockId.parse(name)
    except (struct.error, ValueError) as error:
        raise FrameError("malformed", f"a request that names no block: {error}") from error
    return Request(number, generation, version, block, requester)


def encode_answer(number: int, record: bytes = b"") -> bytes:
    """The body of a BLOCK (with a record) or ABSENT message; number 0 was not asked for."""
    return _NUMBER.pack(number) + record


def decode_answer(body: Buffer) -> tuple[int, bytes]:
    """Return number and record of a BLOCK or ABSENT message. Raises FrameError."""
    if len(body) < _NUMBER.size:
        raise FrameError("malformed", f"an answer of {len(body)} bytes")
    return _NUMBER.unpack_from(body)[0], bytes(body[_NUMBER.size :])


def accept_block(
    record: bytes, sender: str, buckets: int, known: Callable[[BlockId], bool], owner: Callable[[BlockId], Owner],
    me: str, *, asked: bool = False,
) -> FusionBlock:  # fmt: skip
    """Return the block that a peer has sent if it may be true.

    Its sender must have written it; it must be of a table that is cached here, and of the epoch that its master has.
    Unless it was `asked` for (the master may have passed the request on to a holder), sender or this node must be
    that master: a remaster ships a block to its new master. Raises FrameError.
    """
    try:
        block = decode_fusion_block(record)
    except SchemaError as error:
        raise FrameError("damaged_block", str(error)) from error
    block_id = block_id_of(block)
    if not known(block_id) or block.buckets != buckets:
        raise FrameError("unknown_block", f"{block_id} of {block.buckets} buckets is not cached here")
    master = owner(block_id)
    if block.node != sender:
        raise FrameError("forged_node", f"{block_id}: written by {block.node!r}, sent by {sender!r}")
    if block.epoch != master.epoch:
        reason = "stale_epoch" if block.epoch < master.epoch else "forged_epoch"
        raise FrameError(reason, f"{block_id}: epoch {block.epoch}, the directory has {master.epoch}")
    if not asked and master.node not in (sender, me):
        raise FrameError("not_the_master", f"{block_id}: sent by {sender!r}, its master is {master.node!r}")
    return block

"""The way round: frames between nodes through the topic `fusion-messages`, while a peer can't be reached directly.

Each node reads the topic from its present end and takes what is addressed to it. A frame carries its sender's proof
that it knows the token; who may write the topic is the broker's affair. Lost frames are asked for again.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
from collections.abc import Callable

from confluent_kafka import Consumer, Producer
from confluent_kafka import Message as Record

from pipeline.errors import RetriableError
from pipeline.fusion.batcher import Frame
from pipeline.fusion.frame import FrameError, Header, decode_frame
from pipeline.fusion.messages import Message
from topologies.kafka import read_from_end
from topologies.peer_wire import proof
from topologies.settings import Settings
from topologies.topics import KEYED_PARTITIONS

log = logging.getLogger(__name__)
POLL_S = 0.2
JOIN_S = 2.0
CHANNEL = "kafka"
OnFrame = Callable[[str, Header, list[Message]], None]


class Detour:
    """See the module. `send` and what arrives run in the event loop's thread."""

    def __init__(
        self, settings: Settings, producer: Producer, token: bytes, on_refused: Callable[[str, FrameError], None]
    ) -> None:
        self._settings, self._producer, self._token = settings, producer, token
        self._node = settings.cache.node
        self._topic = settings.topic("fusion-messages")
        self._on_refused = on_refused
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop, on_frame: OnFrame) -> None:
        """Begin to read."""
        self._thread = threading.Thread(target=self._follow, args=(loop, on_frame), name="fusion-messages", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the reading."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def send(self, peer: str, frame: Frame) -> None:
        """Leave a frame for a peer; a full producer drops it."""
        data = b"".join(frame.buffers)
        shown = proof(self._token, data, self._node, peer, CHANNEL)
        try:
            self._producer.produce(
                self._topic, data, key=peer, headers={"from": self._node.encode(), "proof": shown.encode()}
            )
            self._producer.poll(0)
        except BufferError:
            self._on_refused(peer, FrameError("producer_full", "a frame was dropped: the Kafka producer is full"))

    def _follow(self, loop: asyncio.AbstractEventLoop, on_frame: OnFrame) -> None:
        consumer = self._open()
        if consumer is None:
            return
        try:
            while not self._stopping.is_set():
                for record in consumer.consume(1, timeout=POLL_S) + consumer.consume(100, timeout=0):
                    if record.error() is None and record.key() == self._node.encode():
                        loop.call_soon_threadsafe(self._take, record, on_frame)
        finally:
            consumer.close()

    def _open(self) -> Consumer | None:
        """A consumer at the topic's present end, as soon as the broker tells it; None when the node stops before."""
        while not self._stopping.is_set():
            try:
                return read_from_end(self._settings, self._topic, list(range(KEYED_PARTITIONS)))
            except RetriableError as error:
                log.warning("the way round through Kafka is not open yet: %s", error)
        return None

    def _take(self, record: Record, on_frame: OnFrame) -> None:
        headers, value = dict(record.headers() or ()), record.value() or b""
        peer, shown = _text(headers.get("from")), _text(headers.get("proof"))
        try:
            wanted = proof(self._token, value, peer, self._node, CHANNEL)
            if peer not in self._settings.cache.peers or not hmac.compare_digest(shown.encode(), wanted.encode()):
                raise FrameError("greeting", f"a record of topic {self._topic} from {peer[:40]!r} without its proof")
            header, messages = decode_frame(value)
        except FrameError as error:
            self._on_refused(peer, error)
            return
        on_frame(peer, header, messages)


def _text(value: object) -> str:
    """A record header as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else ""

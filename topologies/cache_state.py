"""What the parts of a cache node share."""

from __future__ import annotations

import threading
from collections import Counter

from confluent_kafka import Producer

from pipeline.cache.store import BlockStore
from topologies.cache_members import Members
from topologies.cache_reader import StreamReader
from topologies.kafka import make_producer
from topologies.settings import Settings


class NodeState:
    """Blocks, members, streams and counts of a node. `lock` guards the store and the streams' caches."""

    def __init__(self, settings: Settings, members: Members, store: BlockStore) -> None:
        self.settings = settings
        self.members = members
        self.counts: Counter[str] = Counter()
        self.store = store
        self.lock = threading.Lock()
        self.readers: dict[str, StreamReader] = {}
        self.producer: Producer = make_producer(settings)

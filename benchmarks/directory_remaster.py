"""What a move costs: decisions written one a transaction, and a batch a destination, on a real broker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.embedded import EmbeddedKafka
from schemas.grd_affinity import GrdAffinity
from topologies.decision_log import DecisionLog
from topologies.directory_follower import DirectoryFollower
from topologies.kafka import make_admin
from topologies.settings import Settings
from topologies.settings_file import parse_settings
from topologies.topics import ensure_topics

DSN = "postgresql://nobody@127.0.0.1:1/none"
MOVES = 300
BATCH = 50  # moves to one destination that are decided together


@contextmanager
def broker() -> Iterator[Settings]:
    """A broker of its own, with topics."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with EmbeddedKafka(directory / "kafka") as kafka:
            stream = {"name": "s", "source": {"dsn": DSN}, "target": {"dsn": DSN}}
            data: dict[str, object] = {"kafka": {"bootstrap_servers": kafka.bootstrap_servers}, "streams": [stream]}
            settings = parse_settings(data, "benchmark")
            ensure_topics(make_admin(settings), settings)
            yield settings


def move_ms(settings: Settings, batch: int, first_epoch: int) -> dict[str, float]:
    """Milliseconds a move until a follower has it, and transactions (each a handful of broker messages) a move."""
    follower = DirectoryFollower(settings)
    follower.start()
    log = DecisionLog(settings, 0)
    log.open()
    moves = [
        GrdAffinity(f"s/public/item/{n}", f"node{n // BATCH:02d}", first_epoch + n, False, ()) for n in range(MOVES)
    ]
    while not follower.directory.ready:
        time.sleep(0.01)
    writes, start_s = 0, time.perf_counter()
    for at in range(0, MOVES, batch):
        log.write(moves[at : at + batch])
        writes += 1
    elapsed_s = time.perf_counter() - start_s
    while len(follower.directory) < MOVES or not _has(follower, moves[-1]):
        time.sleep(0.001)
    follower.stop()
    return {"ms a move": elapsed_s * 1000 / MOVES, "writes a move": writes / MOVES}


def _has(follower: DirectoryFollower, last: GrdAffinity) -> bool:
    return any(affinity.epoch == last.epoch for _, affinity in follower.directory.moved())

"""Three cache nodes under load: blocks move between them, one is killed, one joins; nothing stale is ever read."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg
import pytest

from headrace.directory_view import read_picture
from pipeline.directory.block import BlockId
from pipeline.errors import HeadraceError
from tests.support.fixtures import MakeRig
from tests.support.nodes import Nodes
from tests.support.rig import ROLES, WAIT_S, Rig
from topologies.decision_log import read_to_end
from topologies.topics import KEYED_PARTITIONS

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(240)]

ROWS = 1500
TABLE = "CREATE TABLE item (id int PRIMARY KEY, n bigint NOT NULL, filler text NOT NULL)"


class Load:
    """A writer that counts rows up, and a reader a node that asks for what the writer is known to have committed."""

    def __init__(self, rig: Rig, nodes: Nodes, names: tuple[str, ...]) -> None:
        self._rig, self._nodes = rig, nodes
        self._stopping = threading.Event()
        self._known: dict[int, tuple[int, int]] = {}  # id -> n and a position after its commit
        self.stale: list[str] = []
        self.read = dict.fromkeys(names, 0)
        self.refused = dict.fromkeys(names, 0)
        self._threads = [threading.Thread(target=self._write, daemon=True)]
        readers = enumerate(names)
        self._threads += [threading.Thread(target=self._read, args=(name, n), daemon=True) for n, name in readers]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        dice = random.Random(1)
        with psycopg.connect(self._rig.source_dsn, autocommit=True) as conn:
            while not self._stopping.wait(0.005):
                low = dice.randint(1, ROWS - 5)
                rows = conn.execute(
                    "UPDATE item SET n = n + 1 WHERE id BETWEEN %s AND %s RETURNING id, n", [low, low + 4]
                ).fetchall()
                row = conn.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
                assert row is not None
                self._known |= {key: (n, row[0]) for key, n in rows}

    def _read(self, name: str, seed: int) -> None:
        dice = random.Random(seed)
        while not self._stopping.is_set():
            try:
                with self._nodes.client(name) as client:
                    while not self._stopping.is_set():
                        known = dict(self._known)
                        if not known:  # the writer has not begun
                            self._stopping.wait(0.05)
                            continue
                        key = dice.choice(list(known))
                        n, position = known[key]
                        row = client.row(self._rig.stream, "item", key, min_position=position, wait_s=3)
                        self.read[name] += 1
                        if row.position < position or row.values is None or int(str(row.values["n"])) < n:
                            self.stale.append(f"{name}: {key} is {row}, was {n} at {position}")
            except HeadraceError:
                self.refused[name] += 1
                self._stopping.wait(0.05)

    def wait_for(self, more: int, *names: str) -> None:
        before = {name: self.read[name] for name in names}
        self._rig.until(lambda: all(self.read[n] >= before[n] + more for n in names), f"{names} answer {more} reads")


def taken(status: dict[str, Any]) -> int:
    """Blocks that a node was sent by others, and keeps."""
    return int(status["counts"].get("blocks_taken", 0))


def test_nodes_die_and_join_and_nothing_is_stale(make_rig: MakeRig) -> None:
    rig = make_rig(stream={"cache": ["public.item"]})
    nodes = Nodes(rig, ["a", "b", "c"], buckets=64, wait_s=WAIT_S)
    rig.both(TABLE)
    rig.source(f"INSERT INTO item SELECT n, 0, repeat(md5(n::text), 10) FROM generate_series(1, {ROWS}) n")
    rig.start(*ROLES, "fusion", "cache-a", "cache-b")
    nodes.wait_until_there("a", "b")
    load = Load(rig, nodes, ("a", "b", "c"))
    load.start()
    load.wait_for(60, "a", "b")
    rig.kill("cache-b", again=False)
    rig.start("cache-c")  # joins
    nodes.wait_until_there("a", "c")
    load.wait_for(60, "a", "c")
    rig.start("cache-b")  # joins again, warmed from the journal
    nodes.wait_until_there("a", "b", "c")
    load.wait_for(40, "a", "b", "c")
    load.stop()
    assert not load.stale, load.stale[:5]
    at = nodes.mark()
    rig.wait_until_equal()
    there = {row[0]: row[1] for row in rig.target_rows("SELECT id, n FROM item")}
    for name in ("a", "b", "c"):
        with nodes.client(name) as client:
            for key in range(1, ROWS, 7):
                values = client.row(rig.stream, "item", key, min_position=at).values
                assert values is not None
                assert values["n"] == there[key], (name, key)
    counts = {name: nodes.status(name) for name in ("a", "b", "c")}
    assert sum(map(taken, counts.values())) > 20, counts
    assert counts["b"]["streams"][rig.stream]["warmed_blocks"] > 0, counts["b"]
    assert not any(status["refused"].get("damaged_block") for status in counts.values()), counts


@pytest.mark.long
def test_a_master_is_killed_and_each_of_its_blocks_has_one_master_an_epoch(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DIRECTORY__ENABLED", "true")
    rig = make_rig(stream={"cache": ["public.item"]})
    nodes = Nodes(rig, ["a", "b", "c"], buckets=64, wait_s=WAIT_S)
    rig.both(TABLE)
    rig.source(f"INSERT INTO item SELECT n, 0, repeat(md5(n::text), 10) FROM generate_series(1, {ROWS}) n")
    rig.start(*ROLES, "affinity", "cache-a", "cache-b", "cache-c")
    nodes.wait_until_there("a", "b", "c")
    rig.until(lambda: members(rig) == {"a", "b", "c"}, "the directory has all nodes")
    load = Load(rig, nodes, ("a", "b", "c"))
    load.start()
    load.wait_for(60, "a", "b", "c")
    rig.kill("cache-b", again=False)
    rig.until(lambda: members(rig) == {"a", "c"}, "the directory has the others")
    load.wait_for(60, "a", "c")
    load.stop()
    assert not load.stale, load.stale[:5]
    picture = read_picture(rig.settings)
    blocks = [BlockId(rig.stream, "public", "item", bucket) for bucket in range(64)]
    assert {picture.directory.owner(block).node for block in blocks} == {"a", "c"}
    epochs: dict[int, list[int]] = {}
    for partition, record in read_to_end(rig.settings, range(KEYED_PARTITIONS)):
        epochs.setdefault(partition, []).append(record.epoch)
    assert all(found == sorted(set(found)) for found in epochs.values()), "an epoch was given twice"


def members(rig: Rig) -> frozenset[str]:
    """The nodes that every partition of the directory has."""
    directory = read_picture(rig.settings).directory
    return frozenset.intersection(*(directory.partition_members(n).nodes for n in range(KEYED_PARTITIONS)))


def test_nodes_that_do_not_reach_each_other_exchange_blocks_through_kafka(make_rig: MakeRig) -> None:
    rig = make_rig(stream={"cache": ["public.item"]})
    nodes = Nodes(rig, ["a", "b"], apart=True, buckets=16, wait_s=WAIT_S)
    rig.both(TABLE)
    rig.start(*ROLES, "cache-a", "cache-b")
    nodes.wait_until_there("a", "b")
    rig.source("INSERT INTO item SELECT n, n, 'x' FROM generate_series(1, 100) n")
    at = nodes.mark()
    with nodes.client("a") as client:
        for key in range(1, 101):
            values = client.row(rig.stream, "item", key, min_position=at).values
            assert values is not None
            assert values["n"] == key
        status = client.status()
    assert taken(status), status
    assert status["counts"].get("detoured"), status

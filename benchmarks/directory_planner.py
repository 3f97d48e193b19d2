"""Where the real planner sends work when nodes master rows: with the directory's preference, and without."""

from __future__ import annotations

import random
from array import array
from itertools import accumulate
from statistics import mean

from pipeline.catalogue import Catalogue, TargetColumn, TargetTable
from pipeline.conflicts import KeyRules
from pipeline.directory.block import BlockId, bucket_of
from pipeline.directory.directory import Directory
from pipeline.directory.members import Affinity, Members
from pipeline.directory.preference import LanePreference
from pipeline.planner import Planner
from pipeline.window import Restart
from schemas.change_batch import UPDATE, ChangeBatch, Column, Relation, Section
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.packed import INT32, INT64
from schemas.rows import pack_fields, pack_row

NODES = ["a", "b", "c", "d"]
LANES = {"a": (0, 4), "b": (1, 5), "c": (2, 6), "d": (3, 7)}
BUCKETS, ROWS = 1024, 20_000
WINDOWS, TRANSACTIONS = 40, 800
ROW_COST, MISS_COST = 1.0, 0.5  # of a row: applied, and its new image sent to the node that masters it
RELATION = Relation(1, "public", "item", "d", (Column("id", "int4", key=True, binary=True),))
CATALOGUE = Catalogue({("public", "item"): TargetTable(
    ("public", "item"), (TargetColumn("id", "int4", True, True),), ("id",), (), ())})  # fmt: skip


def run_planner(seed: int) -> dict[str, dict[str, float]]:
    """Figures by contestant: no preference, preference by hash, preference by the directory."""
    users = random.Random(seed)
    home = {bucket: users.choice(NODES) for bucket in range(BUCKETS)}
    hashed, moved = _directory({}), _directory(home)
    return {
        "no preference": _plan(seed, home, None),
        "by hash": _plan(seed, home, hashed),
        "by directory": _plan(seed, home, moved),
    }


def _directory(masters: dict[int, str]) -> Directory:
    directory = Directory()
    directory.join(Members(NODES, 1))
    directory.catch_up()
    for bucket, node in masters.items():
        directory.apply(_block(bucket), Affinity(node, 2), 0)
    return directory


def _block(bucket: int) -> BlockId:
    return BlockId("s", "public", "item", bucket)


def _plan(seed: int, home: dict[int, str], placement: Directory | None) -> dict[str, float]:
    """Plan windows of transactions; count rows that are applied where they are used, and the slowest lane's time."""
    rng = random.Random(seed)
    prefer = LanePreference("s", placement, BUCKETS, lambda: LANES) if placement is not None else None
    planner = Planner("s", Restart(1, 5, 0, {}), KeyRules(CATALOGUE), lanes=8, prefer=prefer)
    node_of = {lane: node for node, lanes in LANES.items() for lane in lanes}
    weights = list(accumulate(1 / n**0.6 for n in range(1, ROWS + 1)))
    by_home: dict[str, list[int]] = {}
    for row in range(ROWS):
        by_home.setdefault(home[bucket_of(_key(row), BUCKETS)], []).append(row)
    local, makespans, imbalance, at = 0, [], [], 0
    for _ in range(WINDOWS):
        batch = _window(rng, weights, by_home, at)
        at += TRANSACTIONS
        costs = dict.fromkeys(range(8), 0.0)
        for unit in planner.offer(batch, encode_batch(batch), 0, None, 0):
            for key in (key for section in decode_batch(unit.batch).sections for key in section.key_list()):
                here = home[bucket_of(key, BUCKETS)] == node_of[unit.lane]
                local += here
                costs[unit.lane] += ROW_COST if here else ROW_COST + MISS_COST
            planner.progress(unit.lane, unit.epoch, unit.seq)
        planner.retire()
        makespans.append(max(costs.values()))
        imbalance.append(max(costs.values()) / mean(costs.values()))
    rows = 2 * WINDOWS * TRANSACTIONS
    return {"local rows": local / rows, "makespan": sum(makespans) / rows, "lanes' imbalance": mean(imbalance)}


def _window(rng: random.Random, weights: list[float], by_home: dict[str, list[int]], at: int) -> ChangeBatch:
    """Transactions of two rows; both are used by one node, but for one transaction in seven."""
    home_of = {row: node for node, rows in by_home.items() for row in rows}
    rows = rng.choices(range(ROWS), cum_weights=weights, k=TRANSACTIONS)
    seconds = [rng.choice(by_home[home_of[row]]) if rng.random() < 6 / 7 else rng.randrange(ROWS) for row in rows]
    ids = [row for pair in zip(rows, seconds, strict=True) for row in pair]
    images = [pack_row([n.to_bytes(4, "big")]) for n in ids]
    section = Section(
        RELATION, bytes([UPDATE]) * len(ids), array(INT32, [n // 2 for n in range(len(ids))]),
        array(INT32, range(len(ids))), b"".join(map(_key, ids)), array(INT32, range(0, 8 * len(ids) + 8, 8)),
        b"".join(images), array(INT32, accumulate([0, *map(len, images)])),
    )  # fmt: skip
    positions = array(INT64, range(at + 1, at + TRANSACTIONS + 1))
    return ChangeBatch("s", 5, "live", at, positions, positions, positions, [section], at + TRANSACTIONS, 0)


def _key(row: int) -> bytes:
    return pack_fields([row.to_bytes(4, "big")])

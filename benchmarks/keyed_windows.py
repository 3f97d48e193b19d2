"""Windows of transactions that write keys of one table, and a planner for them: no Kafka, no database."""

from __future__ import annotations

import random
from bisect import bisect
from itertools import accumulate

from pipeline.builder import BatchBuilder
from pipeline.catalogue import Catalogue, TargetColumn, TargetTable
from pipeline.conflicts import KeyRules
from pipeline.planner import Planner
from pipeline.window import Restart
from schemas.apply_unit import LANES_MAX
from schemas.change_batch import UPDATE, ChangeBatch, Column, Relation
from schemas.rows import pack_fields, pack_row

RELATION = Relation(1, "public", "t", "d", (Column("id", "int4", True, True), Column("n", "int4", False, True)))
Keys = list[list[int]]  # of each transaction


def zipf_keys(seed: int, transactions: int, distinct: int, exponent: float, least: int, most: int) -> Keys:
    """The distinct keys of each transaction, by a Zipf law."""
    chance = random.Random(seed)
    weights = list(accumulate(1 / rank**exponent for rank in range(1, distinct + 1)))
    total = weights[-1]
    return [
        sorted({bisect(weights, chance.random() * total) for _ in range(chance.randint(least, most))})
        for _ in range(transactions)
    ]


def to_batches(keys: Keys, window: int) -> list[ChangeBatch]:
    """The transactions as batches of so many."""
    builder = BatchBuilder("s", 1, 0)
    found = []
    for position, touched in enumerate(keys, start=1):
        tx = builder.begin(position, 0, 0)
        section = builder.section(RELATION)
        for key in touched:
            field = key.to_bytes(4, "big")
            section.ops.append(UPDATE)
            section.tx.append(tx)
            section.order.append(builder.rank)
            section.keys.append(pack_fields([field]))
            section.rows.append(pack_row([field, field]))
            builder.rank += 1
        if len(builder.positions) == window or position == len(keys):
            found.append(builder.close("live", position, 0))
    return found


def key_rules() -> KeyRules:
    """The rules of the one table's primary key."""
    columns = tuple(TargetColumn(name, "int4") for name in ("id", "n"))
    catalogue = Catalogue({("public", "t"): TargetTable(("public", "t"), columns, primary_key=("id",))})
    return KeyRules(catalogue)


def make_planner() -> Planner:
    """A planner at the beginning, with all lanes."""
    return Planner("s", Restart(1, 1, 0, {}), key_rules(), lanes=LANES_MAX)

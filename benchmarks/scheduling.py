"""The planner alone, and the makespan of its plans in a simulation of the lanes.

*Planning*: windows of transactions with 1, 3 or 10 keys each go through the real planner; what it costs a
transaction, without Kafka and without a database.

*Makespan*: the same transactions on 16 lanes, each transaction with a duration of its own. Headrace's plans
come from the real planner, which may have 64 windows in flight; a lane merges what is queued. The rivals are
level barriers (a transaction's level is one above its dependencies', a level begins when the one before has
ended, a window after the other) and key-hash partitioning (a key belongs to a lane; a transaction with keys
of several lanes waits until all of them are free, keeps them all, and commits alone). Durations are
log-normal with the mean cost of a set-based apply as `drain` measures it. A target transaction costs
`COMMIT_US` more, for everybody; the same without that cost shows the parallelism alone.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from array import array
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from statistics import mean, median

from benchmarks import chart
from benchmarks.store import Run, Sample, ratios, samples, spread, values
from pipeline.builder import BatchBuilder
from pipeline.catalogue import Catalogue, TargetColumn, TargetTable
from pipeline.conflicts import KeyRules
from pipeline.independent import window_keys
from pipeline.planner import Planner
from pipeline.window import Restart
from schemas.apply_unit import LANES_MAX, ApplyUnit
from schemas.change_batch import UPDATE, ChangeBatch, Column, Relation
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.rows import pack_fields, pack_row

TITLE = "Scheduling"
WINDOWS = (100, 1000, 4000)
KEY_COUNTS = (1, 3, 10)
APPLY_US = 12.0  # of one transaction, set-based (drain, CPU of the target)
WINDOW = 1000  # of the simulation
COMMIT_US = 300.0  # of one target transaction: statements, round trips, commit
# name: number of keys, Zipf exponent, sigma of the log-normal durations
WORKLOADS = {
    "uniform": (100_000, 0.0, 0.5),
    "skewed": (100_000, 0.99, 0.5),
    "skewed, heavy tail": (100_000, 0.99, 1.2),
    "hot, heavy tail": (1_000, 0.99, 1.2),
}
RELATION = Relation(1, "public", "t", "d", (Column("id", "int4", True, True), Column("n", "int4", False, True)))
Keys = list[list[int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--transactions", type=int, default=20_000)


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Yield a sample a case and repetition."""
    for seed in range(given.first_seed, given.first_seed + given.repetitions):
        for window in WINDOWS:
            for count in KEY_COUNTS:
                keys = _keys(seed, given.transactions, 1_000_000, 0.0, count, count)
                yield Sample(f"planning, {window} a window, {count} keys", seed, _planning(keys, window))
        for name, (distinct, exponent, sigma) in WORKLOADS.items():
            keys = _keys(seed, given.transactions, distinct, exponent, 1, 3)
            yield Sample(f"{name}, largest set", seed, {"share": _largest_set(keys)})
            costs_us = _costs(seed, len(keys), sigma)
            for commit_us in (COMMIT_US, 0.0):
                for rival, makespan in _RIVALS.items():
                    us = makespan(keys, costs_us, commit_us)
                    case = f"{name}, {commit_us:g} µs a commit: {rival}"
                    yield Sample(case, seed, {"makespan ms": us / 1000, "speed-up": sum(costs_us) / us})


def _keys(seed: int, transactions: int, distinct: int, exponent: float, least: int, most: int) -> Keys:
    """The distinct keys of each transaction, by a Zipf law."""
    chance = random.Random(seed)
    weights = list(accumulate(1 / rank**exponent for rank in range(1, distinct + 1)))
    total = weights[-1]
    return [
        sorted({bisect(weights, chance.random() * total) for _ in range(chance.randint(least, most))})
        for _ in range(transactions)
    ]


def _costs(seed: int, count: int, sigma: float) -> list[float]:
    chance = random.Random(seed + 1000)
    drawn = [chance.lognormvariate(0, sigma) for _ in range(count)]
    scale = APPLY_US * count / sum(drawn)
    return [each * scale for each in drawn]


def _batches(keys: Keys, window: int) -> list[ChangeBatch]:
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


def _rules() -> KeyRules:
    columns = tuple(TargetColumn(name, "int4") for name in ("id", "n"))
    catalogue = Catalogue({("public", "t"): TargetTable(("public", "t"), columns, primary_key=("id",))})
    return KeyRules(catalogue)


def _planner() -> Planner:
    return Planner("s", Restart(1, 1, 0, {}), _rules(), lanes=LANES_MAX)


def _largest_set(keys: Keys) -> float:
    """The share of a window's transactions that is in its largest independent set, the mean of all windows."""
    batches, rules = _batches(keys, WINDOW), _rules()
    return mean(
        max(map(len, window_keys(batch, rules).components().values())) / len(batch.positions) for batch in batches
    )


def _planning(keys: Keys, window: int) -> dict[str, float]:
    """CPU of decoding and planning, every window applied when 64 are in flight."""
    records = [encode_batch(batch) for batch in _batches(keys, window)]
    planner = _planner()
    sent: list[tuple[int, int]] = []
    began_s = time.process_time()
    for number, record in enumerate(records):
        units = planner.offer(decode_batch(record), record, number + 1, None, 0)
        sent += [(unit.lane, unit.seq) for unit in units]
        if planner.full:
            for lane, seq in sent:
                planner.progress(lane, 1, seq)
            planner.retire()
            sent.clear()
    us = (time.process_time() - began_s) * 1e6 / len(keys)
    return {"us a transaction": us, "TPS": 1e6 / us}


# -- makespans, in microseconds --------------------------------------------------------------------


def _levels(keys: Keys, costs_us: list[float], commit_us: float) -> float:
    """Level after level, each spread over the lanes (longest first), one commit a lane and level."""
    total = 0.0
    for start in range(0, len(keys), WINDOW):
        level_of: dict[int, int] = {}
        levels: list[list[float]] = []
        for touched, cost in zip(keys[start : start + WINDOW], costs_us[start : start + WINDOW], strict=True):
            level = max((level_of.get(key, -1) for key in touched), default=-1) + 1
            level_of.update(dict.fromkeys(touched, level))
            if level == len(levels):
                levels.append([])
            levels[level].append(cost)
        for costs in levels:
            lanes = [0.0] * min(LANES_MAX, len(costs))
            for cost in sorted(costs, reverse=True):
                heapq.heapreplace(lanes, lanes[0] + cost)
            total += max(lanes) + commit_us
    return total


def _partitions(keys: Keys, costs_us: list[float], commit_us: float) -> float:
    """A key's lane is its hash; a transaction begins when all its lanes are free. Those of one lane merge."""
    free = [0.0] * LANES_MAX
    for touched, cost in zip(keys, costs_us, strict=True):
        lanes = {hash((key, 7)) % LANES_MAX for key in touched}
        end = max(free[lane] for lane in lanes) + cost + (commit_us if len(lanes) > 1 else 0.0)
        for lane in lanes:
            free[lane] = end
    return max(free)


def _lanes(keys: Keys, costs_us: list[float], commit_us: float) -> float:
    """The real planner's units on lanes that merge what is queued and wait for what a unit waits for."""
    planner = _planner()
    batches = _batches(keys, WINDOW)
    done: dict[tuple[int, int], float] = {}  # (lane, seq) -> when it is applied
    free = [0.0] * LANES_MAX
    now = 0.0
    for number, batch in enumerate(batches):
        if planner.full:
            now = max(now, _retire_oldest(planner, done))
        for unit in planner.offer(batch, encode_batch(batch), number + 1, None, 0):
            _execute(unit, costs_us, done, free, now, commit_us)
    return max(free)


def _retire_oldest(planner: Planner, done: dict[tuple[int, int], float]) -> float:
    """Let time pass until the oldest window is applied; return that time."""
    until = max((done[lane, seq] for lane, seq in planner.windows[0].units.items()), default=0.0)
    for (lane, seq), at in done.items():
        if at <= until:
            planner.progress(lane, 1, seq)
    planner.retire()
    return until


def _execute(
    unit: ApplyUnit, costs_us: list[float], done: dict[tuple[int, int], float], free: list[float], now: float,
    commit_us: float,
) -> None:  # fmt: skip
    start = max([now, free[unit.lane], *(done[wait] for wait in unit.waits.items())])
    positions: array[int] = decode_batch(unit.batch).positions
    # A unit that finds its lane busy is merged with what runs there: no commit of its own.
    alone = start > free[unit.lane] or bool(unit.waits)
    free[unit.lane] = start + sum(costs_us[position - 1] for position in positions) + (commit_us if alone else 0.0)
    done[unit.lane, unit.seq] = free[unit.lane]


_RIVALS: dict[str, Callable[[Keys, list[float], float], float]] = {
    "level barriers": _levels, "key-hash partitions": _partitions, "Headrace": _lanes,
}  # fmt: skip


_WHY = (
    "Why skewed keys lose without the cost of commits: hot keys join most of a window into one independent set, and a "
    "set goes to one lane as one unit. With that cost the same merging wins, since a rival commits at each level, or "
    "each transaction that crosses partitions."
)


# -- the section of RESULTS.md ---------------------------------------------------------------------


def section(runs: Sequence[Run]) -> str:
    """The section's text."""
    found = samples(runs)
    lines = [
        "CPU of the planner, µs a transaction (decoding, keys, independent sets, lanes, cutting the units):", "",
        "| keys a transaction | " + " | ".join(f"{window} a window" for window in WINDOWS) + " |",
        "|---|" + "---|" * len(WINDOWS),
    ]  # fmt: skip
    for count in KEY_COUNTS:
        cells = [
            spread(values(found, f"planning, {window} a window, {count} keys", "us a transaction"), ".1f")
            for window in WINDOWS
        ]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Simulated makespan, {LANES_MAX} lanes, as speed-up over one that never commits (`make bench-scheduling`):",
        "",
        "| workload | level barriers | key-hash partitions | Headrace | to barriers | to partitions |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in dict.fromkeys(sample.case.rpartition(": ")[0] for sample in found if ": " in sample.case):
        barriers, partitions = (median(values(found, f"{name}: {who}", "speed-up")) for who in list(_RIVALS)[:2])
        ours = spread(values(found, f"{name}: Headrace", "speed-up"), ".2f")
        to = [spread(ratios(found, f"{name}: Headrace", f"{name}: {who}", "speed-up"), ".2f") for who in _RIVALS][:2]
        lines.append(f"| {name} | {barriers:.2f} | {partitions:.2f} | {ours} | {to[0]} | {to[1]} |")
    shares = [(name, values(found, f"{name}, largest set", "share")) for name in WORKLOADS]
    known = ", ".join(f"{median(share):.0%} ({name})" for name, share in shares if share)
    profile = [f" The largest set of a window of {WINDOW:,} holds {known} of its transactions."] if known else []
    return "\n".join([*lines, "", "".join([_WHY, *profile])])


def charts(runs: Sequence[Run]) -> list[str]:
    """Write the section's chart; return its name."""
    found = samples(runs)
    names = [f"{name}, {COMMIT_US:g} µs a commit" for name in WORKLOADS]
    series: dict[str, list[float | None]] = {
        who: [round(median(values(found, f"{name}: {who}", "speed-up")), 2) for name in names] for who in _RIVALS
    }
    chart.bars("scheduling", f"Speed-up over one lane, {LANES_MAX} lanes (simulation)", list(WORKLOADS), series)
    return ["scheduling"]

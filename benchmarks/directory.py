"""The resource directory: look-ups, hit rates, locks, placement, prediction, scaling, moves.

Look-ups and moves are measured; nodes and caches are simulated over the real directory, decider and planner code.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

from benchmarks import chart
from benchmarks.directory_apply import apply_pairs, apply_table
from benchmarks.directory_caches import BLOCKS_MAX, CACHED, run_caches
from benchmarks.directory_cluster import Load, accuracies, chance, handed_on, oracle, run_cluster, steady
from benchmarks.directory_lookup import (
    TRACE,
    Asked,
    Lookup,
    OneLock,
    Ours,
    all_blocks,
    entry_bytes,
    filled,
    hit_rates,
    latencies_ns,
    many_readers,
    moving,
    packed_bytes,
    percentiles_us,
    scan_mix,
    shifting,
    zipf,
)
from benchmarks.directory_planner import run_planner
from benchmarks.directory_processes import run_processes
from benchmarks.directory_remaster import BATCH, broker, move_ms
from benchmarks.store import Run, Sample, samples, spread, values
from headrace.roles import SWITCH_S
from pipeline.directory.block import BlockId
from pipeline.directory.directory import ENTRIES_MAX

TITLE = "Resource directory"
OURS, LOCK, ASKED = "directory", "one lock", "a message a look-up"
BEST = "best possible"
THREADS = 16
HIT_BLOCKS, HIT_TRACE = 100_000, 400_000
SHARES = (0.05, 0.2, 0.5)  # of the blocks have a ready entry
TRACES: dict[str, Callable[[list[BlockId], random.Random, int], list[BlockId]]] = {
    "zipf": lambda blocks, rng, count: zipf(blocks, count, rng), "scan": scan_mix, "shifting": shifting,
}  # fmt: skip
LOADS = {"steady": Load(8), "shifting": Load(8, shift_s=30), "part read by all": Load(8, shared=0.3)}
SIZES = (3, 6, 8, 10, 12, 16)
PARTS = (
    "lookup", "locks", "hits", "placement", "prediction", "scaling", "caches", "planner", "remaster", "processes",
    "apply",
)  # fmt: skip
FORETOLD = {"handed on": handed_on, "steady": steady, "chance": chance}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--blocks", type=int, default=1_000_000, help="in the directory that is looked up")
    parser.add_argument("--only", default="", help=f"some parts, with commas: {', '.join(PARTS)}")


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Measure every part, once a seed."""
    parts = given.only.split(",") if given.only else PARTS
    for seed in range(given.first_seed, given.first_seed + given.repetitions):
        if {"lookup", "locks"} & set(parts):
            yield from _lookups(all_blocks(given.blocks), seed, parts)
        for name in parts:
            if name in _PARTS:
                yield from _PARTS[name](seed)


def _lookups(blocks: list[BlockId], seed: int, parts: Sequence[str]) -> Iterator[Sample]:
    rng = random.Random(seed)
    trace = zipf(blocks, 2 * TRACE, rng)
    gc.freeze()  # the benchmark's own million names; the directory's entries stay under the collector
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    if "lookup" in parts:
        yield Sample("memory", seed, {"bytes a packed entry": packed_bytes(blocks)})
    for name in (OURS, LOCK, ASKED):
        directory = filled(blocks)
        lock = OneLock(directory, ENTRIES_MAX)
        asked = Asked(lock) if name == ASKED else None
        lookup: Lookup = Ours(directory) if name == OURS else asked or lock
        with moving(lookup, blocks, rng):
            latencies_ns(lookup, trace[:TRACE])  # warms up
            if "lookup" in parts:
                yield Sample(f"lookup, {name}", seed, percentiles_us(latencies_ns(lookup, trace[TRACE:])))
            if "locks" in parts and name != ASKED:
                lock.waited_ns = 0
                wall_s, spent_s = many_readers(lookup, trace[TRACE:], THREADS)
                share = lock.waited_ns / 1e9 / spent_s
                yield Sample(f"locks, {name}", seed, {"lock share": share, "look-ups a second": TRACE / wall_s})
        if asked is not None:
            asked.close()
    sys.setswitchinterval(switch_s)
    gc.unfreeze()


def _hits(seed: int) -> Iterator[Sample]:
    blocks = all_blocks(HIT_BLOCKS)
    ours, theirs = entry_bytes()
    yield Sample("entry memory", seed, {OURS: ours, "LRU": theirs})
    for name, make in TRACES.items():
        for share in SHARES:
            entries = round(share * HIT_BLOCKS)
            found = hit_rates(
                lambda rng, make=make: make(blocks, rng, HIT_TRACE), entries,  # type: ignore[misc]
                round(entries * ours / theirs), random.Random(seed),
            )  # fmt: skip
            rates = dict(zip((OURS, "LRU", BEST), found, strict=True))
            yield Sample(f"hits, {name}, {share:.0%}", seed, rates)


def _placement(seed: int) -> Iterator[Sample]:
    for name, load in LOADS.items():
        before, after = (run_cluster(load, seed, moves=moves) for moves in (False, True))
        yield Sample(
            f"placement, {name}", seed,
            {"hash": before.hit_rate, OURS: after.hit_rate, "oracle": oracle(load, seed).hit_rate, "moves": after.moves,
             "remote transfers saved": 1 - after.remote / before.remote},
        )  # fmt: skip


def _prediction(seed: int) -> Iterator[Sample]:
    for name, make in FORETOLD.items():
        yield Sample(f"prediction, {name}", seed, accuracies(make(seed, 20_000)))


def _scaling(seed: int) -> Iterator[Sample]:
    for nodes in SIZES:
        load = Load(nodes, seconds=60)
        before, after = (run_cluster(load, seed, moves=moves) for moves in (False, True))
        best = oracle(load, seed)
        yield Sample(
            f"scaling, {nodes}", seed,
            {"hash": before.throughput, OURS: after.throughput, "oracle": best.throughput, "local": after.hit_rate,
             "busiest": after.busiest, "busiest, oracle": best.busiest},
        )  # fmt: skip


def _caches(seed: int) -> Iterator[Sample]:
    for load in CACHED:
        for blocks_max in BLOCKS_MAX:
            for moves in (False, True):
                case = f"caches, {load}, {blocks_max} blocks, {OURS if moves else 'hash'}"
                yield Sample(case, seed, run_caches(load, blocks_max, seed, moves=moves))


def _planner(seed: int) -> Iterator[Sample]:
    for name, found in run_planner(seed).items():
        yield Sample(f"planner, {name}", seed, found)


def _remaster(seed: int) -> Iterator[Sample]:
    with broker() as settings:
        move_ms(settings, BATCH, 1000)  # warms up
        yield Sample("remaster, one a write", seed, move_ms(settings, 1, 10_000))
        yield Sample("remaster, batches", seed, move_ms(settings, BATCH, 20_000))


_PARTS: dict[str, Callable[[int], Iterator[Sample]]] = {
    "hits": _hits, "placement": _placement, "prediction": _prediction, "scaling": _scaling, "caches": _caches,
    "planner": _planner, "remaster": _remaster, "processes": run_processes, "apply": apply_pairs,
}  # fmt: skip


# -- the section -------------------------------------------------------------------------------------


def section(runs: Sequence[Run]) -> str:
    """All parts as tables."""
    found = samples(runs)
    seeds = sorted({sample.seed for sample in found})
    text = (
        f"Seeds {', '.join(map(str, seeds))}. A directory of 1,000,000 moved blocks, {ENTRIES_MAX:,} ready entries, "
        f"Zipf 0.99, 2,000 moves a second from another thread, other work between look-ups, garbage collector on. "
        "Nodes are simulated over the real directory and decider (placement, scaling, caches, planner). "
        "Caches: each node reads 40 blocks of its own and, one time in seven, any; what its memory lacks it asks a "
        "peer for, or reads from the target. "
        "Real processes share the machine's cores: their figures are shares and CPU, not rates. "
        f"Threads give way after {SWITCH_S * 1000:g} ms, as in the role `cache`. "
        "The planner's makespan is a model: a row that is applied elsewhere than at its master is taken to cost half a "
        "row more; without that cost the preference only costs balance (last column). "
        "Of moves, both ways write transactions; their number is what differs. The numbers of the policy were chosen "
        "on the same kinds of load, with another seed."
    )
    return "\n\n".join([
        text,
        *(
            _table(found, title, prefix, columns, form)
            for title, prefix, columns, form in (
                ("look-up, µs", "lookup, ", ("p50", "p99", "p99.9", "p99.99", "max"), ",.1f"),
                (f"{THREADS} reading threads and a writer", "locks, ", ("lock share", "look-ups a second"), ",.3g"),
                ("memory", "memory", ("bytes a packed entry",), ".1f"),
                ("bytes a ready entry", "entry memory", (OURS, "LRU"), ",.0f"),
                ("hit rate of ready entries: trace, share of the blocks", "hits, ",
                 (OURS, "LRU", BEST), ".3f"),
                ("accesses at the master", "placement, ",
                 ("hash", OURS, "oracle", "remote transfers saved", "moves"), ",.3g"),
                ("next accessor foretold", "prediction, ", ("model", "last", "most"), ".3f"),
                ("nodes: accesses by the time of the busiest node", "scaling, ",
                 ("hash", OURS, "oracle", "local", "busiest", "busiest, oracle"), ".2f"),
                ("simulated caches: nodes, load, a node's memory; a share of accesses", "caches, ",
                 ("cache", "peer", "memory of all", "asked", "decisions"), ",.3f"),
                ("real processes, a share of accesses", "processes, ",
                 ("hit rate", "memory of all", "asked", "came", "from the target", "cpu_us",
                  "cpu_us of the decider"), ",.4g"),
                ("planner, 4 nodes with 2 lanes each", "planner, ",
                 ("local rows", "makespan", "lanes' imbalance"), ".3f"),
                ("moves on a broker", "remaster, ", ("ms a move", "writes a move"), ".3f"),
            )
        ),
        apply_table(found),
    ])  # fmt: skip


def _table(found: Sequence[Sample], title: str, prefix: str, columns: Sequence[str], form: str) -> str:
    cases = list(dict.fromkeys(sample.case for sample in found if sample.case.startswith(prefix)))
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for case in cases:
        shown = " | ".join(spread(values(found, case, column), form) for column in columns)
        lines.append(f"| {case.removeprefix(prefix) or 'directory'} | {shown} |")
    return "\n".join(lines)


def charts(runs: Sequence[Run]) -> list[str]:
    """Latency, hit rates, scaling, accuracy."""
    found = samples(runs)
    middle = partial(_middle, found)
    points = ("p50", "p90", "p99", "p99.9", "p99.99", "max")
    chart.lines(
        "directory-lookup",
        "look-up by percentile, µs",
        points,
        {name: [middle(f"lookup, {name}", point) for point in points] for name in (OURS, LOCK, ASKED)},
        logarithmic=True,
    )
    cases = [f"{name}, {share:.0%}" for name in TRACES for share in SHARES]
    chart.bars(
        "directory-hits",
        "hit rate at the same memory",
        cases,
        {name: [middle(f"hits, {case}", name) for case in cases] for name in (OURS, "LRU")},
    )
    chart.lines(
        "directory-scaling",
        "accesses by the time of the busiest node",
        [str(size) for size in SIZES],
        {name: [middle(f"scaling, {size}", name) for size in SIZES] for name in ("hash", OURS)},
    )
    chart.bars(
        "directory-placement",
        "accesses at the master",
        list(LOADS),
        {name: [middle(f"placement, {load}", name) for load in LOADS] for name in ("hash", OURS, "oracle")},
    )
    return ["directory-lookup", "directory-hits", "directory-scaling", "directory-placement"]


def _middle(found: Sequence[Sample], case: str, metric: str) -> float | None:
    numbers = values(found, case, metric)
    return median(numbers) if numbers else None

"""The targets of replication lag and apply, and of the directory, as a table with what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import baseline, memory
from benchmarks.figures import (
    Figures,
    bytes_a_row,
    directory,
    directory_apply,
    directory_scaling,
    drain,
    drain_against_debezium,
    growth,
    lanes,
    latency_p99,
    less_lag,
    makespan,
    memory_peak,
    rows_at_once,
    slowest_stage,
    steady,
)


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table."""

    metric: str
    baseline: str
    wanted: str
    command: str
    measured: Callable[[], Figures]


TARGETS = (
    Target(
        "apply throughput, durable", "one prepared statement a row, one commit a transaction, pipelined",
        "3x, moonshot 10x", "make bench-baseline", rows_at_once("durable"),
    ),
    Target(
        "apply throughput, asynchronous", "the same", "3x, moonshot 10x", "make bench-baseline",
        rows_at_once("asynchronous"),
    ),
    Target(
        "end to end, durable: drain of a TPC-B backlog", "native logical replication, synchronous_commit = on",
        "4x, moonshot 6x", "make bench-drain", drain("durable"),
    ),
    Target(
        "end to end, asynchronous, all on two shared cores", "native, synchronous_commit = off, streaming = parallel",
        "1.0x, moonshot 1.25x", "make bench-drain", drain("asynchronous"),
    ),
    Target(
        "every role on its own cores: CPU a transaction of the busiest process", "native's busiest (its apply worker)",
        "1.5x, moonshot 2.5x with lanes", "make bench-drain", slowest_stage,
    ),
    Target(
        "drain against Debezium and the JDBC sink, asynchronous", "tuned, JSON records", "8x, moonshot 15x",
        "make bench-drain ARGS=--debezium", drain_against_debezium,
    ),
    Target(
        "p99 of commit to commit at 500 TPS, open loop", "native, for comparison", "under 25 ms, moonshot 10 ms",
        "make bench-latency", latency_p99(500),
    ),
    *(
        Target(
            f"lag under the highest open load, {'durable' if durable else 'asynchronous'}, {metric}",
            "the same pipeline, applied row by row", wanted,
            f"make bench-latency{' ARGS=--durable' if durable else ''}", less_lag(metric, durable=durable),
        )
        for durable in (False, True)
        for metric, wanted in (("mean", "0.5x"), ("p99", "0.4x"), ("variance", "0.3x"))
    ),
    Target(
        "bytes on the broker, changes and units", "the same rows as Debezium-style JSON", "0.70x, moonshot 0.15x",
        "make bench-network", bytes_a_row("JSON a row"),
    ),
    Target(
        "bytes on the broker, changes and units", "the same as Avro, a record a row, uncompressed", "0.70x",
        "make bench-network", bytes_a_row("Avro a row"),
    ),
    Target(
        "lanes: 8 against 1, target 2 ms away", "one lane", "near 8x",
        f"make bench-baseline ARGS='{baseline.LANES_ARGUMENTS}'", lanes,
    ),
    *(
        Target(
            f"makespan, Zipf 0.99, heavy tail (simulated), {title}", rival, "1.5x, moonshot 2.3x",
            "make bench-scheduling", makespan(rival, commit_us),
        )
        for commit_us, title in ((300, "with target commits"), (0, "parallelism alone"))
        for rival in ("level barriers", "key-hash partitions")
    ),
    Target(
        "memory: a transaction of 1,000,000 rows among small ones", "", "under 300 MB, moonshot 150 MB",
        "make bench-memory", memory_peak,
    ),
    Target(
        "memory: 30 minutes of a steady load", "", "flat", f"make bench-memory ARGS='{memory.HALF_AN_HOUR}'", steady
    ),
    Target("growth by tables, rows, lanes", "", "flat cost a transaction", "make bench-growth", growth),
    Target(
        "directory: look-up, p99 in µs, 1 M blocks, Zipf 0.99, moves going on", "one lock", "under 10 µs",
        "make bench-directory", directory("lookup, directory", "p99", "lookup, one lock", "p99", ",.1f"),
    ),
    Target(
        "the same, against a message a look-up", "a thread that is asked", "under 10 µs", "make bench-directory",
        directory("lookup, directory", "p99", "lookup, a message a look-up", "p99", ",.1f"),
    ),
    Target(
        "directory: hit rate of ready entries, half of the blocks, Zipf 0.99", "LRU, same memory",
        "over 0.95, better than LRU", "make bench-directory",
        directory("hits, zipf, 50%", "directory", "hits, zipf, 50%", "LRU", ".3f"),
    ),
    Target(
        "directory: the same, against who knows the future", "best possible, as many entries", "shown",
        "make bench-directory", directory("hits, zipf, 50%", "directory", "hits, zipf, 50%", "best possible", ".3f"),
    ),
    Target(
        "directory: the same, a fifth of the blocks, a scan going on", "LRU, same memory", "better than LRU",
        "make bench-directory", directory("hits, scan, 20%", "directory", "hits, scan, 20%", "LRU", ".3f"),
    ),
    Target(
        "directory: the same, what is hot shifts", "LRU, same memory", "better than LRU", "make bench-directory",
        directory("hits, shifting, 20%", "directory", "hits, shifting, 20%", "LRU", ".3f"),
    ),
    Target(
        "directory: share of 16 readers' time spent waiting for locks", "one lock", "0.15 -> 0.06",
        "make bench-directory", directory("locks, directory", "lock share", "locks, one lock", "lock share", ".3f"),
    ),
    Target(
        "directory: a move on a broker, ms", "one move a write", "-40 %", "make bench-directory",
        directory("remaster, batches", "ms a move", "remaster, one a write", "ms a move", ".2f"),
    ),
    Target(
        "directory: accesses at the master, shifting load (simulated nodes)", "hash placement", "shown",
        "make bench-directory", directory("placement, shifting", "directory", "placement, shifting", "hash", ".3f"),
    ),
    *(
        Target(
            f"directory: {few} -> 10 nodes, share of linear growth (simulated nodes)", "hash placement", "linear",
            "make bench-directory", directory_scaling(few, 10),
        )
        for few in (3, 8)
    ),
    *(
        Target(
            f"directory: reads {title}, 8 simulated caches, memory for half, shifting load", "hash placement", target,
            "make bench-directory", directory(
                "caches, 8 nodes, shifting, 20 blocks, directory", metric,
                "caches, 8 nodes, shifting, 20 blocks, hash", metric, ".3f",
            ),
        )
        for metric, title, target in (
            ("cache", "answered from the node's own memory", "higher"),
            ("memory of all", "answered from the memory of all nodes", "higher"),
            ("asked", "that ask a peer", "fewer"),
        )
    ),
    Target(
        "directory: accesses that ask a peer, 8 processes, shifting load", "hash placement", "fewer",
        "make bench-directory", directory(
            "processes, 8 nodes, directory", "asked", "processes, 8 nodes, hash", "asked", ".3f",
        ),
    ),
    *(
        Target(
            f"directory: apply throughput, {title}", "without it", "not worse", "make bench-directory",
            directory_apply(load),
        )
        for load, title in (("skewed", "skewed updates"), ("shifting", "shifting updates"))
    ),
)  # fmt: skip


def target_table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| metric | baseline | target | baseline measured | ours | ratio | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for target in TARGETS:
        figures = target.measured()
        lines.append(
            f"| {target.metric} | {target.baseline} | {target.wanted} | {figures.baseline} | {figures.ours} | "
            f"{figures.ratio} | `{target.command}` |"
        )
    return "\n".join(lines)

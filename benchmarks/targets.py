"""The targets of replication lag and apply, and what the stored results say about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks import baseline, memory, store
from benchmarks.latency import DURABLE, rates_of
from benchmarks.store import Option, Sample, ratios, samples, spread, values

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: the baseline, ours, the ratio between them, as text."""

    baseline: str = NOT_MEASURED
    ours: str = NOT_MEASURED
    ratio: str = NOT_MEASURED


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table."""

    metric: str
    baseline: str
    wanted: str
    command: str
    measured: Callable[[], Figures]


def _drain(sync: str, load: str = "tpcb", *, slow: bool = False) -> Callable[[], Figures]:
    def figures() -> Figures:
        def wanted(options: dict[str, Option]) -> bool:
            return options["load"] == load and bool(options["slow_fsync"]) == slow

        found = samples(store.load("drain"), wanted)
        ratio = ratios(found, f"Headrace, {sync}", f"native, {sync}", "tps")
        if not ratio:
            return Figures()
        base, ours = (median(values(found, f"{who}, {sync}", "tps")) for who in ("native", "Headrace"))
        return Figures(f"{base:,.0f} TPS", f"{ours:,.0f} TPS", spread(ratio, ".2f"))

    return figures


def _debezium() -> Figures:
    found = samples(store.load("drain"), lambda options: options["load"] == "tpcb" and not options["slow_fsync"])
    return _against(found, "Headrace, asynchronous", "Debezium, asynchronous", "tps", "{:,.0f} TPS")


def _rows_at_once(sync: str) -> Callable[[], Figures]:
    def figures() -> Figures:
        found = samples(store.load("baseline"), lambda options: not options["lanes_only"])
        return _against(found, f"Headrace, {sync}", f"row by row, {sync}", "tps", "{:,.0f} TPS")

    return figures


def _against(found: list[Sample], ours: str, base: str, metric: str, form: str) -> Figures:
    ratio = ratios(found, ours, base, metric)
    if not ratio:
        return Figures()
    before, after = (median(values(found, case, metric)) for case in (base, ours))
    return Figures(form.format(before), form.format(after), spread(ratio, ".2f"))


def _slowest_stage() -> Figures:
    """CPU of the busiest process: what limits the rate when each has a core of its own."""
    found = samples(store.load("drain"), lambda options: options["load"] == "tpcb" and not options["slow_fsync"])
    cases = {case: _busiest(found, f"{case}, asynchronous") for case in ("native", "Headrace")}
    if not all(cases.values()):
        return Figures()
    ratio = [cases["native"][seed] / us for seed, us in cases["Headrace"].items() if seed in cases["native"]]
    before, after = (f"{median(cases[case].values()):.1f} µs" for case in cases)
    return Figures(before, after, spread(ratio, ".2f"))


def _busiest(found: list[Sample], case: str) -> dict[int, float]:
    return {
        sample.seed: max(us for name, us in sample.metrics.items() if name.startswith("cpu_us "))
        for sample in found
        if sample.case == case
    }


def _latency(rate: int) -> Callable[[], Figures]:
    def figures() -> Figures:
        found = samples(store.load("latency"))
        base, ours = (spread(values(found, f"{who}, {rate} TPS", "p99 ms"), ".1f") for who in ("native", "Headrace"))
        return Figures(f"native {base} ms", f"{ours} ms", "") if ours != NOT_MEASURED else Figures()

    return figures


def _less_lag(metric: str, *, durable: bool) -> Callable[[], Figures]:
    """At the highest rate that was measured."""

    def figures() -> Figures:
        found = samples(store.load("latency"), lambda options: bool(options.get("durable")) == durable)
        rates = rates_of(found)
        if not rates:
            return Figures()
        at = f"{f'{DURABLE[2:]}, ' if durable else ''}{rates[-1]} TPS"
        return _against(found, f"Headrace, {at}", f"row by row, {at}", f"{metric} ms", f"{{:.1f}} ({at})")

    return figures


def _network(case: str) -> Callable[[], Figures]:
    def figures() -> Figures:
        found = samples(store.load("network"))
        return _against(found, "Headrace, changes and units", case, "bytes a row", "{:.1f} bytes a row")

    return figures


def _lanes() -> Figures:
    found = samples(store.load("baseline"), lambda options: bool(options["lanes_only"]))
    return _against(found, "8 lanes", "1 lanes", "tps", "{:,.0f} TPS")


def _skew(rival: str, commit_us: int) -> Callable[[], Figures]:
    def figures() -> Figures:
        name = f"skewed, heavy tail, {commit_us} µs a commit: "
        return _against(samples(store.load("scheduling")), name + "Headrace", name + rival, "speed-up", "{:.2f}")

    return figures


def _memory() -> Figures:
    found = [sample for sample in samples(store.load("memory")) if not sample.case.startswith("steady")]
    peaks = [max(sample.metrics.values()) for sample in found]
    return Figures("", f"{spread(peaks, '.0f')} MiB", "") if peaks else Figures()


def _steady() -> Figures:
    runs = [parts for parts in map(memory.steady_parts, store.load("memory")) if len(parts) >= memory.PARTS_OF_A_TREND]
    if not runs:
        return Figures()
    parts = runs[-1]
    texts = [f"{role} {memory.growth(parts, role):+.2f}" for role in memory.ROLES]
    return Figures("", f"MiB in the last {parts[-1].metrics['end s'] / 120:.0f} minutes: {', '.join(texts)}", "")


def _growth() -> Figures:
    found = samples(store.load("growth"))
    if not found:
        return Figures()
    parts = []
    for what in ("tables", "rows", "lanes"):
        costs = [
            sum(us for name, us in sample.metrics.items() if name.startswith("cpu_us "))
            for sample in found
            if sample.case.endswith(what)
        ]
        if costs:
            parts.append(f"{what} {max(costs) / min(costs):.1f}x")
    return Figures("", "CPU a transaction, dearest size to cheapest: " + ", ".join(parts), "")


def _directory(case: str, metric: str, base_case: str, base_metric: str, form: str) -> Callable[[], Figures]:
    """Ours and the baseline as medians with ranges, and the ratio of the medians."""

    def figures() -> Figures:
        found = samples(store.load("directory"))
        ours, base = values(found, case, metric), values(found, base_case, base_metric)
        if not ours or not base:
            return Figures()
        ratio = f"{median(ours) / median(base):.2f}" if median(base) else ""
        return Figures(spread(base, form), spread(ours, form), ratio)

    return figures


def _directory_apply(load: str) -> Callable[[], Figures]:
    def figures() -> Figures:
        found = samples(store.load("directory"))
        return _against(found, f"apply, {load}, with", f"apply, {load}, without", "tps", "{:,.0f} TPS")

    return figures


def _directory_scaling(few: int, many: int) -> Callable[[], Figures]:
    """Throughput of many nodes by that of few, in parts of what linear growth would give."""

    def figures() -> Figures:
        found = samples(store.load("directory"))
        grown = {}
        for who in ("hash", "directory"):
            small, large = (values(found, f"scaling, {nodes}", who) for nodes in (few, many))
            grown[who] = [more / less * few / many for less, more in zip(small, large, strict=True)]
        if not grown["directory"]:
            return Figures()
        return Figures(spread(grown["hash"], ".2f"), spread(grown["directory"], ".2f"), "")

    return figures


TARGETS = (
    Target(
        "apply throughput, durable", "one prepared statement a row, one commit a transaction, pipelined",
        "3x, moonshot 10x", "make bench-baseline", _rows_at_once("durable"),
    ),
    Target(
        "apply throughput, asynchronous", "the same", "3x, moonshot 10x", "make bench-baseline",
        _rows_at_once("asynchronous"),
    ),
    Target(
        "end to end, durable: drain of a TPC-B backlog", "native logical replication, synchronous_commit = on",
        "4x, moonshot 6x", "make bench-drain", _drain("durable"),
    ),
    Target(
        "end to end, asynchronous, all on two shared cores", "native, synchronous_commit = off, streaming = parallel",
        "1.0x, moonshot 1.25x", "make bench-drain", _drain("asynchronous"),
    ),
    Target(
        "every role on its own cores: CPU a transaction of the busiest process", "native's busiest (its apply worker)",
        "1.5x, moonshot 2.5x with lanes", "make bench-drain", _slowest_stage,
    ),
    Target(
        "drain against Debezium and the JDBC sink, asynchronous", "tuned, JSON records", "8x, moonshot 15x",
        "make bench-drain ARGS=--debezium", _debezium,
    ),
    Target(
        "p99 of commit to commit at 500 TPS, open loop", "native, for comparison", "under 25 ms, moonshot 10 ms",
        "make bench-latency", _latency(500),
    ),
    *(
        Target(
            f"lag under the highest open load, {'durable' if durable else 'asynchronous'}, {metric}",
            "the same pipeline, applied row by row", wanted,
            f"make bench-latency{' ARGS=--durable' if durable else ''}", _less_lag(metric, durable=durable),
        )
        for durable in (False, True)
        for metric, wanted in (("mean", "0.5x"), ("p99", "0.4x"), ("variance", "0.3x"))
    ),
    Target(
        "bytes on the broker, changes and units", "the same rows as Debezium-style JSON", "0.70x, moonshot 0.15x",
        "make bench-network", _network("JSON a row"),
    ),
    Target(
        "bytes on the broker, changes and units", "the same as Avro, a record a row, uncompressed", "0.70x",
        "make bench-network", _network("Avro a row"),
    ),
    Target(
        "lanes: 8 against 1, target 2 ms away", "one lane", "near 8x",
        f"make bench-baseline ARGS='{baseline.LANES_ARGUMENTS}'", _lanes,
    ),
    *(
        Target(
            f"makespan, Zipf 0.99, heavy tail (simulated), {title}", rival, "1.5x, moonshot 2.3x",
            "make bench-scheduling", _skew(rival, commit_us),
        )
        for commit_us, title in ((300, "with target commits"), (0, "parallelism alone"))
        for rival in ("level barriers", "key-hash partitions")
    ),
    Target(
        "memory: a transaction of 1,000,000 rows among small ones", "", "under 300 MB, moonshot 150 MB",
        "make bench-memory", _memory,
    ),
    Target(
        "memory: 30 minutes of a steady load", "", "flat", f"make bench-memory ARGS='{memory.HALF_AN_HOUR}'", _steady
    ),
    Target("growth by tables, rows, lanes", "", "flat cost a transaction", "make bench-growth", _growth),
    Target(
        "directory: look-up, p99 in µs, 1 M blocks, Zipf 0.99, moves going on", "one lock", "under 10 µs",
        "make bench-directory", _directory("lookup, directory", "p99", "lookup, one lock", "p99", ",.1f"),
    ),
    Target(
        "the same, against a message a look-up", "a thread that is asked", "under 10 µs", "make bench-directory",
        _directory("lookup, directory", "p99", "lookup, a message a look-up", "p99", ",.1f"),
    ),
    Target(
        "directory: hit rate of ready entries, half of the blocks, Zipf 0.99", "LRU, same memory",
        "over 0.95, better than LRU", "make bench-directory",
        _directory("hits, zipf, 50%", "directory", "hits, zipf, 50%", "LRU", ".3f"),
    ),
    Target(
        "directory: the same, against who knows the future", "best possible, as many entries", "shown",
        "make bench-directory", _directory("hits, zipf, 50%", "directory", "hits, zipf, 50%", "best possible", ".3f"),
    ),
    Target(
        "directory: the same, a fifth of the blocks, a scan going on", "LRU, same memory", "better than LRU",
        "make bench-directory", _directory("hits, scan, 20%", "directory", "hits, scan, 20%", "LRU", ".3f"),
    ),
    Target(
        "directory: the same, what is hot shifts", "LRU, same memory", "better than LRU", "make bench-directory",
        _directory("hits, shifting, 20%", "directory", "hits, shifting, 20%", "LRU", ".3f"),
    ),
    Target(
        "directory: share of 16 readers' time spent waiting for locks", "one lock", "0.15 -> 0.06",
        "make bench-directory", _directory("locks, directory", "lock share", "locks, one lock", "lock share", ".3f"),
    ),
    Target(
        "directory: a move on a broker, ms", "one move a write", "-40 %", "make bench-directory",
        _directory("remaster, batches", "ms a move", "remaster, one a write", "ms a move", ".2f"),
    ),
    Target(
        "directory: accesses at the master, shifting load (simulated nodes)", "hash placement", "shown",
        "make bench-directory", _directory("placement, shifting", "directory", "placement, shifting", "hash", ".3f"),
    ),
    *(
        Target(
            f"directory: {few} -> 10 nodes, share of linear growth (simulated nodes)", "hash placement", "linear",
            "make bench-directory", _directory_scaling(few, 10),
        )
        for few in (3, 8)
    ),
    *(
        Target(
            f"directory: reads {title}, 8 simulated caches, memory for half, shifting load", "hash placement", target,
            "make bench-directory", _directory(
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
        "make bench-directory", _directory(
            "processes, 8 nodes, directory", "asked", "processes, 8 nodes, hash", "asked", ".3f",
        ),
    ),
    *(
        Target(
            f"directory: apply throughput, {title}", "without it", "not worse", "make bench-directory",
            _directory_apply(load),
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

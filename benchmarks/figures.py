"""What the stored results say about each target: baseline, ours and their ratio, as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks import memory, store
from benchmarks.latency import DURABLE, rates_of
from benchmarks.store import Option, Sample, ratios, samples, spread, values

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: the baseline, ours, the ratio between them, as text."""

    baseline: str = NOT_MEASURED
    ours: str = NOT_MEASURED
    ratio: str = NOT_MEASURED


def drain(sync: str, load: str = "tpcb", *, slow: bool = False) -> Callable[[], Figures]:
    """Transactions a second with a backlog, native replication against ours."""

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


def drain_against_debezium() -> Figures:
    """The same against Debezium with the JDBC sink."""
    found = samples(store.load("drain"), lambda options: options["load"] == "tpcb" and not options["slow_fsync"])
    return _against(found, "Headrace, asynchronous", "Debezium, asynchronous", "tps", "{:,.0f} TPS")


def rows_at_once(sync: str) -> Callable[[], Figures]:
    """Apply alone, row by row against ours."""

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


def slowest_stage() -> Figures:
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


def latency_p99(rate: int) -> Callable[[], Figures]:
    """Milliseconds from commit to commit under an open load; no ratio, since natively less is on the way."""

    def figures() -> Figures:
        found = samples(store.load("latency"))
        base, ours = (spread(values(found, f"{who}, {rate} TPS", "p99 ms"), ".1f") for who in ("native", "Headrace"))
        return Figures(f"native {base} ms", f"{ours} ms", "") if ours != NOT_MEASURED else Figures()

    return figures


def less_lag(metric: str, *, durable: bool) -> Callable[[], Figures]:
    """At the highest rate that was measured."""

    def figures() -> Figures:
        found = samples(store.load("latency"), lambda options: bool(options.get("durable")) == durable)
        rates = rates_of(found)
        if not rates:
            return Figures()
        at = f"{f'{DURABLE[2:]}, ' if durable else ''}{rates[-1]} TPS"
        return _against(found, f"Headrace, {at}", f"row by row, {at}", f"{metric} ms", f"{{:.1f}} ({at})")

    return figures


def bytes_a_row(case: str) -> Callable[[], Figures]:
    """Bytes on the broker, another encoding against ours."""

    def figures() -> Figures:
        found = samples(store.load("network"))
        return _against(found, "Headrace, changes and units", case, "bytes a row", "{:.1f} bytes a row")

    return figures


def lanes() -> Figures:
    """Transactions a second with one lane and with eight, the target far away."""
    found = samples(store.load("baseline"), lambda options: bool(options["lanes_only"]))
    return _against(found, "8 lanes", "1 lanes", "tps", "{:,.0f} TPS")


def makespan(rival: str, commit_us: int) -> Callable[[], Figures]:
    """Simulated speed-up over one lane, a rival's plan against ours."""

    def figures() -> Figures:
        name = f"skewed, heavy tail, {commit_us} µs a commit: "
        return _against(samples(store.load("scheduling")), name + "Headrace", name + rival, "speed-up", "{:.2f}")

    return figures


def memory_peak() -> Figures:
    """The highest memory of a process while large transactions are on their way."""
    found = [sample for sample in samples(store.load("memory")) if not sample.case.startswith("steady")]
    peaks = [max(sample.metrics.values()) for sample in found]
    return Figures("", f"{spread(peaks, '.0f')} MiB", "") if peaks else Figures()


def steady() -> Figures:
    """Growth of memory in the second half of the last steady load."""
    runs = [parts for parts in map(memory.steady_parts, store.load("memory")) if len(parts) >= memory.PARTS_OF_A_TREND]
    if not runs:
        return Figures()
    parts = runs[-1]
    texts = [f"{role} {memory.growth(parts, role):+.2f}" for role in memory.ROLES]
    return Figures("", f"MiB in the last {parts[-1].metrics['end s'] / 120:.0f} minutes: {', '.join(texts)}", "")


def growth() -> Figures:
    """How much dearer a transaction becomes with more tables, rows, lanes."""
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


def directory(case: str, metric: str, base_case: str, base_metric: str, form: str) -> Callable[[], Figures]:
    """Ours and the baseline as medians with ranges, and the ratio of the medians."""

    def figures() -> Figures:
        found = samples(store.load("directory"))
        ours, base = values(found, case, metric), values(found, base_case, base_metric)
        if not ours or not base:
            return Figures()
        ratio = f"{median(ours) / median(base):.2f}" if median(base) else ""
        return Figures(spread(base, form), spread(ours, form), ratio)

    return figures


def directory_apply(load: str) -> Callable[[], Figures]:
    """Transactions a second that are applied, without the directory against with it."""

    def figures() -> Figures:
        found = samples(store.load("directory"))
        return _against(found, f"apply, {load}, with", f"apply, {load}, without", "tps", "{:,.0f} TPS")

    return figures


def directory_scaling(few: int, many: int) -> Callable[[], Figures]:
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

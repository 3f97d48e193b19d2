"""What RESULTS.md says of `benchmarks.fusion`: the table of targets, details, and charts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks import chart
from benchmarks.store import Run, Sample, ratios, samples, spread, values

SIZES = (1, 10, 30, 100, 300, 1000)  # fixed batches, beside those that a controller sizes
WAIT = "ms a second without a core"  # of the receiving node
FAIR = {"HIGH": 0.6, "NORMAL": 0.3, "LOW": 0.1}  # shares of what is offered to a busy link
_INTRODUCTION = (
    "Three node processes, blocks of 8 KiB (11 KiB of rows, laid out in columns; one message in five) and control "
    "messages of 100 bytes. The baseline sends a message a frame, and what came within 1 ms in one system call; for "
    "critical messages it is the queue of the bulk; for a capped link, batches of 100; for shares, strict priority. "
    "Latency is one way, from the offer of a message at the sender to the call that hands it to the receiving node. "
    "Overhead counts frame headers, "
    "acknowledgements and TCP segments of 1,448 bytes with their headers. `make bench-fusion`"
)


def section(runs: Sequence[Run]) -> str:
    """The R001 table, then details."""
    found = samples(runs)
    return "\n".join([_INTRODUCTION, "", _targets(found), "", _details(found)])


def _targets(found: Sequence[Sample]) -> str:
    base, ours = "three nodes, batch 1", "three nodes, model"
    rows = [
        ("throughput of three nodes, MB/s", values(found, base, "MB/s"), values(found, ours, "MB/s"), "+40 %", ",.0f"),
        (
            "overhead, bytes a message, unbatched", values(found, "three nodes, unbatched", "overhead bytes a message"),
            values(found, ours, "overhead bytes a message"), "-30 %", ",.1f",
        ),
        (
            "the same, beside the linger of 1 ms", values(found, base, "overhead bytes a message"),
            values(found, ours, "overhead bytes a message"), "", ",.1f",
        ),
        (
            "critical, p99 µs, capped link", values(found, "critical through the queue, capped link", "p99"),
            values(found, "critical past the queues, capped link", "p99"), "< 100", ",.0f",
        ),
        (
            "critical, p99 µs, full load of both cores", values(found, "critical through the queue, full load", "p99"),
            values(found, "critical past the queues, full load", "p99"), "< 100", ",.0f",
        ),
        (
            "utilisation, capped link", values(found, "capped link, 100", "utilisation"),
            values(found, "capped link, model", "utilisation"), "70 % -> 90 %", ".2f",
        ),
        (
            "utilisation, rate changes", values(found, "changing link, 100", "utilisation"),
            values(found, "changing link, model", "utilisation"), "90 %, held", ".2f",
        ),
        (
            "payload over a link of 20 MB/s, MB/s", values(found, "capped link, 100", "payload MB/s"),
            values(found, "capped link, model, LZ4", "payload MB/s"), "", ",.1f",
        ),
        ("compression of 8 KiB blocks", [1.0], values(found, "compression by size, orders", "8192"), "2.5", ".2f"),
        (
            "share of low priority, busy link", values(found, "priorities, strict", "LOW share"),
            values(found, "priorities, shares", "LOW share"), "its floor, 1/13", ".3f",
        ),
    ]  # fmt: skip
    lines = ["| | baseline | Headrace | ratio | target |", "|---|---|---|---|---|"]
    for title, before, after, target, form in rows:
        ratio = f"{median(after) / median(before):.2f}" if before and after and median(before) else ""
        lines.append(f"| {title} | {spread(before, form)} | {spread(after, form)} | {ratio} | {target} |")
    lines.append("")
    lines.append(f"Throughput, ratio within a repetition: {spread(ratios(found, ours, base, 'MB/s'), '.2f')}.")
    return "\n".join(lines)


def _details(found: Sequence[Sample]) -> str:
    cases = list(dict.fromkeys(sample.case for sample in found if sample.case.startswith("three")))
    metrics = ("MB/s", "messages/s", "p99 ms", "batch", "CPU us a message", "wire bytes a payload byte")
    lines = ["| case | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for case in cases:
        cells = [f"{median(values(found, case, metric)):,.4g}" for metric in metrics]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += ["", f"| critical, µs | p50 | p99 | p99.9 | max | {WAIT} |", "|---|---|---|---|---|---|"]
    for case in dict.fromkeys(sample.case for sample in found if sample.case.startswith("critical")):
        columns = [values(found, case, metric) for metric in ("p50", "p99", "p999", "max", WAIT)]
        cells = [f"{median(column):,.0f}" if column else "" for column in columns]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    methods = {s.case: s.metrics for s in found if s.case.startswith("compression by method")}
    if methods:
        names = list(next(iter(methods.values())))
        lines += ["", "| " + " | ".join(["blocks of 8 KiB", *names]) + " |", "|---" * (len(names) + 1) + "|"]
        lines += [f"| {case} | {' | '.join(f'{m[name]:.2f}' for name in names)} |" for case, m in methods.items()]
    lines += ["", "| p99 by priority, ms | high | normal | low |", "|---|---|---|---|"]
    for case in ("priorities, strict", "priorities, shares"):
        cells = [f"{median(values(found, case, f'{name} p99 ms') or [0]):,.0f}" for name in FAIR]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def charts(runs: Sequence[Run]) -> list[str]:
    """Throughput and latency by batch size, step response, compression, fairness."""
    found = samples(runs)
    cases = [f"three nodes, batch {size}" for size in SIZES]
    for name, metric, title in (
        ("fusion_throughput", "MB/s", "Three nodes, MB/s by batch size"),
        ("fusion_p99", "p99 ms", "Three nodes, p99 in ms by batch size"),
    ):
        numbers = [median(values(found, case, metric) or [0]) for case in cases]
        model = median(values(found, "three nodes, model", metric) or [0])
        chart.lines(name, title, [str(s) for s in SIZES], {"fixed": numbers, "model": [model] * len(SIZES)})
    _step_chart(found)
    sizes = list(next((s.metrics for s in found if s.case == "compression by size, orders"), {}))
    by_size = "compression by size, "
    images = {s.case.removeprefix(by_size): s.metrics for s in found if s.case.startswith(by_size)}
    ratios_by_size = {table: list(metrics.values()) for table, metrics in images.items()}
    chart.lines("fusion_compression", "LZ4 ratio by block size in bytes", sizes, ratios_by_size)
    chart.bars("fusion_fairness", "Shares of a busy link", ["high", "normal", "low"], {
        case.removeprefix("priorities, "): [median(values(found, case, f"{name} share") or [0]) for name in FAIR]
        for case in ("priorities, strict", "priorities, shares")
    })  # fmt: skip
    return ["fusion_throughput", "fusion_p99", "fusion_step", "fusion_compression", "fusion_fairness"]


def _step_chart(found: Sequence[Sample]) -> None:
    """The first repetition's utilisation while the rate goes 20, 40, 10 MB/s."""
    series: dict[str, list[float]] = {}
    for name in ("100", "step", "model"):
        sample = next((s for s in found if s.case == f"changing link, {name}"), None)
        steps = sum(key[0] == "u" and key[1:].isdigit() for key in sample.metrics) if sample is not None else 0
        series[name] = [sample.metrics[f"u{n}"] for n in range(steps)] if sample is not None else []
    labels = [f"{n / 5:.0f}" if n % 5 == 0 else "" for n in range(max(map(len, series.values())))]
    chart.lines("fusion_step", "Utilisation over seconds, rate 20, 40, 10 MB/s", labels, series)

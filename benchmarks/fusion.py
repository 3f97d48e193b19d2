"""Cache fusion between node processes: batching against a decent sender of single messages.

Nodes are processes with the product's own batcher, link and receiver; what arrives is checked for order and loss. The
baseline sends every message as a frame of its own, and whatever came within a millisecond in one system call; without
that millisecond ("unbatched") it is a system call a message. Blocks are rows that PostgreSQL wrote, laid out in columns
as nodes send them, 8 KiB each; control messages have 100 bytes. Latency is one way, from the offer of a message to the
call that hands it to the receiving node. A capped link is a relay with a token bucket and a delay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import chart
from benchmarks.fusion_images import compression_by_method, compression_by_size, row_images, write_blocks
from benchmarks.store import Run, Sample, ratios, samples, spread, values

TITLE = "Cache fusion between nodes"
MIX = {"block": 0.2, "control": 0.8}
CAPPED_MIX = {"block": 0.1, "control": 0.9}
SIZES = (1, 10, 30, 100, 300, 1000)
RATE = 20e6  # bytes a second of the capped link; with its delay 500 KB are under way when it is full
DELAY_S = 0.025
Measure = Callable[[], dict[str, float]]
WAIT = "ms a second without a core"  # of the receiving node
STEPS = [RATE, 2 * RATE, RATE / 2]
FAIR = {"HIGH": 0.6, "NORMAL": 0.3, "LOW": 0.1}
ACK_BYTES = 8  # a frame
SEGMENT_BYTES = 1448  # as on Ethernet, where overhead is counted
HEADER_BYTES = 66  # Ethernet, IP and TCP with options, a segment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=1.5, help="a measurement")
    parser.add_argument("--only", default="", help="cases that begin so, separated by commas (default: all)")
    parser.add_argument("--port", type=int, default=21_400, help="first of 12 ports")


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Yield a sample a case and repetition."""
    wanted = tuple(given.only.split(","))
    with tempfile.TemporaryDirectory(prefix="headrace-fusion-") as name:
        images = row_images(Path(name))
        if "compression".startswith(wanted):
            for table, image in images.items():
                yield Sample(f"compression by size, {table}", 0, compression_by_size(image))
                yield Sample(f"compression by method, {table}", 0, compression_by_method(image))
        blocks = Path(name) / "blocks"
        write_blocks(images["orders"], blocks)
        for seed in range(given.first_seed, given.first_seed + given.repetitions):
            for case, measure in _cases(Bench(given, blocks, seed)):
                if case.startswith(wanted):
                    yield Sample(case, seed, measure())


def _cases(bench: Bench) -> Iterator[tuple[str, Measure]]:
    """The cases of a repetition, and how each is measured."""
    yield "three nodes, unbatched", partial(bench.three, "unbatched", compress=False)
    for size in SIZES:
        yield f"three nodes, batch {size}", partial(bench.three, str(size), compress=False)
    yield "three nodes, model", partial(bench.three, "model", compress=False)
    yield "three nodes, model, LZ4", partial(bench.three, "model", compress=True)
    yield "critical past the queues, no bulk", partial(bench.critical, queued=False, rates=[], mix={})
    for queued in (True, False):
        how = "through the queue" if queued else "past the queues"
        yield f"critical {how}, full load", partial(bench.critical, queued=queued, rates=[])
        yield f"critical {how}, capped link", partial(bench.critical, queued=queued, rates=[RATE])
    for name in ("100", "step", "model"):
        yield f"capped link, {name}", partial(bench.capped, name, [RATE])
        yield f"changing link, {name}", partial(bench.capped, name, STEPS)
    yield "capped link, model, LZ4", partial(bench.capped, "model", [RATE], compress=True)
    for strict in (True, False):
        yield f"priorities, {'strict' if strict else 'shares'}", partial(bench.fairness, strict=strict)


class Bench:
    """Starts nodes and reads their results."""

    def __init__(self, given: argparse.Namespace, blocks: Path, seed: int) -> None:
        self.seconds = given.seconds
        self._port, self._blocks, self._seed = given.port, blocks, seed

    def _task(self, number: int, peers: dict[str, int], **changes: Any) -> dict[str, Any]:
        usual = {
            "name": "abc"[number], "port": self._port + number, "peers": peers, "seconds": self.seconds,
            "controller": "model", "compress": False, "blocks": str(self._blocks), "mix": MIX,
            "priorities": {"HIGH": 0.1, "NORMAL": 0.8, "LOW": 0.1}, "critical_every_s": 0.0, "critical_queued": False,
            "strict": False, "rates": [], "seed": self._seed * 10 + number,
        }  # fmt: skip
        return usual | changes

    def three(self, controller: str, *, compress: bool) -> dict[str, float]:
        """Three nodes, each sending to the two others."""
        tasks = [
            self._task(
                number, {"abc"[n]: self._port + n for n in range(3) if n != number}, controller=controller,
                compress=compress, segment_bytes=SEGMENT_BYTES,
            )
            for number in range(3)
        ]  # fmt: skip
        return _throughput(_run(tasks, None))

    def _pair(self, rates: list[float], **changes: Any) -> list[dict[str, Any]]:
        """Node a sends to node b, through the relay if the link is capped."""
        relay = None
        port = self._port + 1
        if rates:
            port = self._port + 5
            relay = {"ports": {port: self._port + 1}, "rates": rates, "seconds": changes["seconds"], "delay_s": DELAY_S}
        receiver = self._task(1, {}, seconds=changes["seconds"])
        return _run([self._task(0, {"b": port}, rates=rates, **changes), receiver], relay)

    def critical(self, *, queued: bool, rates: list[float], mix: dict[str, float] = MIX) -> dict[str, float]:
        """Critical messages, up to 500 a second, under bulk."""
        _, receiver = self._pair(rates, seconds=self.seconds, critical_every_s=0.002, critical_queued=queued, mix=mix)
        # Through the queue they are normal messages like the bulk.
        latency: dict[str, float] = receiver["latency_us"]["NORMAL" if queued else "CRITICAL"]
        return latency | {WAIT: receiver["wait_s"] / receiver["seconds"] * 1000}

    def capped(self, controller: str, rates: list[float], *, compress: bool = False) -> dict[str, float]:
        """Utilisation of a capped link; `u0`, `u1`, ... are the recorded steps."""
        sender, receiver = self._pair(
            rates, seconds=3 * self.seconds, controller=controller, mix=CAPPED_MIX, compress=compress
        )
        series = [u for _, u, _ in sender["series"]]
        parts = len(rates)
        # The last two thirds of each part: the link has settled.
        settled = [
            u
            for part in range(parts)
            for u in series[len(series) * (3 * part + 1) // (3 * parts) : len(series) * (part + 1) // parts]
        ]
        return {
            "utilisation": median(settled), "batch": mean(sender["sizes"]),
            "payload MB/s": receiver["got_bytes"] / receiver["seconds"] / 1e6,
            **{f"u{n}": u for n, u in enumerate(series)},
        }  # fmt: skip

    def fairness(self, *, strict: bool) -> dict[str, float]:
        """Three priorities, each offered more than the capped link takes."""
        _, receiver = self._pair([RATE], seconds=2 * self.seconds, strict=strict, mix=CAPPED_MIX, priorities=FAIR)
        total = sum(receiver["by_class"].values())
        found = {f"{name} share": receiver["by_class"][name] / total for name in FAIR}
        p99 = {f"{name} p99 ms": receiver["latency_us"].get(name, {}).get("p99", 0.0) / 1000 for name in FAIR}
        return found | p99


def _run(tasks: list[dict[str, Any]], relay: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Start everything, say go, and return the results in order. Raises RuntimeError for lost or damaged messages."""
    commands = [["benchmarks.fusion_relay", relay]] if relay is not None else []
    commands += [["benchmarks.fusion_node", task] for task in tasks]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", str(module), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for module, task in commands
    ]
    try:
        for process in processes:
            _expect(process, "ready")
        for process in processes:
            _say(process)
        nodes = processes[1:] if relay is not None else processes
        results = [json.loads(_line(process)) for process in nodes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
    if any(result["damaged"] for result in results):
        raise RuntimeError("messages arrived out of order or not at all")
    return results


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError(f"a node has ended: {process.args!r}")
    return line


def _expect(process: subprocess.Popen[str], word: str) -> None:
    line = _line(process)
    if line.strip() != word:
        raise RuntimeError(f"a node says {line!r}, not {word}")


def _say(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.write("go\n")
        process.stdin.flush()


def _throughput(results: list[dict[str, Any]]) -> dict[str, float]:
    got = sum(result["got_bytes"] / result["seconds"] for result in results)
    messages = sum(result["got_messages"] for result in results)
    body = sum(result["body_bytes"] for result in results)
    overhead = sum(
        result["frame_bytes"] - result["body_bytes"] + result["segments"] * HEADER_BYTES + result["frames"] * ACK_BYTES
        for result in results
    )
    return {
        "MB/s": got / 1e6, "messages/s": messages / mean(result["seconds"] for result in results),
        "p99 ms": max(result["latency_us"]["NORMAL"]["p99"] for result in results) / 1000,
        "batch": sum(result["messages"] for result in results) / sum(result["frames"] for result in results),
        "CPU us a message": sum(result["cpu_s"] for result in results) * 1e6 / messages,
        "wire bytes a payload byte": sum(result["frame_bytes"] for result in results) / body,
        "overhead bytes a message": overhead / sum(result["messages"] for result in results),
    }  # fmt: skip


# ---- the section of RESULTS.md -------------------------------------------------------------------


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

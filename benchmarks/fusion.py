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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.fusion_images import compression_by_method, compression_by_size, row_images, write_blocks
from benchmarks.fusion_report import FAIR, SIZES, WAIT, charts, section
from benchmarks.store import Sample

__all__ = ["TITLE", "add_arguments", "charts", "run", "section"]
TITLE = "Cache fusion between nodes"
MIX = {"block": 0.2, "control": 0.8}
CAPPED_MIX = {"block": 0.1, "control": 0.9}
RATE = 20e6  # bytes a second of the capped link; with its delay 500 KB are under way when it is full
DELAY_S = 0.025
Measure = Callable[[], dict[str, float]]
STEPS = [RATE, 2 * RATE, RATE / 2]
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

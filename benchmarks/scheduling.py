"""The planner alone, and the makespan of its plans in a simulation of the lanes.

*Planning*: windows of transactions with 1, 3 or 10 keys each go through the real planner; what it costs a
transaction, without Kafka and without a database.

*Makespan*: the same transactions on 16 lanes (`benchmarks/makespan.py`). Durations are log-normal with the mean cost of
a set-based apply as `drain` measures it. A target transaction costs `COMMIT_US` more, for everybody; the same without
that cost shows the parallelism alone.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from statistics import mean, median

from benchmarks import chart
from benchmarks.keyed_windows import Keys, key_rules, make_planner, to_batches, zipf_keys
from benchmarks.makespan import RIVALS, WINDOW
from benchmarks.store import Run, Sample, ratios, samples, spread, values
from pipeline.independent import window_keys
from schemas.apply_unit import LANES_MAX
from schemas.change_batch_codec import decode_batch, encode_batch

TITLE = "Scheduling"
WINDOWS = (100, 1000, 4000)
KEY_COUNTS = (1, 3, 10)
APPLY_US = 12.0  # of one transaction, set-based (drain, CPU of the target)
COMMIT_US = 300.0  # of one target transaction: statements, round trips, commit
# name: number of keys, Zipf exponent, sigma of the log-normal durations
WORKLOADS = {
    "uniform": (100_000, 0.0, 0.5),
    "skewed": (100_000, 0.99, 0.5),
    "skewed, heavy tail": (100_000, 0.99, 1.2),
    "hot, heavy tail": (1_000, 0.99, 1.2),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--transactions", type=int, default=20_000)


def run(given: argparse.Namespace) -> Iterator[Sample]:
    """Yield a sample a case and repetition."""
    for seed in range(given.first_seed, given.first_seed + given.repetitions):
        for window in WINDOWS:
            for count in KEY_COUNTS:
                keys = zipf_keys(seed, given.transactions, 1_000_000, 0.0, count, count)
                yield Sample(f"planning, {window} a window, {count} keys", seed, _planning(keys, window))
        for name, (distinct, exponent, sigma) in WORKLOADS.items():
            keys = zipf_keys(seed, given.transactions, distinct, exponent, 1, 3)
            yield Sample(f"{name}, largest set", seed, {"share": _largest_set(keys)})
            costs_us = _costs(seed, len(keys), sigma)
            for commit_us in (COMMIT_US, 0.0):
                for rival, makespan in RIVALS.items():
                    us = makespan(keys, costs_us, commit_us)
                    case = f"{name}, {commit_us:g} µs a commit: {rival}"
                    yield Sample(case, seed, {"makespan ms": us / 1000, "speed-up": sum(costs_us) / us})


def _costs(seed: int, count: int, sigma: float) -> list[float]:
    chance = random.Random(seed + 1000)
    drawn = [chance.lognormvariate(0, sigma) for _ in range(count)]
    scale = APPLY_US * count / sum(drawn)
    return [each * scale for each in drawn]


def _largest_set(keys: Keys) -> float:
    """The share of a window's transactions that is in its largest independent set, the mean of all windows."""
    rules = key_rules()
    return mean(
        max(map(len, window_keys(batch, rules).components().values())) / len(batch.positions)
        for batch in to_batches(keys, WINDOW)
    )


def _planning(keys: Keys, window: int) -> dict[str, float]:
    """CPU of decoding and planning, every window applied when 64 are in flight."""
    records = [encode_batch(batch) for batch in to_batches(keys, window)]
    planner = make_planner()
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
        barriers, partitions = (median(values(found, f"{name}: {who}", "speed-up")) for who in list(RIVALS)[:2])
        ours = spread(values(found, f"{name}: Headrace", "speed-up"), ".2f")
        to = [spread(ratios(found, f"{name}: Headrace", f"{name}: {who}", "speed-up"), ".2f") for who in RIVALS][:2]
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
        who: [round(median(values(found, f"{name}: {who}", "speed-up")), 2) for name in names] for who in RIVALS
    }
    chart.bars("scheduling", f"Speed-up over one lane, {LANES_MAX} lanes (simulation)", list(WORKLOADS), series)
    return ["scheduling"]

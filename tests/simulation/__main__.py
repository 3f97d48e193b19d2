"""`python -m tests.simulation --seeds 1000` runs histories on all processors and prints what came of them;
`--seed N` runs one and prints its whole history.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from tests.simulation.faults import SCENARIOS, Outcome, run_seed
from tests.simulation.report import print_history, print_table

BROKEN_MAX = 20  # seeds named at most
Summary = tuple[int, str, str, bool, Counter[str]]


def summary(seed: int) -> Summary:
    """What a worker tells about a seed."""
    outcome: Outcome = run_seed(seed)
    return seed, outcome.scenario, outcome.text, outcome.broken, outcome.world.faults


def run_seeds(seeds: Iterable[int]) -> int:
    """Run many; the exit code."""
    found: dict[str, list[Summary]] = {name: [] for name in SCENARIOS}
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for one in pool.imap_unordered(summary, seeds, chunksize=20):
            found[one[1]].append(one)
    print_table(
        "simulation",
        [(name, len(ones), sum((one[4] for one in ones), Counter()), Counter(one[2] for one in ones if not one[3]))
         for name, ones in found.items()],
    )  # fmt: skip
    broken = [one for ones in found.values() for one in ones if one[3]]
    for seed, scenario, text, _, _ in islice(sorted(broken), BROKEN_MAX):
        print(f"BROKEN seed {seed} ({scenario}): {text}\n    make simulate SEED={seed}")
    return 1 if broken else 0


def run_one(seed: int) -> int:
    """Run one and print its history; the exit code."""
    outcome = run_seed(seed)
    print_history(outcome.world)
    print(f"seed {seed}, {outcome.scenario}: {'BROKEN: ' if outcome.broken else ''}{outcome.text}")
    return int(outcome.broken)


def main() -> int:
    """Read the arguments."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000, help="run the seeds 0..N-1")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone and print its history")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return run_one(arguments.seed)
    return run_seeds(range(arguments.first, arguments.first + arguments.seeds))


if __name__ == "__main__":
    sys.exit(main())

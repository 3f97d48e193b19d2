"""`python -m tests.faults`: every fault scenario, the long ones too, and a table of what came of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.reported import ENV_LONG, FAULTS, PEAKS


class Results:
    """A pytest plugin that keeps what happened, test by test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}
        self.faults: dict[str, Counter[str]] = {}
        self.peaks: dict[str, int] = {}  # MiB, of whichever role had most

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the call's outcome, and a set-up or an end that failed."""
        name = report.nodeid.rpartition("/")[2].replace(".py::", ": ")
        if report.when == "call" or report.outcome != "passed":
            self.outcomes.setdefault(name, Counter())[report.outcome] += 1
        for key, value in report.user_properties if report.when == "teardown" else ():
            if key == FAULTS and isinstance(value, dict):
                self.faults.setdefault(name, Counter()).update(value)
            if key == PEAKS and isinstance(value, dict):
                self.peaks[name] = max([self.peaks.get(name, 0), *value.values()])

    def table(self) -> str:
        """Scenario, repetitions, injected faults, the most memory a role had, outcome."""
        width = max(map(len, self.outcomes), default=8)
        lines = [f"{'scenario':<{width}}  repetitions  faults  memory, MiB  outcome"]
        for name, outcomes in self.outcomes.items():
            faults = self.faults.get(name, Counter())
            text = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
            kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(faults.items()))
            memory = self.peaks.get(name, 0) or "-"
            lines.append(
                f"{name:<{width}}  {outcomes.total():>11}  {faults.total():>6}  {memory:>11}  {text}"
                f"  {kinds and f'({kinds})'}"
            )
        return "\n".join(lines)


def main() -> int:
    """Run the scenarios, as often as asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("-k", default="", help="run the scenarios whose names match")
    arguments = parser.parse_args()
    os.environ[ENV_LONG] = "1"
    results = Results()
    chosen = ["-k", arguments.k] if arguments.k else []
    where = str(Path(__file__).parent)
    codes = [pytest.main(["-q", where, *chosen], plugins=[results]) for _ in range(arguments.repetitions)]
    print(results.table())
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())

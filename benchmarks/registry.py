"""The benchmarks by name, in the order of RESULTS.md."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from benchmarks import baseline, directory, drain, fusion, growth, latency, memory, network, scheduling
from benchmarks.store import Run, Sample


class Benchmark(Protocol):
    """What a module of this folder offers to the harness."""

    TITLE: str
    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add options; each must have a default that suits `make bench`."""

    def run(self, given: argparse.Namespace) -> Iterator[Sample]:
        """Measure, verify, and yield the samples. Raises if a result is wrong."""

    def section(self, runs: Sequence[Run]) -> str:
        """Return the section of RESULTS.md, without its title."""

    def charts(self, runs: Sequence[Run]) -> list[str]:
        """Write charts; return their names."""


_MODULES = {
    "drain": drain, "baseline": baseline, "latency": latency, "network": network, "scheduling": scheduling,
    "memory": memory, "growth": growth, "fusion": fusion, "directory": directory,
}  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {name: cast(Benchmark, module) for name, module in _MODULES.items()}

"""`python -m benchmarks`: every benchmark with its defaults; `python -m benchmarks NAME [options]`: one of them.

Results are stored in benchmarks/results/ and RESULTS.md is assembled from all that is stored there;
`python -m benchmarks report` does that alone.
"""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
from types import FrameType

from benchmarks import store
from benchmarks.machine import library_versions, machine_line
from benchmarks.registry import BENCHMARKS, Benchmark
from benchmarks.report import write_report
from benchmarks.store import Option, Run, Sample


def main() -> None:
    """Run what the command line names."""
    signal.signal(signal.SIGTERM, _unwind)
    given = _parser().parse_args()
    if given.name is None:
        for name, benchmark in BENCHMARKS.items():
            _run(name, benchmark, _parser().parse_args([name]))
    elif given.name != "report":
        _run(given.name, BENCHMARKS[given.name], given)
    write_report()


def _unwind(signum: int, _: FrameType | None) -> None:
    """End as an error does: what a benchmark has started is stopped on the way out."""
    sys.exit(128 + signum)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name")
    names.add_parser("report", help="assemble RESULTS.md from the stored results")
    for name, benchmark in BENCHMARKS.items():
        one = names.add_parser(name, help=benchmark.TITLE, description=benchmark.__doc__)
        one.add_argument("--repetitions", type=int, default=5)
        one.add_argument("--first-seed", type=int, default=0, help="repetitions have this seed and the following ones")
        one.add_argument("--add", action="store_true", help="keep stored results of other seeds with the same options")
        one.add_argument("--remark", default="", help="a sentence on the circumstances, for RESULTS.md")
        one.add_argument("--no-write", action="store_true", help="print only")
        benchmark.add_arguments(one)
    return parser


def _run(name: str, benchmark: Benchmark, given: argparse.Namespace) -> None:
    samples: list[Sample] = []
    for sample in benchmark.run(given):
        samples.append(sample)
        figures = "  ".join(f"{metric} {value:,.6g}" for metric, value in sample.metrics.items())
        print(f"{name}: seed {sample.seed}: {sample.case:28s} {figures}", flush=True)
    beside = {"name", "repetitions", "first_seed", "add", "no_write", "remark"}
    options: dict[str, Option] = {key: value for key, value in vars(given).items() if key not in beside}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    if not given.no_write:
        run = Run(today, machine_line(), library_versions(), options, samples, given.remark)
        store.save(name, run, add=given.add)


if __name__ == "__main__":
    main()

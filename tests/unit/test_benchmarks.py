"""Stored results and what is assembled from them; nothing is measured here."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen

import pytest

from benchmarks import chart, report, store
from benchmarks.registry import BENCHMARKS
from benchmarks.scheduling import WORKLOADS
from benchmarks.servers import Servers
from benchmarks.store import Run, Sample, ratios, spread, values
from benchmarks.targets import TARGETS
from headrace.embedded import EmbeddedKafka, EmbeddedPostgres


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "FOLDER", tmp_path)
    monkeypatch.setattr(chart, "FOLDER", tmp_path)
    return tmp_path


def run(seed: int, tps: float, **options: store.Option) -> Run:
    found = [Sample("native", seed, {"tps": 100.0}), Sample("ours", seed, {"tps": tps})]
    return Run("2026-01-01", "a machine", {"Python": "3"}, options, found)


def test_the_report_is_what_the_stored_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart, "FOLDER", tmp_path)
    text = report.report_text()
    assert report.RESULTS.read_text() == text, "run `python -m benchmarks report`"
    assert text.count("make bench-") >= len([target for target in TARGETS if target.command])
    for picture in tmp_path.glob("*.svg"):
        assert (store.FOLDER / picture.name).exists()


def test_targets_without_results_are_not_measured(folder: Path) -> None:
    assert not list(folder.iterdir())
    assert all(target.measured().ours == "not measured" for target in TARGETS)
    assert "## Targets" in report.report_text()


def test_results_of_other_options_and_seeds_are_kept(folder: Path) -> None:
    store.save("x", run(0, 150, load="a"), add=False)
    store.save("x", run(1, 300, load="a"), add=True)
    store.save("x", run(0, 200, load="b"), add=False)
    assert [found.options["load"] for found in store.load("x")] == ["a", "a", "b"]
    store.save("x", run(1, 400, load="a"), add=True)  # the same seed again takes the place of the old one
    found = store.samples(store.load("x"), lambda options: options["load"] == "a")
    assert values(found, "ours", "tps") == [150, 400]
    assert ratios(found, "ours", "native", "tps") == [1.5, 4.0]
    store.save("x", run(2, 500, load="a"), add=False)
    assert [found.options["load"] for found in store.load("x")] == ["b", "a"]


def test_spread() -> None:
    assert spread([]) == "not measured"
    assert spread([2.0], ".1f") == "2.0"
    assert spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0 - 3.0)"


def test_scheduling_measures_each_workload_against_each_rival(folder: Path) -> None:
    benchmark = BENCHMARKS["scheduling"]
    given = argparse.Namespace(transactions=400, first_seed=0, repetitions=1)
    found = list(benchmark.run(given))
    text = benchmark.section([Run("2026-01-01", "a machine", {}, {}, found)])
    assert all(text.count(f"| {name}, ") >= 2 for name in WORKLOADS)
    assert all(sample.metrics.get("speed-up", 1) > 0 for sample in found)
    assert folder.exists()


def fail_with(processes: dict[str, Popen[bytes]], directory: Path) -> None:
    kafka, postgres = EmbeddedKafka(directory / "kafka"), EmbeddedPostgres(directory / "postgres")
    with ExitStack() as stack:
        roles = Servers(kafka, postgres, postgres, directory, stack).roles(directory / "bench.toml")
        roles.launch("capture", [sys.executable, "-c", "import time; time.sleep(600)"])
        processes.update(roles.processes)
        raise RuntimeError("the load fails")


def test_a_failing_benchmark_leaves_no_process(tmp_path: Path) -> None:
    processes: dict[str, Popen[bytes]] = {}
    with pytest.raises(RuntimeError, match="the load fails"):
        fail_with(processes, tmp_path)
    assert processes["capture"].poll() is not None

"""Results on disk: one JSON file a benchmark, a list of runs, so that RESULTS.md can be assembled at any time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).with_name("results")
Option = str | int | float


@dataclass(frozen=True, slots=True)
class Sample:
    """What one contestant did in one repetition; `seed` pairs it with the others of that repetition."""

    case: str
    seed: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """One call of a benchmark: when, where, of what versions, with which options, and its samples."""

    date: str
    machine: str
    versions: dict[str, str]
    options: dict[str, Option]
    samples: list[Sample] = field(default_factory=list)
    remark: str = ""  # on the circumstances


def load(name: str) -> list[Run]:
    """Return the stored runs of a benchmark, none if it has never run."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return []
    runs = json.loads(path.read_text())
    return [Run(**{**run, "samples": [Sample(**sample) for sample in run["samples"]]}) for run in runs]


def save(name: str, run: Run, *, add: bool) -> None:
    """Store a run: in place of those with the same options, or with `add` beside those of other seeds."""
    kept = [old for old in load(name) if old.options != run.options or (add and not _seeds(old) & _seeds(run))]
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps([dataclasses.asdict(each) for each in [*kept, run]], indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n")


def _seeds(run: Run) -> set[int]:
    return {sample.seed for sample in run.samples}


def samples(runs: Iterable[Run], wanted: Callable[[dict[str, Option]], bool] = lambda _: True) -> list[Sample]:
    """The samples of the runs whose options are `wanted`."""
    return [sample for run in runs if wanted(run.options) for sample in run.samples]


def values(found: Sequence[Sample], case: str, metric: str) -> list[float]:
    """One metric of one case, a value a repetition."""
    return [sample.metrics[metric] for sample in found if sample.case == case and metric in sample.metrics]


def ratios(found: Sequence[Sample], case: str, base: str, metric: str) -> list[float]:
    """Ratio of `case` to `base` within each repetition that has both."""
    before = {sample.seed: sample.metrics[metric] for sample in found if sample.case == base}
    return [
        sample.metrics[metric] / before[sample.seed]
        for sample in found
        if sample.case == case and sample.seed in before
    ]


def spread(numbers: Sequence[float], form: str = ",.0f") -> str:
    """Median and range as text."""
    if not numbers:
        return "not measured"
    low, high = min(numbers), max(numbers)
    return f"{median(numbers):{form}} ({low:{form}} - {high:{form}})" if len(numbers) > 1 else f"{numbers[0]:{form}}"

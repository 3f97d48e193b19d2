"""The same histories with table priorities: express lanes keep every promise, and are used."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pipeline.conflicts import KeyRules
from pipeline.lanes import Preferences
from pipeline.planner import Planner
from pipeline.priorities import Priorities
from pipeline.window import Restart
from schemas.apply_unit import ApplyUnit
from tests.simulation import world
from tests.simulation.faults import run_seed
from tests.simulation.report import print_history

PATTERNS = {"critical": ("public.a*", "public.p*"), "low": ("public.c*",)}
LANES_MIN = 3


def test_histories_with_priorities_keep_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    units: Counter[str] = Counter()

    class Prioritising(Planner):
        """A planner with an express lane and a slow one, where there are lanes enough."""

        def __init__(self, stream: str, start: Restart, rules: KeyRules, *, lanes: int, prefer: Preferences) -> None:
            self.chosen = Priorities(PATTERNS, lanes) if lanes >= LANES_MIN else None
            super().__init__(stream, start, rules, lanes=lanes, priorities=self.chosen, prefer=prefer)
            units["planners"] += self.chosen is not None

        def offer(self, *args: Any, **more: Any) -> list[ApplyUnit]:
            found = super().offer(*args, **more)
            if self.chosen is not None:
                units.update(f"rank {self.chosen.rank_of_lane[unit.lane]}" for unit in found)
            return found

    monkeypatch.setattr(world, "Planner", Prioritising)
    for seed in range(150):
        outcome = run_seed(seed)
        if outcome.broken:
            print_history(outcome.world)
            pytest.fail(f"{outcome.scenario}, seed {outcome.seed}: {outcome.text}")
    assert min(units[f"rank {rank}"] for rank in (0, 2, 3)) > 60, units

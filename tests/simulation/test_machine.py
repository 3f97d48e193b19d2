"""The same world driven by Hypothesis, which looks for the shortest history that breaks a promise."""

from __future__ import annotations

import random

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from pipeline import fence
from tests.simulation.history import make_history
from tests.simulation.target_model import BrokenPromiseError
from tests.simulation.world import World

either = st.sampled_from([-1, 0])  # the newest, or the one that was replaced
choices = st.integers(0, 15)


class Rules(RuleBasedStateMachine):
    """Every step of every process as a rule, in any order."""

    @initialize(
        seed=st.integers(0, 1 << 16), size=st.integers(1, 20), lanes=st.integers(1, 4),
        focus=st.sampled_from(["mixed", "parts", "codes"]),
    )  # fmt: skip
    def begin(self, seed: int, size: int, lanes: int, focus: str) -> None:
        rng = random.Random(seed)
        self.world = World(make_history(rng, size, focus), rng, lanes=lanes)

    @rule(which=either)
    def capture(self, which: int) -> None:
        self.world.capture(which)

    @rule()
    def restart_capture(self) -> None:
        self.world.restart_capture()

    @rule(which=either, send_all=st.booleans())
    def plan(self, which: int, *, send_all: bool) -> None:
        self.world.plan(which, send_all=send_all)

    @rule(keep_old=st.booleans())
    def take_over(self, *, keep_old: bool) -> None:
        self.world.start_planner(keep_old=keep_old)

    @rule(which=either)
    def ask_ledger(self, which: int) -> None:
        self.world.ask_ledger(which)

    @rule(which=either, commit=st.booleans())
    def advance(self, which: int, *, commit: bool) -> None:
        self.world.advance(which, commit=commit)

    @rule(which=choices, merge_max=st.integers(1, 4), dies=st.booleans())
    def apply(self, which: int, merge_max: int, *, dies: bool) -> None:
        lanes = self.world.lanes
        self.world.apply(lanes[which % len(lanes)], merge_max=merge_max, dies=dies)

    @rule(which=choices, keep_old=st.booleans())
    def restart_lane(self, which: int, *, keep_old: bool) -> None:
        self.world.start_lane(which % self.world.lane_count, keep_old=keep_old)

    @rule()
    def deliver(self) -> None:
        self.world.deliver()

    @invariant()
    def epochs_agree(self) -> None:
        if hasattr(self, "world"):
            target = self.world.target
            assert all(row.epoch == target.epoch for row in target.rows)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.run_to_the_end()


QUICK = settings(settings.get_profile("headrace"), max_examples=80, stateful_step_count=60)
TestRules = Rules.TestCase
TestRules.settings = QUICK


def test_the_machine_finds_a_planted_bug() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fence, "admits", lambda row, epoch, seq: row.seq == seq - 1)
        with pytest.raises(BrokenPromiseError):
            run_state_machine_as_test(Rules, settings=settings(QUICK, phases=[Phase.generate], database=None))

"""Batch-size controllers on the model of a link, and when its rate changes."""

from __future__ import annotations

import pytest

from pipeline.fusion.policy import BATCH_MAX, BATCH_MIN
from pipeline.fusion.sizing import FixedSize, ModelSize, SizeController, StepSize


def link(size: int, overhead: float) -> float:
    """Utilisation with batches of `size` when a frame costs as much as `overhead` messages."""
    return size / (size + overhead)


def settle(controller: SizeController, overhead: float, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(link(controller.size, overhead))
        controller.observe(seen[-1], backlog=True)
    return seen


@pytest.mark.parametrize("overhead", [2.0, 10.0, 43.0, 100.0])
def test_both_rules_reach_the_target(overhead: float) -> None:
    for controller, low in ((ModelSize(), 0.89), (StepSize(), 0.80)):
        assert all(low <= u <= 0.97 for u in settle(controller, overhead, 60)[-10:]), controller


def test_a_fixed_batch_of_100_does_not() -> None:
    assert settle(FixedSize(100), 43.0, 3)[-1] == pytest.approx(0.70, abs=0.01)


def test_the_model_is_faster() -> None:
    def steps_to(controller: SizeController) -> int:
        return next(n for n, u in enumerate(settle(controller, 80.0, 60)) if u >= 0.88)

    assert steps_to(ModelSize()) == 1
    assert steps_to(StepSize()) > 5


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_the_target_is_held_when_the_rate_of_the_link_changes(factor: float) -> None:
    controller = ModelSize()
    settle(controller, 20.0, 10)
    assert settle(controller, 20.0 * factor, 4)[-1] == pytest.approx(0.91, abs=0.02)


def test_one_odd_interval_is_not_believed() -> None:
    controller = ModelSize()
    settle(controller, 20.0, 10)
    before = controller.size
    controller.observe(0.2, backlog=True)
    assert controller.size == before


def test_an_idle_link_makes_the_model_smaller_and_the_step_rule_larger() -> None:
    model, step = ModelSize(), StepSize()
    for _ in range(100):
        for controller in (model, step):
            controller.observe(0.1, backlog=False)
    assert (model.size, step.size) == (BATCH_MIN, BATCH_MAX)


@pytest.mark.parametrize("utilisation", [0.0, 1.0, -1.0, 5.0])
def test_sizes_stay_within_their_bounds(utilisation: float) -> None:
    for controller in (ModelSize(), StepSize()):
        for _ in range(200):
            controller.observe(utilisation, backlog=True)
            assert BATCH_MIN <= controller.size <= BATCH_MAX

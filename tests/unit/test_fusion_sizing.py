"""Batch-size controllers on the model of a link, and when its rate changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.fusion.policy import BATCH_MAX, BATCH_MIN
from pipeline.fusion.sizing import FixedSize, ModelSize, SizeController, StepSize


def link(size: int, overhead: float) -> float:
    """Utilisation with batches of `size` when a frame costs as much as `overhead` messages."""
    return size / (size + overhead)


def window(size: int, bandwidth_delay: float) -> float:
    """Utilisation of a link that four frames may be under way on; the product of rate and delay in messages."""
    return min(1.0, 4 * size / (bandwidth_delay + size))


def settle(
    controller: SizeController, overhead: float, steps: int, model: Callable[[int, float], float] = link
) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(model(controller.size, overhead))
        controller.observe(seen[-1], backlog=True)
    return seen


@pytest.mark.parametrize("overhead", [2.0, 10.0, 43.0, 100.0])
def test_both_rules_reach_the_target(overhead: float) -> None:
    for controller, low in ((ModelSize(), 0.89), (StepSize(), 0.80)):
        assert all(low <= u <= 0.97 for u in settle(controller, overhead, 60)[-10:]), controller


def test_a_fixed_batch_of_100_does_not() -> None:
    assert settle(FixedSize(100), 43.0, 3)[-1] == pytest.approx(0.70, abs=0.01)


@pytest.mark.parametrize("bandwidth_delay", [100.0, 550.0, 2000.0])
def test_a_link_with_a_window_is_kept_just_full(bandwidth_delay: float) -> None:
    for controller, low in ((ModelSize(), 0.89), (StepSize(), 0.7)):
        assert all(u >= low for u in settle(controller, bandwidth_delay, 80, window)[-20:]), controller


def test_the_model_is_faster() -> None:
    def steps_to(controller: SizeController) -> int:
        return next(n for n, u in enumerate(settle(controller, 100.0, 60)) if u >= 0.88)

    assert steps_to(ModelSize()) <= 6
    assert steps_to(StepSize()) >= 10


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_the_target_is_held_when_the_rate_of_the_link_changes(factor: float) -> None:
    controller = ModelSize()
    settle(controller, 20.0, 10)
    assert settle(controller, 20.0 * factor, 12)[-1] >= 0.89


def test_one_odd_interval_is_not_believed() -> None:
    controller = ModelSize()
    settle(controller, 20.0, 10)
    before = controller.size
    controller.observe(0.2, backlog=True)
    controller.observe(0.91, backlog=True)
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

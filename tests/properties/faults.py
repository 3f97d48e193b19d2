"""What may happen to the simulation's world, and how often."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.properties.history import make_history
from tests.properties.simulation import World


def simulate(seed: int, focus: str = "", *, lose_records: bool = False) -> World:
    """One history with faults. Raises BrokenPromiseError; with records lost from the log also StreamGapError."""
    rng = random.Random(seed)
    history = make_history(rng, rng.randint(5, 45), focus)
    enforce = bool(history.tables[2].target.foreign_keys) and rng.random() < 0.5
    world = World(history, rng, lanes=rng.randint(1, 5), enforce=enforce)
    for _ in range(rng.randint(50, 400)):
        if world.finished():
            break
        if lose_records and rng.random() < 0.02:
            world.capture(lost=True)
        else:
            rng.choices(*ACTIONS)[0](world, rng)
    world.run_to_the_end()
    return world


Action = Callable[[World, random.Random], object]


def _any_lane(world: World, rng: random.Random) -> None:
    world.apply(rng.choice(world.lanes), merge_max=rng.randint(1, 5), dies=rng.random() < 0.05)


def _read_and_die(world: World, rng: random.Random) -> None:
    world.plan(send_all=False)
    world.start_planner(keep_old=False)


_WEIGHTED: list[tuple[Action, int]] = [
    (lambda world, _: world.capture(), 20),
    (lambda world, _: world.capture(0), 4),
    (lambda world, _: world.restart_capture(), 2),
    (lambda world, _: world.plan(), 25),
    (lambda world, _: world.plan(0), 4),
    (_read_and_die, 1),
    (lambda world, _: world.plan(send_all=False), 1),
    (lambda world, rng: world.start_planner(keep_old=rng.random() < 0.5), 2),
    (lambda world, _: world.ask_ledger(), 3),
    (lambda world, _: world.ask_ledger(0), 1),
    (lambda world, rng: world.advance(commit=rng.random() < 0.7), 8),
    (lambda world, _: world.advance(0), 2),
    (_any_lane, 60),
    (
        lambda world, rng: world.start_lane(
            rng.randrange(len(world.lanes)) % world.lane_count, keep_old=rng.random() < 0.5
        ),
        3,
    ),
    (lambda world, _: world.deliver(), 30),
]
ACTIONS = [action for action, _ in _WEIGHTED], [weight for _, weight in _WEIGHTED]

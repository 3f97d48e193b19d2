"""What may happen to the simulation's world, and how often."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from pipeline import lanes
from pipeline.errors import StreamGapError
from tests.simulation.history import make_history
from tests.simulation.target_model import BrokenPromiseError
from tests.simulation.world import World

# Kinds of histories; a seed's kind is its remainder. "lossy" ones lose records of the log, and must stop there.
SCENARIOS = ("mixed", "parts", "codes", "poison", "lossy", "copies")
LOSS = 0.02
FINE_GRAIN = 1  # a window is spread over the lanes however small it is


@dataclass(frozen=True)
class Outcome:
    """How a history ended: "equal", "stopped at a gap", or what was broken; `world` shows how it came to that."""

    seed: int
    scenario: str
    text: str
    broken: bool
    world: World


def scenario_of(seed: int) -> str:
    """The kind of a seed's history."""
    return SCENARIOS[seed % len(SCENARIOS)]


def run_seed(seed: int) -> Outcome:
    """Run one history and judge it."""
    scenario = scenario_of(seed)
    world = begin(seed, scenario)
    lanes.GRAIN_TRANSACTIONS, grain = FINE_GRAIN, lanes.GRAIN_TRANSACTIONS
    try:
        play(world, lose_records=scenario == "lossy")
    except BrokenPromiseError as error:
        return Outcome(seed, scenario, str(error), True, world)
    except StreamGapError as error:
        if scenario != "lossy":
            return Outcome(seed, scenario, str(error), True, world)
        return Outcome(seed, scenario, "stopped at a gap", False, world)
    finally:
        lanes.GRAIN_TRANSACTIONS = grain
    return Outcome(seed, scenario, "equal", False, world)


def simulate(seed: int, scenario: str) -> World:
    """One history with faults. Raises BrokenPromiseError; with records lost from the log also StreamGapError."""
    world = begin(seed, scenario)
    play(world, lose_records=scenario == "lossy")
    return world


def begin(seed: int, scenario: str) -> World:
    """A history of that kind, of which nothing has been captured yet."""
    rng = random.Random(seed)
    history = make_history(rng, rng.randint(5, 45), scenario)
    enforce = bool(history.tables[2].target.foreign_keys) and rng.random() < 0.5
    lane_count = rng.choice([4, 5, 5]) if scenario == "codes" else rng.choice([1, 2, 3, 4, 5, 5])
    return World(history, rng, lanes=lane_count, enforce=enforce)


def play(world: World, *, lose_records: bool) -> None:
    """Let anything happen for a while, then nothing bad any more."""
    rng = world.rng
    for _ in range(rng.randint(50, 400)):
        if world.finished():
            break
        if lose_records and rng.random() < LOSS:
            world.note("a record is lost from the log", fault=True)
            world.capture(lost=True)
        else:
            chosen = rng.choices(ACTIONS, WEIGHTS)[0]
            if chosen.fault:
                world.note(chosen.name, fault=True)
            chosen.do(world, rng)
    world.note("no more faults")
    world.run_to_the_end()


@dataclass(frozen=True)
class Action:
    """Something that a process does, or a fault that befalls one."""

    name: str
    weight: int
    do: Callable[[World, random.Random], object]
    fault: bool = False


def _any_lane(world: World, rng: random.Random) -> None:
    world.apply(rng.choice(world.lanes), merge_max=rng.randint(1, 5))


def _commit_and_die(world: World, rng: random.Random) -> None:
    world.apply(rng.choice(world.lanes), merge_max=rng.randint(1, 5), dies=True)


def _read_and_die(world: World, _: random.Random) -> None:
    world.plan(send_all=False)
    world.start_planner(keep_old=False)


def _take_over(world: World, rng: random.Random) -> None:
    world.start_planner(keep_old=rng.random() < 0.5)


def _start_lane(world: World, rng: random.Random) -> None:
    world.start_lane(rng.randrange(len(world.lanes)) % world.lane_count, keep_old=rng.random() < 0.5)


ACTIONS = (
    Action("a capture writes", 20, lambda world, _: world.capture()),
    Action("the replaced capture writes", 4, lambda world, _: world.capture(0), fault=True),
    Action("a second capture starts", 2, lambda world, _: world.restart_capture(), fault=True),
    Action("the planner plans", 25, lambda world, _: world.plan()),
    Action("the replaced planner plans", 4, lambda world, _: world.plan(0), fault=True),
    Action("the planner dies while it sends", 1, _read_and_die, fault=True),
    Action("units are not delivered", 1, lambda world, _: world.plan(send_all=False), fault=True),
    Action("a planner takes over", 2, _take_over, fault=True),
    Action("the planner asks the ledger", 3, lambda world, _: world.ask_ledger()),
    Action("the replaced planner asks the ledger", 1, lambda world, _: world.ask_ledger(0)),
    Action("the watermark moves", 6, lambda world, _: world.advance()),
    Action("the watermark moves, offsets do not", 2, lambda world, _: world.advance(commit=False), fault=True),
    Action("the replaced planner moves the watermark", 2, lambda world, _: world.advance(0), fault=True),
    Action("a lane applies", 57, _any_lane),
    Action("a lane dies after its commit", 3, _commit_and_die, fault=True),
    Action("a lane moves to another process", 3, _start_lane, fault=True),
    Action("news arrive", 30, lambda world, _: world.deliver()),
    Action("dead letters are replayed", 1, lambda world, _: world.replay(), fault=True),
)
WEIGHTS = [action.weight for action in ACTIONS]

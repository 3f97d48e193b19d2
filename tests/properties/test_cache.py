"""The cache against any history: a snapshot, commits, transfers, crashes, remasters, evictions, a target that goes
back, dead letters that are parked, replayed and discarded.

After every step each block of each node equals the source's rows of its bucket at the position it stands for.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache.records import Stamp
from tests.properties.cache_world import World

STEPS = 250


@given(st.integers(0, 1 << 32))
def test_blocks_equal_the_source_whatever_happens(seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS):
        world.step()


def test_a_newer_record_is_of_a_later_generation_epoch_then_position() -> None:
    assert Stamp(1, 1, 9) < Stamp(1, 2, 5) < Stamp(2, 1, 1)

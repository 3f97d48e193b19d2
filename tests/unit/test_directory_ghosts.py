"""What the tiers remember of blocks that left."""

from __future__ import annotations

import random

from pipeline.directory.block import BlockId
from pipeline.directory.tiers import Ghosts


def block(number: int) -> BlockId:
    return BlockId("s", "public", "t", number)


def test_the_last_ones_are_remembered_with_their_tier_and_once() -> None:
    ghosts = Ghosts(1000)
    for n in range(3000):
        ghosts.add(block(n), from_warm=n % 3 == 0)
    assert ghosts.hot + ghosts.warm == 1000
    assert ghosts.take(block(1999)) is None
    found = [ghosts.take(block(n)) for n in range(2000, 3000)]
    known = [warm == (n % 3 == 0) for n, warm in enumerate(found, start=2000) if warm is not None]
    assert all(known)
    assert len(known) > 600, "a slot is overwritten now and then"
    assert all(ghosts.take(block(n)) is None for n in range(2000, 3000))


def test_counts_are_those_of_the_tiers() -> None:
    rng = random.Random(1)
    ghosts = Ghosts(50)
    for n in range(2000):
        if rng.random() < 0.3:
            ghosts.take(block(rng.randrange(n + 1)))
        ghosts.add(block(rng.randrange(n + 1)), from_warm=rng.random() < 0.5)
        assert 0 <= ghosts.hot <= 50
        assert 0 <= ghosts.warm <= 50
        assert ghosts.hot + ghosts.warm <= 50


def test_a_block_that_leaves_again_counts_once() -> None:
    ghosts = Ghosts(10)
    ghosts.add(block(1), from_warm=True)
    ghosts.add(block(1), from_warm=False)
    assert (ghosts.hot, ghosts.warm) == (1, 0)
    assert ghosts.take(block(1)) is False
    assert (ghosts.hot, ghosts.warm) == (0, 0)

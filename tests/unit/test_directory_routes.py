"""Routes of blocks between nodes."""

from __future__ import annotations

import itertools

import pytest

from pipeline.directory.block import BlockId, Owner
from pipeline.directory.routes import ROUTES_MAX, Outcome, Route, Routes, shortest

BLOCK = BlockId("s", "public", "item", 1)


@pytest.mark.parametrize(
    ("master", "holder", "steps"),
    [("a", "b", 2), ("b", "b", 2), ("b", "c", 3), ("b", "", 2), ("a", "", 0), ("b", "a", 0), ("", "", 0)],
)
def test_steps(master: str, holder: str, steps: int) -> None:
    assert shortest("a", master, holder).steps == steps


def test_never_more_than_three_steps_and_never_to_oneself() -> None:
    for requester, master, holder in itertools.product("abc", ["a", "b", "c", ""], ["a", "b", "c", ""]):
        route = shortest(requester, master, holder)
        assert route.steps <= 3
        assert requester not in (route.ask, route.answers)


def test_who_answered_is_asked_directly_in_the_same_epoch_only() -> None:
    routes = Routes("a")
    first = routes.plan(BLOCK, Owner("b", 5), previous="c")
    assert first == Route("b", "c")
    routes.answered(BLOCK, first, "c", 5, 300.0)
    assert routes.plan(BLOCK, Owner("b", 5)) == Route("c", "c")
    assert routes.plan(BLOCK, Owner("b", 6)) == Route("b", "b")
    assert routes.outcomes == {Outcome.THREE_WAY: 1, Outcome.CONGESTED: 0}


def test_a_lost_answer_forgets_the_route() -> None:
    routes = Routes("a")
    routes.answered(BLOCK, Route("c", "c"), "c", 5, 5000.0)
    routes.failed(BLOCK, Outcome.LOST)
    routes.retried()
    assert routes.plan(BLOCK, Owner("b", 5)) == Route("b", "b")
    assert routes.outcomes == {Outcome.TWO_WAY: 1, Outcome.CONGESTED: 1, Outcome.LOST: 1, Outcome.RETRIED: 1}


def test_the_soonest_of_several_holders_is_asked() -> None:
    routes = Routes("a")
    routes.answered(BLOCK, Route("b", "b"), "b", 1, 900.0)
    routes.answered(BLOCK, Route("c", "c"), "c", 1, 100.0)
    assert routes.plan(BLOCK, Owner("b", 2), holders=("a", "b", "c")) == Route("c", "c")


def test_what_is_remembered_is_bounded() -> None:
    routes = Routes("a")
    for bucket in range(ROUTES_MAX + 10):
        routes.answered(BLOCK._replace(bucket=bucket), Route("b", "b"), "b", 1, 1.0)
    assert len(routes._learned) == ROUTES_MAX

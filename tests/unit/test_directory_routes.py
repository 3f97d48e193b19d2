"""Routes of blocks between nodes."""

from __future__ import annotations

import itertools

import pytest

from pipeline.directory.block import BlockId, Owner
from pipeline.directory.holders import BLOCKS_MAX, Holders
from pipeline.directory.routes import NOWHERE, ROUTES_MAX, Outcome, Route, Routes, shortest

BLOCK = BlockId("s", "public", "item", 1)
ALL = "abc"


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
    first = routes.plan(BLOCK, Owner("b", 5), ALL)
    assert first == Route("b", "b")
    routes.answered(BLOCK, first, "c", 5, 300.0)
    assert routes.plan(BLOCK, Owner("b", 5), ALL) == Route("c", "c")
    assert routes.plan(BLOCK, Owner("b", 5), "ab") == Route("b", "b"), "c is gone"
    assert routes.plan(BLOCK, Owner("b", 6), ALL) == Route("b", "b")
    assert routes.outcomes == {Outcome.THREE_WAY: 1, Outcome.CONGESTED: 0}


def test_a_lost_answer_forgets_the_route() -> None:
    routes = Routes("a")
    routes.answered(BLOCK, Route("c", "c"), "c", 5, 5000.0)
    routes.failed(BLOCK, Outcome.LOST)
    routes.retried()
    assert routes.plan(BLOCK, Owner("b", 5), ALL) == Route("b", "b")
    assert routes.outcomes == {Outcome.TWO_WAY: 1, Outcome.CONGESTED: 1, Outcome.LOST: 1, Outcome.RETRIED: 1}


def test_the_soonest_of_several_holders_is_asked() -> None:
    routes = Routes("a")
    routes.answered(BLOCK, Route("b", "b"), "b", 1, 900.0)
    routes.answered(BLOCK, Route("c", "c"), "c", 1, 100.0)
    assert routes.plan(BLOCK, Owner("b", 2), ALL, holders=("a", "b", "c")) == Route("c", "c")


def test_a_master_asks_who_has_its_block_and_nobody_asks_the_dead() -> None:
    routes = Routes("a")
    assert routes.plan(BLOCK, Owner("a", 2), ALL) == NOWHERE
    assert routes.plan(BLOCK, Owner("a", 2), ALL, holders=("a", "c")) == Route("c", "c")
    assert routes.plan(BLOCK, Owner("b", 2), "ac") == NOWHERE
    assert routes.plan(BLOCK, Owner("", 0), ALL) == NOWHERE


def test_both_ways_are_timed() -> None:
    routes = Routes("a")
    routes.answered(BLOCK, Route("b", "b"), "b", 1, 100.0)
    routes.answered(BLOCK, Route("b", "b"), "c", 2, 2500.0)
    status = routes.status()
    assert status["way_us"] == {"2-way": 100.0, "3-way": 2500.0}
    assert status["outcomes"] == {"2-way": 1, "3-way": 1, "busy": 0, "congested": 0, "lost": 0, "retried": 0}


def test_the_newest_holders_are_named_first() -> None:
    holders = Holders()
    for node in "abcdb":
        holders.note(BLOCK, node)
    assert holders.of(BLOCK, "abcd", "") == ("b", "d", "c")
    assert holders.of(BLOCK, "cd", "d") == ("c",)
    for bucket in range(BLOCKS_MAX):
        holders.note(BLOCK._replace(bucket=bucket + 2), "a")
    assert holders.of(BLOCK, "abcd", "") == ()


def test_who_does_not_have_it_any_more_is_not_named() -> None:
    holders = Holders()
    for node in "ab":
        holders.note(BLOCK, node)
    holders.forget(BLOCK, "c")
    holders.forget(BLOCK, "b")
    assert holders.of(BLOCK, "abc", "") == ("a",)
    holders.forget(BLOCK, "a")
    holders.forget(BLOCK, "a")
    assert holders.of(BLOCK, "abc", "") == ()


def test_what_is_remembered_is_bounded() -> None:
    routes = Routes("a")
    for bucket in range(ROUTES_MAX + 10):
        routes.answered(BLOCK._replace(bucket=bucket), Route("b", "b"), "b", 1, 1.0)
    assert len(routes._learned) == ROUTES_MAX

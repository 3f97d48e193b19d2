"""A process dies at every step between two durable effects, in turn, under a load that shows loss and repetition."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from connectors.failpoints import NAMES
from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

ROOT = Path(__file__).parents[2]
PLACE = re.compile(r'\bhit\("([a-z_.]+)"\)')
BETWEEN = 20  # transfers that reach the target between two deaths
# In every run, of roles that take seconds to start: the points where most would be lost. The others: `make faults`.
CHOSEN = {
    "capture": ["capture.before_send", "capture.after_send", "capture.before_confirm"],
    "plan": ["plan.between_units", "plan.before_advance"],
    "apply": ["apply.before_commit", "apply.after_commit"],
}
OTHERS = {
    "plan": ["plan.after_takeover", "plan.before_send", "plan.after_send", "plan.after_advance"],
    "apply": ["apply.after_progress"],
}


def die_at(make_rig: MakeRig, role: str, points: list[str]) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    with BankLoad(rig) as load:
        load.wait_for_transfers(BETWEEN)
        for number, point in enumerate(points):
            rig.kill_at(role, point, 1 + number % 3)
            load.wait_for_transfers(BETWEEN)
        load.finish()


@pytest.mark.parametrize("role", CHOSEN)
def test_a_role_dies_between_two_durable_effects(make_rig: MakeRig, role: str) -> None:
    die_at(make_rig, role, CHOSEN[role])


@pytest.mark.long
@pytest.mark.parametrize("role", OTHERS)
def test_a_role_dies_at_the_other_failpoints(make_rig: MakeRig, role: str) -> None:
    die_at(make_rig, role, OTHERS[role])


@pytest.mark.long
def test_a_planner_that_fails_at_an_event_loses_none(make_rig: MakeRig) -> None:
    # Faust would acknowledge the event of a body that raises, and lose it.
    rig = make_rig()
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    with BankLoad(rig) as load:
        for hit in (1, 2, 7):
            rig.kill_at("plan", "plan.before_send", hit, action="error")
            load.wait_for_transfers(BETWEEN)
        load.finish()


def test_no_failpoint_is_left_out() -> None:
    sources = [path for folder in ("topologies", "connectors") for path in (ROOT / folder).rglob("*.py")]
    placed = {name for path in sources for name in PLACE.findall(path.read_text())}
    assert placed == NAMES, "a place without a name, or a name that no process passes"
    tried = {point for points in (*CHOSEN.values(), *OTHERS.values()) for point in points}
    assert tried | {"park.after_commit", "park.after_publish"} == NAMES

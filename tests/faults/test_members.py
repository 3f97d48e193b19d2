"""Processes that come and go: rebalances without end, twins of one name, rolling restarts."""

from __future__ import annotations

import pytest

from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.rig import ROLES, Rig
from topologies.kafka import ENV_INSTANCE

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(280)]

BETWEEN = 40  # transfers that reach the target between two steps


def started(make_rig: MakeRig) -> Rig:
    rig = make_rig()
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    return rig


def test_a_storm_of_rebalances(make_rig: MakeRig) -> None:
    rig = started(make_rig)
    with BankLoad(rig) as load:
        for number in range(8):
            rig.start("apply-2", "plan-2" if number % 2 else "apply-3")
            load.wait_for_transfers(BETWEEN)
            if number % 3 == 2:
                rig.kill("apply-2", again=False)
            else:
                rig.stop("apply-2")
            rig.stop("plan-2" if number % 2 else "apply-3")
            rig.faults["members that come and go"] += 2
        load.wait_for_transfers(BETWEEN)
        load.finish()


@pytest.mark.parametrize("role", ["apply", "plan"])
def test_a_twin_of_the_same_name(make_rig: MakeRig, role: str) -> None:
    """It takes the living one for a dead predecessor and has it leave the group, again with each start."""
    rig = started(make_rig)
    twin = f"{role}-2"
    rig.environment[twin] = {ENV_INSTANCE: f"{rig.stream}-{role}"}
    with BankLoad(rig) as load:
        rig.start(twin)
        rig.faults["twins"] += 1
        rig.wait_for_log(twin, "the member that this process replaces has left")
        load.wait_for_transfers(5 * BETWEEN)
        for name in (role, twin):
            rig.kill(name)
            load.wait_for_transfers(5 * BETWEEN)
        load.finish()


def test_rolling_restarts_of_all_roles(make_rig: MakeRig) -> None:
    rig = started(make_rig)
    rig.start("plan-2", "apply-2")
    with BankLoad(rig) as load:
        for _ in range(2):
            for name in (*ROLES, "plan-2", "apply-2"):
                load.wait_for_transfers(BETWEEN)
                assert rig.stop(name) == [0], f"{name} ends as it is asked to"
                rig.faults[f"restart {name}"] += 1
                rig.start(name)
        load.wait_for_transfers(BETWEEN)
        load.finish()
    assert all(set(role.codes) == {0} for role in rig.roles.values())

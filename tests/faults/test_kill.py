"""kill -9 of every role, again and again, under a load that shows what is torn, lost or applied twice."""

from __future__ import annotations

import pytest

from headrace.recent import newest_lag
from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.rig import ROLES, Rig

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

# A planner takes seconds to start: fewer rounds for it.
ROUNDS = {"capture": 6, "plan": 2, "apply": 4}
BETWEEN = 60  # transfers that reach the target between two kills


@pytest.mark.parametrize("role", ROLES)
def test_one_role_is_killed_again_and_again(make_rig: MakeRig, role: str) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    with BankLoad(rig) as load:
        for _ in range(ROUNDS[role]):
            load.wait_for_transfers(BETWEEN)
            rig.kill(role)
        load.wait_for_transfers(BETWEEN)
        load.finish()


def test_all_roles_are_killed_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    create_bank(rig)
    everybody = (*ROLES, "monitor")
    rig.start(*everybody)
    rig.wait_until_equal()
    with BankLoad(rig) as load:
        for _ in range(2):
            load.wait_for_transfers(BETWEEN)
            rig.kill(*everybody)
        load.wait_for_transfers(BETWEEN)
        load.finish()
    rig.until(lambda: behind_s(rig) == 0, "the monitor says that no lag is left")


def behind_s(rig: Rig) -> float | None:
    """The target's age in the topic `lag`; None while the monitor does not know it."""
    lag = newest_lag(rig.settings, rig.stream)
    return lag.age_s if lag is not None else None

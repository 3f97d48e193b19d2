"""Two of a kind: frozen processes that live on after another has taken over, and a second capture."""

from __future__ import annotations

import pytest

from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.rig import Rig

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

BETWEEN = 60  # transfers that reach the target before the next step


def _epoch(rig: Rig) -> int:
    row = rig.stream_row()
    return row.epoch if row is not None else 0


def _began(rig: Rig, name: str) -> str:
    """The last line that says that a planner has begun; a time comes first."""
    return max((line for line in rig.log(name).splitlines() if "planning from position" in line), default="")


def test_a_frozen_planner_is_superseded(make_rig: MakeRig) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    rig.start("plan-2")
    with BankLoad(rig) as load:
        load.wait_for_transfers(BETWEEN)
        before = _epoch(rig)
        planning = max(("plan", "plan-2"), key=lambda name: _began(rig, name))
        rig.pause(planning)  # its session ends after 6 s, and the other one takes over
        rig.until(lambda: _epoch(rig) > before, "the other planner takes over")
        load.wait_for_transfers(BETWEEN)
        rig.resume(planning)
        load.wait_for_transfers(5 * BETWEEN)
        load.finish()


@pytest.mark.timeout(240)
def test_a_frozen_apply_process_is_superseded(make_rig: MakeRig) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.start("capture", "plan", "apply", "apply-2")
    rig.wait_until_equal()
    with BankLoad(rig) as load:
        load.wait_for_transfers(BETWEEN)
        for frozen in ("apply", "apply-2"):
            rig.pause(frozen)
            # Its lanes wait, and soon those that depend on them, until the other process has got them all.
            for _ in range(3):  # each with its own time, on a machine that is busy
                load.wait_for_transfers(500)
            rig.resume(frozen)
            load.wait_for_transfers(BETWEEN)
        load.finish()


def test_a_second_capture_waits_for_the_slot(make_rig: MakeRig) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    rig.start("capture-2")
    rig.wait_for_log("capture-2", "another process uses the slot")
    with BankLoad(rig) as load:
        load.wait_for_transfers(BETWEEN)
        rig.kill("capture", again=False)
        load.wait_for_transfers(BETWEEN)
        rig.start("capture")
        load.wait_for_transfers(BETWEEN)
        load.finish()

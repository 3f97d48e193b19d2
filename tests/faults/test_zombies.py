"""Two of a kind: frozen processes that live on after another has taken over, and a second capture."""

from __future__ import annotations

import pytest

from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.rig import Rig

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

ROUNDS = 2
BETWEEN = 60


def _epoch(rig: Rig) -> int:
    row = rig.stream_row()
    return row.epoch if row is not None else 0


def test_a_frozen_planner_is_superseded(make_rig: MakeRig) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.start("capture", "plan", "apply")
    rig.wait_until_equal()
    rig.start("plan-2")
    with BankLoad(rig) as load:
        load.wait_for_transfers(BETWEEN)
        for _ in range(ROUNDS):
            for frozen in ("plan", "plan-2"):
                before = _epoch(rig)
                rig.pause(frozen)  # if it is the one that plans, the other takes over after its session's end
                load.wait_for_transfers(BETWEEN)
                rig.resume(frozen)
                load.wait_for_transfers(BETWEEN)
                assert _epoch(rig) >= before
        assert _epoch(rig) > 1, "no planner has taken over"
        load.finish()


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
            load.wait_for_transfers(1500)
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

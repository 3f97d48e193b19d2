"""Clocks that jump. The time of a role's process is shifted by a `sitecustomize` that reads the shift from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.rig import ROLES

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(280)]

HOUR_S = 3600
BETWEEN = 40
# Python reads the wall clock through these two; timeouts go by the monotonic one, as the kernel's do.
SHIFT = """
import os, time
_path, _time, _time_ns = os.environ["CLOCK_SHIFT"], time.time, time.time_ns
def _shift():
    try:
        with open(_path) as file:
            return int(file.read() or 0)
    except FileNotFoundError:
        return 0
time.time = lambda: _time() + _shift()
time.time_ns = lambda: _time_ns() + _shift() * 1_000_000_000
"""


def test_clocks_jump_by_an_hour_and_back(make_rig: MakeRig, tmp_path: Path) -> None:
    rig = make_rig()
    (tmp_path / "sitecustomize.py").write_text(SHIFT)
    shifts = {role: tmp_path / f"{role}.shift" for role in ROLES}
    for role, path in shifts.items():
        rig.environment[role] = {"PYTHONPATH": str(tmp_path), "CLOCK_SHIFT": str(path)}
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    with BankLoad(rig) as load:
        for shift in (HOUR_S, -HOUR_S, 0):
            for role, path in shifts.items():
                path.write_text(str(shift))
                rig.faults[f"clock of {role} jumps"] += 1
                load.wait_for_transfers(BETWEEN)
        shifts["plan"].write_text(str(-HOUR_S))  # a planner that starts in the past takes the next epoch all the same
        rig.kill("plan")
        load.wait_for_transfers(BETWEEN)
        load.finish()
    assert rig.roles["capture"].codes == rig.roles["apply"].codes == []

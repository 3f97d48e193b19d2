"""A network that is cut under a load that shows what is torn, lost or applied twice."""

from __future__ import annotations

import time

import pytest

from tests.integration.containers.rig import ContainerRig
from tests.support.bank import BankLoad

pytestmark = [pytest.mark.containers, pytest.mark.faults, pytest.mark.timeout(150)]

BETWEEN = 60  # transfers that reach the target between two faults
CUT_OFF_S = 8.0


def test_an_apply_container_is_cut_off_from_the_target_alone(bank: ContainerRig) -> None:
    # It stays in the consumer group and keeps its lanes; the others wait for them.
    cut_off = bank.container("apply")
    with BankLoad(bank) as load:
        load.wait_for_transfers(BETWEEN)
        cut_off.disconnect(bank.parts.data_network)
        time.sleep(CUT_OFF_S)
        cut_off.connect(bank.parts.data_network)
        load.wait_for_transfers(5 * BETWEEN)
        load.finish()

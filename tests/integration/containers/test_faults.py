"""Containers are killed, frozen and restarted under a load that shows what is torn, lost or applied twice."""

from __future__ import annotations

import time

import pytest

from tests.integration.containers.rig import ContainerRig
from tests.support.bank import BankLoad

pytestmark = [pytest.mark.containers, pytest.mark.faults, pytest.mark.timeout(150)]

BETWEEN = 60  # transfers that reach the target between two faults
FROZEN_S = {"apply": 8.0, "plan": 8.0}  # beyond the session timeout of a consumer group: another one takes over
FROZEN_SERVER_S = 2.0


@pytest.mark.parametrize("name", ["capture", "plan", "apply", "kafka", "source", "target"])
def test_a_container_is_killed_frozen_and_restarted(bank: ContainerRig, name: str) -> None:
    container = bank.container(name)
    with BankLoad(bank) as load:
        load.wait_for_transfers(BETWEEN)
        container.kill()
        container.start_again()
        load.wait_for_transfers(BETWEEN)
        container.pause()
        time.sleep(FROZEN_S.get(name, FROZEN_SERVER_S))
        container.resume()
        load.wait_for_transfers(BETWEEN)
        container.restart()
        load.wait_for_transfers(BETWEEN)
        load.finish()

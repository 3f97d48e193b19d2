"""A network that is cut under a load that shows what is torn, lost or applied twice."""

from __future__ import annotations

import time

import pytest

from headrace.testing.containers import Container
from tests.integration.containers.rig import ContainerRig
from tests.support.bank import BankLoad

pytestmark = [pytest.mark.containers, pytest.mark.faults, pytest.mark.timeout(150)]

BETWEEN = 60  # transfers that reach the target between two faults
CUT_OFF_S = 8.0
STILL_S = 3.0
CONNECT = "import socket; socket.create_connection(('target', 5432), 2).close()"


def reaches_the_target(container: Container) -> bool:
    """Whether a connection can be opened from inside."""
    return bool(container.exec(["python", "-c", CONNECT]).exit_code == 0)


def test_an_apply_container_is_cut_off_from_the_target_alone(bank: ContainerRig) -> None:
    # It stays in the consumer group and keeps its lanes; the others wait for them.
    cut_off = bank.container("apply")
    with BankLoad(bank) as load:
        load.wait_for_transfers(BETWEEN)
        cut_off.disconnect(bank.parts.data_network)
        assert not reaches_the_target(cut_off)
        time.sleep(CUT_OFF_S)
        cut_off.connect(bank.parts.data_network)
        assert reaches_the_target(cut_off)
        load.wait_for_transfers(5 * BETWEEN)
        load.finish()


def test_all_apply_containers_are_cut_off_from_the_target(bank: ContainerRig) -> None:
    with BankLoad(bank) as load:
        load.wait_for_transfers(BETWEEN)
        for container in bank.pipeline.roles["apply"]:
            container.disconnect(bank.parts.data_network)
        bank.until(lambda: _stands_still(load), "nothing arrives any more")
        behind = int(str(bank.source_rows("SELECT count(*) FROM ledger_entry")[0][0])) - load.applied()
        assert behind > BETWEEN
        for container in bank.pipeline.roles["apply"]:
            container.connect(bank.parts.data_network)
        load.wait_for_transfers(behind + BETWEEN)
        load.finish()


def _stands_still(load: BankLoad) -> bool:
    before = load.applied()
    time.sleep(STILL_S)
    return load.applied() == before

"""Containers are killed, frozen and restarted under a load that shows what is torn, lost or applied twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from headrace.recent import newest_lag
from headrace.testing.containers import Container
from tests.integration.containers.broker_log import committed_offsets, read_log
from tests.integration.containers.rig import ContainerRig
from tests.support.bank import BankLoad

pytestmark = [pytest.mark.containers, pytest.mark.faults, pytest.mark.timeout(150)]

BETWEEN = 60  # transfers that reach the target between two faults
FROZEN_S = {"apply": 8.0, "plan": 8.0}  # beyond the session timeout of a consumer group: another one takes over
FROZEN_SERVER_S = 2.0
US_PER_NS = 1000


def kill(container: Container) -> None:
    """By the engine's own kill, and start it again."""
    container.kill()
    container.start_again()


def freeze(container: Container) -> None:
    """Until others must have noticed."""
    container.pause()
    time.sleep(FROZEN_S.get(container.alias.split("-")[0], FROZEN_SERVER_S))
    container.resume()


def restart(container: Container) -> None:
    """As an operator does."""
    container.restart()


FAULTS: dict[str, Callable[[Container], None]] = {"killed": kill, "frozen": freeze, "restarted": restart}


def wait_for_the_monitor(bank: ContainerRig) -> None:
    """Wait for a summary that is younger than now."""
    now_us = time.time_ns() // US_PER_NS

    def spoken() -> bool:
        lag = newest_lag(bank.settings, bank.name)
        return lag is not None and lag.time_us > now_us

    bank.until(spoken, "the monitor speaks")


@pytest.mark.parametrize("name", ["capture", "plan", "apply", "monitor", "source", "target"])
def test_a_container_is_killed_frozen_and_restarted(bank: ContainerRig, name: str) -> None:
    with BankLoad(bank) as load:
        load.wait_for_transfers(BETWEEN)
        for fault in FAULTS.values():
            fault(bank.container(name))
            load.wait_for_transfers(BETWEEN)
        load.finish()
    wait_for_the_monitor(bank)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_broker_comes_back_with_every_record_and_offset(bank: ContainerRig, fault: str) -> None:
    with BankLoad(bank) as load:
        load.wait_for_transfers(BETWEEN)
        offsets_before = committed_offsets(bank.settings)
        records_before = read_log(bank.settings)
        FAULTS[fault](bank.parts.broker)
        bank.parts.broker.wait_until_ready()
        bank.until(lambda: committed_offsets(bank.settings), "the groups are known")
        offsets = committed_offsets(bank.settings)
        load.wait_for_transfers(BETWEEN)
        load.finish()
    assert [where for where, offset in offsets_before.items() if offsets[where] < offset] == []
    records = read_log(bank.settings)
    assert sum(map(len, records_before.values())) > BETWEEN / 10
    assert [where for where, before in records_before.items() if records[where][: len(before)] != before] == []
    assert sum(map(len, records.values())) > sum(map(len, records_before.values()))

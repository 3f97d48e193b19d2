"""Roles are containers: several apply in one consumer group, scaled and replaced under load."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient

from tests.integration.containers.conftest import APPLY
from tests.integration.containers.rig import ContainerRig
from tests.support.bank import BankLoad

pytestmark = [pytest.mark.containers, pytest.mark.timeout(150)]

BETWEEN = 60
TIMEOUT_S = 10.0
PIPELINE = {"capture": 1, "plan": 1, "apply": 2}
BESIDE = {"monitor": 1, "affinity": 1, "fusion": 1, "cache": 1}


def lanes_by_member(rig: ContainerRig) -> list[int]:
    """How many partitions each member of the apply group has."""
    admin = AdminClient({"bootstrap.servers": rig.settings.kafka.bootstrap_servers, "log_level": 0})
    group = rig.settings.group("apply")
    described = admin.describe_consumer_groups([group], request_timeout=TIMEOUT_S)[group].result()
    return sorted(len(member.assignment.topic_partitions) for member in described.members)


def test_apply_containers_share_the_lanes_in_one_group(bank: ContainerRig) -> None:
    bank.until(lambda: len(lanes_by_member(bank)) == APPLY, f"{APPLY} members")
    bank.until(lambda: sum(lanes_by_member(bank)) == 16 and min(lanes_by_member(bank)) >= 5, "all have lanes")


def test_apply_is_scaled_from_one_to_three_to_two_under_load(bank: ContainerRig) -> None:
    with BankLoad(bank) as load:
        for count in (1, 3, 2):
            bank.pipeline.scale("apply", count)
            load.wait_for_transfers(BETWEEN)
            bank.until(lambda count=count: len(lanes_by_member(bank)) == count, f"{count} members")  # type: ignore[misc]
        load.finish()


@pytest.mark.parametrize("counts", [PIPELINE, BESIDE], ids=["pipeline", "beside it"])
def test_every_role_is_replaced_under_load(bank: ContainerRig, counts: dict[str, int]) -> None:
    bank.pipeline.start(counts)
    with BankLoad(bank) as load:
        for role, count in counts.items():
            load.wait_for_transfers(BETWEEN)
            assert (role, bank.pipeline.replace(role)) == (role, [0] * count)
        load.wait_for_transfers(BETWEEN)
        load.finish()

"""Membership from consumer groups, and which roles `run` starts for a directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka import ConsumerGroupState, TopicPartition
from confluent_kafka.admin import ConsumerGroupDescription

from headrace.supervisor import _children
from pipeline.errors import ConfigError
from topologies.affinity import create
from topologies.membership import membership_of
from topologies.settings import Settings
from topologies.settings_file import parse_settings

DSN = "postgresql://nobody@127.0.0.1:1/none"
UNITS = "headrace.units"


def group(
    *members: tuple[str, Iterable[int]], state: ConsumerGroupState = ConsumerGroupState.STABLE, topic: str = UNITS
) -> ConsumerGroupDescription:
    """A group's description: client ids with the partitions they have."""
    listed = [
        SimpleNamespace(
            client_id=name, assignment=SimpleNamespace(topic_partitions=[TopicPartition(topic, p) for p in partitions])
        )
        for name, partitions in members
    ]  # fmt: skip
    return cast(ConsumerGroupDescription, SimpleNamespace(members=listed, state=state))


def settings(**directory: object) -> Settings:
    stream = {"name": "s", "source": {"dsn": DSN}, "target": {"dsn": DSN}}
    return parse_settings({"streams": [stream], "directory": directory}, "test")


def test_nodes_are_those_with_a_cache_and_lanes_those_that_apply() -> None:
    found = membership_of(group(("a", ()), ("b", ())), group(("a", (0, 2, 17)), ("c", (1,)), ("a", (3,))), UNITS)
    assert found.nodes == {"a", "b"}
    assert found.lanes == {0: {"a": (0, 2, 3), "c": (1,)}, 1: {"a": (1,)}}
    assert found.settled


def test_without_caches_who_applies_takes_part() -> None:
    empty = group(state=ConsumerGroupState.EMPTY)
    assert membership_of(empty, group(("a", (0,)), ("c", (1,))), UNITS).nodes == {"a", "c"}


def test_a_group_that_rebalances_is_not_settled() -> None:
    moving = group(("a", (0,)), state=ConsumerGroupState.PREPARING_REBALANCING)
    assert not membership_of(group(), moving, UNITS).settled


def test_partitions_of_other_topics_are_no_lanes() -> None:
    assert membership_of(group(), group(("a", (0,)), topic="other"), UNITS).lanes == {}


@pytest.mark.parametrize("enabled", [False, True])
def test_the_role_is_started_where_the_directory_is_on(enabled: bool) -> None:
    children = _children(settings(enabled=enabled), Path("headrace.toml"), {}, apply=1, verbose=False)
    assert ("affinity" in [child.name for child in children]) == enabled


def test_the_role_refuses_to_run_where_it_is_off() -> None:
    with pytest.raises(ConfigError, match="directory is off"):
        create(settings())


def test_the_policy_follows_the_configuration() -> None:
    policy = settings(moves_per_s=7, residency_s=2.5, move_cost_ms=3).directory.policy()
    assert (policy.moves_per_s, policy.residency_us, policy.move_us) == (7, 2_500_000, 3000)

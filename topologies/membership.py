"""Which nodes there are, and whose lanes are whose: what the consumer groups say.

A group's coordinator knows who is alive (sessions) and who reads what (assignment), so there is no second protocol
for it. Consumers carry their node's name in their `client.id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from pipeline.errors import RetriableError
from schemas.apply_unit import LANES_MAX
from topologies.kafka import node_of
from topologies.settings import Settings

TIMEOUT_S = 5.0
CACHE_GROUP = "nodes"  # where cache nodes are present
APPLY_GROUP = "apply"


@dataclass(frozen=True, slots=True)
class Membership:
    """`nodes` take part; `lanes` maps stream number -> node -> its lanes. `settled`: no group is rebalancing."""

    nodes: frozenset[str]
    lanes: Mapping[int, Mapping[str, tuple[int, ...]]]
    settled: bool


def read_membership(admin: AdminClient, settings: Settings) -> Membership:
    """Ask the coordinators. The nodes are those with a cache; where none has one, those that apply.

    Raises RetriableError.
    """
    names = {settings.group(group): group for group in (CACHE_GROUP, APPLY_GROUP)}
    try:
        futures = admin.describe_consumer_groups(list(names), request_timeout=TIMEOUT_S)
        groups = {names[name]: future.result() for name, future in futures.items()}
    except KafkaException as error:
        raise RetriableError(f"consumer groups {', '.join(names)}: {error.args[0].str()}") from error
    return membership_of(groups[CACHE_GROUP], groups[APPLY_GROUP], settings.topic("units"))


def membership_of(
    cache: ConsumerGroupDescription, apply: ConsumerGroupDescription, units_topic: str
) -> Membership:  # fmt: skip
    """The membership in two groups' descriptions."""
    nodes = {node_of(m.client_id) for m in cache.members} or {node_of(m.client_id) for m in apply.members}
    lanes: dict[int, dict[str, list[int]]] = {}
    for member in apply.members:
        for where in member.assignment.topic_partitions:
            if where.topic == units_topic:
                stream, lane = divmod(where.partition, LANES_MAX)
                lanes.setdefault(stream, {}).setdefault(node_of(member.client_id), []).append(lane)
    quiet = (ConsumerGroupState.STABLE, ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
    return Membership(
        frozenset(nodes),
        {stream: {node: tuple(sorted(own)) for node, own in found.items()} for stream, found in lanes.items()},
        all(group.state in quiet for group in (cache, apply)),
    )

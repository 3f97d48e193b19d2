"""A role that is started again takes its dead predecessor out of the consumer group.

A group misses a killed member only when its session ends (6 s), and gives nobody its partitions before. Whoever
supervises starts one process of a name at a time, so a member of the same name is dead. Should it live, the ledger's
fence refuses what it does: nothing depends on this being right.
"""

from __future__ import annotations

import asyncio
import logging
import os

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError as AiokafkaError
from aiokafka.protocol.group import LeaveGroupRequest
from confluent_kafka import KafkaException

from topologies.aiokafka_auth import aiokafka_auth
from topologies.kafka import ENV_INSTANCE, client_id, make_admin
from topologies.settings import Settings

log = logging.getLogger(__name__)
ANSWER_S = 2.0


def remove_predecessor(settings: Settings, group: str) -> None:
    """Have members of `group` with this process's own name leave. Failing is no harm: the group misses them soon."""
    if ENV_INSTANCE not in os.environ:
        return
    try:
        admin = make_admin(settings)  # kept: an answer is delivered only while it lives
        description = admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group].result(ANSWER_S)
        dead = [member.member_id for member in description.members if member.client_id.endswith(client_id(""))]
        if dead:
            loop = asyncio.new_event_loop()  # not the thread's own, which Faust binds to
            try:
                loop.run_until_complete(asyncio.wait_for(_leave(settings, group, dead), ANSWER_S))
            finally:
                loop.close()
            log.info("group %s: the member that this process replaces has left", group)
    except (KafkaException, AiokafkaError, TimeoutError, OSError) as error:
        log.info(
            "group %s: no answer about a member that this process replaces (%s); if there is one, it stays until its "
            "session ends", group, str(error) or type(error).__name__,
        )  # fmt: skip


async def _leave(settings: Settings, group: str, members: list[str]) -> None:
    client = AIOKafkaClient(
        bootstrap_servers=settings.kafka.bootstrap_servers.split(","), **aiokafka_auth(settings.kafka.options)
    )
    try:
        await client.bootstrap()
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        for member in members:
            await client.send(node, LeaveGroupRequest(group, member))
    finally:
        await client.close()

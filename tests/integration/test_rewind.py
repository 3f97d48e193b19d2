"""Rule 4: a planner's committed offset that is ahead of the ledger is put back before anything is read."""

from __future__ import annotations

from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition

from connectors.postgres.ledger import PostgresLedger
from pipeline.errors import RetriableError
from tests.support.fixtures import MakeRig
from tests.support.rig import Rig
from tests.support.topics import write_topic
from topologies.kafka import make_admin, make_consumer
from topologies.rewind import rewind_groups
from topologies.topics import ensure_topics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]


def committed(rig: Rig, consumer: Consumer) -> int:
    return int(consumer.committed([TopicPartition(rig.settings.topic("changes"), 0)], timeout=40)[0].offset)


def test_offsets_go_back_to_the_ledgers_and_never_forward(make_rig: MakeRig) -> None:
    rig = make_rig()
    ensure_topics(make_admin(rig.settings), rig.settings)
    write_topic(rig.settings, "changes", [b"record"] * 10)
    topic = rig.settings.topic("changes")
    consumer = make_consumer(rig.settings, rig.settings.group("plan"))
    with closing(consumer), closing(PostgresLedger(rig.stream, rig.config.target_settings())) as ledger:
        ledger.ensure()
        ledger.stop("an earlier error")
        epoch = ledger.takeover().epoch
        for in_ledger, before, after in ((4, 7, 4), (8, 6, 6)):
            assert ledger.advance(epoch, 1, 100 + in_ledger, 0, in_ledger)
            consumer.commit(offsets=[TopicPartition(topic, 0, before)], asynchronous=False)
            rewind_groups(rig.settings)
            assert committed(rig, consumer) == after
        row = ledger.stream_row()
        assert row is not None
        assert row.stopped == "", "a stopped stream counts as started again"


def test_a_group_that_still_has_a_planner_is_not_rewound(make_rig: MakeRig) -> None:
    rig = make_rig()
    ensure_topics(make_admin(rig.settings), rig.settings)
    topic = rig.settings.topic("changes")
    write_topic(rig.settings, "changes", [b"record"] * 10)
    consumer = make_consumer(rig.settings, rig.settings.group("plan"))
    with closing(consumer):
        consumer.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=False)
        consumer.subscribe([topic])
        while not consumer.assignment():
            consumer.poll(0.2)
        with pytest.raises(RetriableError, match="stop all planners first"):
            rewind_groups(rig.settings)

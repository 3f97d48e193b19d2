"""Whoever reads a topic from its end has a place in it from the moment of opening, not from the first fetch on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from headrace.embedded import EmbeddedKafka
from tests.support.rig import Rig
from tests.support.topics import write_topic
from topologies.kafka import make_admin, read_from_end, take
from topologies.topics import ensure_topics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"


def test_what_is_written_after_the_opening_is_read_and_nothing_older(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    with Rig(tmp_path, kafka.bootstrap_servers, NO_DATABASE, NO_DATABASE) as rig:
        ensure_topics(make_admin(rig.settings), rig.settings)
        write_topic(rig.settings, "progress", [b"before"])
        with closing(read_from_end(rig.settings, rig.settings.topic("progress"), [0])) as consumer:
            write_topic(rig.settings, "progress", [b"after"])
            assert [message.value() for message in take(consumer, 10, 40.0)] == [b"after"]

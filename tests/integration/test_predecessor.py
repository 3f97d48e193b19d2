"""A role that is started again takes its dead predecessor out of the group at once, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace.embedded import EmbeddedKafka
from tests.support.rig import Rig
from topologies.kafka import ENV_INSTANCE, make_admin
from topologies.predecessor import remove_predecessor
from topologies.topics import ensure_topics

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
# A member that nothing but a leave takes out during the test: its session lasts longer.
MEMBER = """
import sys
from pathlib import Path
from topologies.kafka import client_id, make_consumer
from topologies.settings_file import load_settings
settings = load_settings(Path(sys.argv[1]))
options = {"client.id": client_id("node"), "session.timeout.ms": "280000"}
consumer = make_consumer(settings, settings.group("apply"), options=options)
consumer.subscribe([settings.topic("units")])
while True:
    consumer.poll(0.1)
"""


@pytest.fixture
def rig(kafka: EmbeddedKafka, tmp_path: Path) -> Iterator[Rig]:
    """A stream whose databases nobody needs."""
    with Rig(tmp_path, kafka.bootstrap_servers, NO_DATABASE, NO_DATABASE) as made:
        ensure_topics(make_admin(made.settings), made.settings)
        yield made


def members(rig: Rig) -> set[str]:
    """The clients' ids in the group of `apply`."""
    group, admin = rig.settings.group("apply"), make_admin(rig.settings)  # kept: answers come while it lives
    description = admin.describe_consumer_groups([group], request_timeout=20)[group].result(30)
    return {member.client_id for member in description.members}


def test_only_the_member_of_the_same_name_leaves(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    group = rig.settings.group("apply")
    with ExitStack() as stack:
        for name in ("one", "two"):
            child = subprocess.Popen(
                [sys.executable, "-c", MEMBER, str(rig.config_path)], env={**os.environ, ENV_INSTANCE: name}
            )
            stack.callback(child.wait)
            stack.callback(child.kill)
        rig.until(lambda: members(rig) == {"node~one", "node~two"}, "both have joined")
    assert members(rig) == {"node~one", "node~two"}, "the group does not know yet that they are dead"
    monkeypatch.delenv(ENV_INSTANCE, raising=False)
    remove_predecessor(rig.settings, group)
    assert members(rig) == {"node~one", "node~two"}, "a process without a name replaces nobody"
    monkeypatch.setenv(ENV_INSTANCE, "one")

    def replaced() -> bool:
        remove_predecessor(rig.settings, group)  # gives up after two seconds, which a busy broker may take
        return members(rig) == {"node~two"}

    rig.until(replaced, "its predecessor leaves")
    assert replaced(), "there is nobody to replace any more"

"""A broker that asks for a name and a password: every client of every role has to give them, Faust's too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.embedded import EmbeddedKafka
from headrace.embedded.ports import LOOPBACK
from tests.support.fixtures import MakeRig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

OPTIONS = {
    "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
    "sasl.username": "headrace", "sasl.password": "a word",
}  # fmt: skip
SETTINGS = {
    "listener.security.protocol.map": "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "listener.name.plaintext.plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required"
        ' username="broker" password="own" user_broker="own" user_headrace="a word";'
    ),
}


class SecuredKafka(EmbeddedKafka):
    """A broker whose only listener for clients wants SASL."""

    def _answers(self, port: int) -> bool:
        client = AdminClient({"bootstrap.servers": f"{LOOPBACK}:{port}", "log_level": 0, **OPTIONS})
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False


@pytest.fixture
def secured_kafka(server_dir: Path) -> Iterator[SecuredKafka]:
    with SecuredKafka(server_dir / "secured", settings=SETTINGS) as broker:
        yield broker


def test_all_roles_sign_in(make_rig: MakeRig, secured_kafka: SecuredKafka) -> None:
    rig = make_rig(kafka={"bootstrap_servers": secured_kafka.bootstrap_servers}, options=OPTIONS)
    rig.both("CREATE TABLE t (id int PRIMARY KEY)")
    rig.source("INSERT INTO t VALUES (1)")
    rig.start()
    rig.wait_until_equal()
    rig.kill("plan", "apply")
    rig.source("INSERT INTO t VALUES (2)")
    rig.wait_until_equal()
    assert "a word" not in "".join(rig.log(name) for name in rig.roles)

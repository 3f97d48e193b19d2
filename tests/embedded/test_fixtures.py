"""The fixtures that every other test relies on."""

from __future__ import annotations

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from headrace.embedded import EmbeddedKafka, EmbeddedPostgres
from tests.conftest import fresh_database

pytestmark = pytest.mark.integration


def test_one_broker_serves_the_session(kafka: EmbeddedKafka) -> None:
    metadata = AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=10)
    assert list(metadata.brokers) == [1]


def test_source_and_target_are_servers_of_their_own(
    source_pg: EmbeddedPostgres, target_pg: EmbeddedPostgres, source_db: str, target_db: str
) -> None:
    assert source_pg.port != target_pg.port
    for dsn in (source_db, target_db):
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT current_setting('wal_level')").fetchone()
        assert row == ("logical",)


def test_a_database_goes_with_its_slots_and_sessions(source_pg: EmbeddedPostgres) -> None:
    with fresh_database(source_pg) as dsn:
        connection = psycopg.connect(dsn, autocommit=True)
        name = connection.info.dbname
        connection.execute("SELECT pg_create_logical_replication_slot('of_' || %s, 'pgoutput')", [name])
    connection.close()
    with psycopg.connect(source_pg.dsn()) as admin:
        assert admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None
        slots = admin.execute("SELECT 1 FROM pg_replication_slots WHERE database = %s", [name])
        assert slots.fetchone() is None

"""Rows that go with a partition: no log carries that, so the capture and `headrace check` say so."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import psycopg
import pytest

from connectors.postgres.admin import PostgresSourceAdmin
from connectors.postgres.partitions import read_partitions
from connectors.postgres.publications import ensure_publications
from connectors.postgres.source_tables import source_tables
from connectors.postgres.watch import LOOK_S, TableWatch
from connectors.settings import SourceSettings

pytestmark = pytest.mark.integration

TABLES = """
CREATE TABLE t (r int, id int, PRIMARY KEY (r, id)) PARTITION BY LIST (r);
CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);
CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE t_2_low PARTITION OF t_2 FOR VALUES FROM (0) TO (10);
CREATE TABLE t_2_high PARTITION OF t_2 DEFAULT;
CREATE TABLE t_3 (LIKE t INCLUDING ALL);
CREATE TABLE left_out (r int, id int) PARTITION BY LIST (r);
CREATE TABLE left_out_1 PARTITION OF left_out DEFAULT;
"""
STREAM = "parted"


@pytest.fixture
def conn(source_db: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(source_db, autocommit=True) as conn:
        conn.execute(TABLES)
        yield conn


@pytest.fixture
def settings(source_db: str) -> SourceSettings:
    return SourceSettings(source_db, ("public.t",))


LEFT = "has left public.t; its rows stay on the target"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP TABLE t_1", [f"public.t_1 {LEFT}"]),
        ("ALTER TABLE t_2 DETACH PARTITION t_2_low", [f"public.t_2_low {LEFT}"]),
        ("ALTER TABLE t DETACH PARTITION t_2", [f"public.t_2_high {LEFT}", f"public.t_2_low {LEFT}"]),
        ("ALTER TABLE t ATTACH PARTITION t_3 FOR VALUES IN (3)", []),
        ("CREATE TABLE t_5 PARTITION OF t FOR VALUES IN (5); INSERT INTO t VALUES (5, 5)", []),
        ("DROP TABLE left_out_1", []),
        ("TRUNCATE t", []),
    ],
)  # fmt: skip
def test_a_partition_that_takes_rows_along_is_told(
    conn: psycopg.Connection, settings: SourceSettings, statement: str, said: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    ensure_publications(conn, STREAM, source_tables(conn, settings))
    watch = TableWatch(STREAM, settings)
    for look in range(2):
        watch.look_if_due(look * LOOK_S)
    conn.execute(statement.encode())
    with caplog.at_level(logging.WARNING):
        for look in range(2, 4):
            watch.look_if_due(look * LOOK_S)
    watch.close()
    told = sorted(record.getMessage() for record in caplog.records)
    assert [text in line for text, line in zip(said, told, strict=True)] == [True] * len(said), told
    assert all(f"`headrace resync --stream {STREAM} --table public.t --yes`" in line for line in told)


def test_the_catalogue_is_read_while_a_partition_is_being_detached(conn: psycopg.Connection, source_db: str) -> None:
    with psycopg.connect(source_db) as other:
        other.execute("ALTER TABLE t DETACH PARTITION t_1")  # holds its locks
        conn.execute("SET lock_timeout = '1s'")
        assert len(read_partitions(conn)["public", "t"]) == 3


def test_check_says_what_does_not_travel(conn: psycopg.Connection, settings: SourceSettings) -> None:
    found = [each for each in PostgresSourceAdmin(STREAM, settings).check() if each.subject.endswith(" public.t")]
    assert ["a TRUNCATE of one partition does not travel" in each.text for each in found] == [True]
    assert not found[0].blocker

"""What is asked of the source about a table whose ALTER TABLE is in the stream and not visible yet."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from connectors.postgres import facts as facts_module
from connectors.postgres.facts import SourceFacts
from connectors.postgres.relation_message import RelationReader
from connectors.postgres.tuple_data import HEADER
from pipeline.mapping import TableMapping

pytestmark = pytest.mark.integration


@pytest.fixture
def altering(source_db: str) -> Iterator[tuple[psycopg.Connection, int]]:
    """A session that has altered a table and not ended, and the table's number."""
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE settled (id int PRIMARY KEY)")
        oid = conn.execute("SELECT 'settled'::regclass::oid::bigint").fetchone()
        conn.commit()
        conn.execute("ALTER TABLE settled ADD more int")
        assert oid is not None
        yield conn, oid[0]


@pytest.fixture
def facts(source_db: str) -> Iterator[SourceFacts]:
    """What the catalogue says, asked on a connection of its own."""
    facts = SourceFacts("settled", source_db)
    yield facts
    facts.close()


@contextmanager
def committing(conn: psycopg.Connection) -> Iterator[None]:
    """Commit a moment after the block has begun."""
    commit = threading.Timer(0.3, conn.commit)
    commit.start()
    yield
    commit.join()


def test_the_catalogue_is_read_when_an_alter_table_has_ended(
    facts: SourceFacts, altering: tuple[psycopg.Connection, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit may be in the stream before other sessions see it."""
    monkeypatch.setattr(facts_module, "SETTLE_S", 30)
    conn, oid = altering
    with committing(conn):
        assert [column.name for column in facts.columns(oid)] == ["id", "more"]


def test_keys_and_types_are_asked_for_when_the_alter_table_has_ended(
    facts: SourceFacts, altering: tuple[psycopg.Connection, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be of the same transaction as the table's new columns."""
    monkeypatch.setattr(facts_module, "SETTLE_S", 30)
    conn, oid = altering
    conn.execute("CREATE DOMAIN grade AS int")
    found = conn.execute("SELECT oid::bigint FROM pg_type WHERE typname = 'grade'").fetchone()
    assert found is not None
    columns = [b"\0" + name + b"\0" + struct.pack("!Ii", oid, -1) for name, oid in ((b"id", 23), (b"more", found[0]))]
    head = bytes(HEADER) + b"R" + struct.pack("!I", oid) + b"public\0settled\0f" + struct.pack("!h", len(columns))
    conn.execute("ALTER TABLE settled DROP more, ADD more grade, DROP CONSTRAINT settled_pkey, ADD PRIMARY KEY (more)")
    with committing(conn):
        relation = RelationReader(facts, TableMapping(), binary=True).read(head + b"".join(columns)).relation
    assert [(column.name, column.type, column.key) for column in relation.columns] == [
        ("id", "int4", False), ("more", "public.grade", True),
    ]  # fmt: skip


def test_an_alter_table_that_takes_long_is_not_waited_for(
    facts: SourceFacts, altering: tuple[psycopg.Connection, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts_module, "SETTLE_S", 0.1)
    assert [column.name for column in facts.columns(altering[1])] == ["id"]

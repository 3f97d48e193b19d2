"""A target that is unlike its source: another encoding, narrower types. Values arrive as they are, or are refused."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from connectors.errors import RefusedError
from connectors.postgres.pgoutput import MESSAGE_BYTES_MAX
from connectors.settings import SourceSettings, TargetSettings
from headrace.embedded import EmbeddedPostgres
from tests.conftest import drop_slots, fresh_database
from tests.support.direct import DirectStream, on_both

pytestmark = pytest.mark.integration

TEXT = "žluťoučký kůň é"
NAMES = 'CREATE TABLE "kůň" (id int PRIMARY KEY, "č" text, j jsonb)'


@contextlib.contextmanager
def database(server: EmbeddedPostgres, encoding: str) -> Iterator[str]:
    """A new database with an encoding of its own."""
    with fresh_database(server) as other:
        name = f"e_{uuid.uuid4().hex[:12]}"
        options = f"ENCODING '{encoding}' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        with psycopg.connect(other, autocommit=True) as admin:
            admin.execute(sql.SQL(f"CREATE DATABASE {{}} {options}").format(sql.Identifier(name)))
            try:
                yield server.dsn(name)
            finally:
                drop_slots(admin, name)  # their server process may not have seen yet that the client is gone
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize(
    ("here", "there", "as_text"),
    [("LATIN2", "UTF8", False), ("UTF8", "LATIN2", True), ("WIN1250", "LATIN2", False), ("SQL_ASCII", "UTF8", True)],
)
def test_text_is_the_same_in_another_encoding(
    source_pg: EmbeddedPostgres, target_pg: EmbeddedPostgres, here: str, there: str, as_text: bool
) -> None:
    with database(source_pg, here) as source, database(target_pg, there) as target:
        on_both([source, target], NAMES)
        with DirectStream(SourceSettings(source, ("public.*",), as_text=as_text), TargetSettings(target)) as stream:
            stream.replicate(f"""INSERT INTO "kůň" VALUES (1, '{TEXT}', '["{TEXT}"]'), (2, 'ascii', NULL)""")
            assert stream.rows('SELECT "č", j FROM "kůň" WHERE id = 1') == [(TEXT, [TEXT])]
            assert not stream.differing(["public.*"])
            stream.there.execute(f"""UPDATE "kůň" SET "č" = '{TEXT}!' WHERE id = 1""".encode())
            assert [check.differences for check in stream.differing(["public.*"])] == [2]


@pytest.mark.parametrize("rows", [1, 100])
def test_a_float_keeps_its_digits_as_a_numeric(source_db: str, target_db: str, rows: int) -> None:
    on_both([source_db], "CREATE TABLE t (id float8 PRIMARY KEY, v float4)")
    on_both([target_db], "CREATE TABLE t (id numeric PRIMARY KEY, v numeric)")
    with DirectStream(SourceSettings(source_db, ("public.*",)), TargetSettings(target_db)) as stream:
        stream.replicate(f"INSERT INTO t SELECT n + 0.12345678901234568, 0.1234567 FROM generate_series(0, {rows}) n")
        stream.replicate("UPDATE t SET v = 0.7654321")
        assert stream.rows("SELECT id::text, v::text FROM t WHERE id < 1") == [("0.12345678901234568", "0.7654321")]
        assert not stream.differing(["public.*"])


def test_text_that_the_target_cannot_encode_is_refused(
    source_pg: EmbeddedPostgres, target_pg: EmbeddedPostgres
) -> None:
    with database(source_pg, "UTF8") as source, database(target_pg, "LATIN2") as target:
        on_both([source, target], "CREATE TABLE t (id int PRIMARY KEY, v text)")
        with DirectStream(SourceSettings(source, ("public.*",)), TargetSettings(target)) as stream:
            with pytest.raises(RefusedError, match="has no equivalent in encoding"):
                stream.replicate("INSERT INTO t VALUES (1, '漢字')")
            assert stream.rows("SELECT count(*) FROM t") == [(0,)]


@pytest.mark.parametrize("rows", [1, 100])  # row by row, and set by set
@pytest.mark.parametrize(("kind", "narrow"), [("numeric", "int"), ("float8", "bigint"), ("int", "bool")])
def test_what_a_narrower_type_cannot_hold_is_refused_not_rounded(
    source_db: str, target_db: str, kind: str, narrow: str, rows: int
) -> None:
    on_both([source_db], f"CREATE TABLE t (id int PRIMARY KEY, v {kind})")
    on_both([target_db], f"CREATE TABLE t (id int PRIMARY KEY, v {narrow})")
    with DirectStream(SourceSettings(source_db, ("public.*",)), TargetSettings(target_db)) as stream:
        stream.replicate(f"INSERT INTO t SELECT n, NULLIF(n % 2, 0) FROM generate_series(1, {rows}) n")
        assert stream.rows("SELECT v::int FROM t WHERE id = 1") == [(1,)]
        with pytest.raises(RefusedError, match="invalid input syntax"):
            stream.replicate(f"UPDATE t SET v = 5 / 2.0{'' if kind != 'int' else ' + 4'}")
        assert stream.rows("SELECT count(*) FROM t WHERE v::int = 1") == [((rows + 1) // 2,)]


def test_a_logical_message_too_large_for_a_record_stops_nothing(source_db: str, target_db: str) -> None:
    on_both([source_db, target_db], "CREATE TABLE t (id int PRIMARY KEY)")
    with DirectStream(SourceSettings(source_db, ("public.*",)), TargetSettings(target_db)) as stream:
        large = f"SELECT pg_logical_emit_message(true, 'large', repeat('x', {MESSAGE_BYTES_MAX} * 5))"
        small = "SELECT pg_logical_emit_message(true, 'small', 'x')"
        batch = stream.write(f"{large}; {small}; INSERT INTO t VALUES (1)")
        assert [message.prefix for message in batch.messages][:1] == ["small"]
        stream.apply(batch)
        assert not stream.differing(["public.*"])

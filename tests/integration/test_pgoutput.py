"""The decoder against a real server: every kind of message, and rows that are traps for a decoder."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from connectors.postgres import replication
from connectors.postgres.facts import SourceFacts
from connectors.postgres.pgoutput import PgOutputDecoder
from connectors.postgres.pump import COMPILED, pump_python
from connectors.postgres.replication import ReplicationConnection
from pipeline.builder import BatchBuilder
from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE, ChangeBatch, Section
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.rows import Field, key_fields, row_fields

pytestmark = pytest.mark.integration

END = "the end of what a test has written"
MIB = 1024 * 1024


class Decoding:
    """A replication connection with its decoder, and a session that writes."""

    def __init__(self, dsn: str, *, binary: bool = True) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True)
        self._stream = f"d{self.conn.info.dbname[2:]}"
        self._dsn = dsn
        self._binary = binary
        self._replication = ReplicationConnection(dsn, self._stream)
        self._facts = SourceFacts(self._stream, dsn)
        self._builder: BatchBuilder | None = None

    def begin(self) -> None:
        """Decode what is written from now on."""
        self.conn.execute("CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root = true)")
        position, _ = self._replication.create_slot(self._stream, export=False)
        self._builder = BatchBuilder(self._stream, position, position)
        self._decoder = PgOutputDecoder(self._builder, position, self._facts, binary=self._binary)
        self._replication.start(self._stream, ["everything"], 0, binary=self._binary)

    def write(self, *statements: str) -> ChangeBatch:
        """Run statements in one transaction each, and return them as the batch that they become."""
        for statement in statements:
            self.conn.execute(statement.encode())
        self.conn.execute("SELECT pg_logical_emit_message(true, %s, '')", [END])
        assert self._builder is not None
        while not self._ended(self._builder):
            if self._replication.pump(self._decoder, 1, MIB):
                self._replication.wait(1000)  # in poll, until the server sends
        batch = self._builder.close("live", self._decoder.end_position, 1)
        assert decode_batch(encode_batch(batch)) == batch, "a batch survives its record"
        return batch

    def clock_late_s(self) -> float:
        """The server's clock behind ours, as its next keepalive tells."""
        self._replication.send_status()
        before = self._replication.received
        self.conn.execute("SELECT pg_log_standby_snapshot()")
        while self._replication.received == before:
            self._replication.pump(self._decoder, 1, MIB)
            self._replication.wait(1000)
        return time.time() - self._replication.server_time_s

    def _ended(self, builder: BatchBuilder) -> bool:
        return not self._decoder.in_transaction and any(message.prefix == END for message in builder.messages)

    def close(self) -> None:
        self._replication.close()
        self._facts.close()
        self.conn.close()


@pytest.fixture(params=["python", "compiled"])
def decoding(source_db: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoding]:
    if request.param == "python":
        monkeypatch.setattr(replication, "pump", pump_python)
    elif not COMPILED:
        pytest.skip("no compiled pump here")
    decoding = Decoding(source_db)
    yield decoding
    decoding.close()


def only(batch: ChangeBatch) -> Section:
    """The one section of a batch."""
    assert len(batch.sections) == 1, [section.relation for section in batch.sections]
    return batch.sections[0]


def rows_of(section: Section) -> list[list[Field]]:
    """The rows of a section, cut into fields."""
    return [row_fields(row, len(section.relation.columns)) for row in section.row_list()]


def keys_of(section: Section) -> list[list[Field]]:
    """The keys of a section, cut into fields."""
    return [key_fields(key, len(section.relation.key_columns)) for key in section.key_list()]


def int4(value: int) -> bytes:
    return value.to_bytes(4, "big", signed=True)


def test_begin_and_commit(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE t (id int PRIMARY KEY)")
    decoding.begin()
    batch = decoding.write("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2), (3)")
    assert len(batch.positions) == 3, "two transactions and the end's"
    assert list(batch.positions) == sorted(set(batch.positions))
    assert batch.previous_position < batch.positions[0]
    assert batch.end_position > batch.positions[-1]
    assert list(only(batch).tx) == [0, 1, 1]
    assert list(only(batch).order) == [0, 1, 2]
    xids = decoding.conn.execute("SELECT xmin::text::bigint FROM t ORDER BY id").fetchall()
    assert [batch.source_ids[0], batch.source_ids[1], batch.source_ids[1]] == [xid for (xid,) in xids]
    again = decoding.write("DELETE FROM t")
    assert again.previous_position == batch.last_position


def test_insert_with_nulls_and_empty_values(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE t (a text, b bytea, c int, d text)")
    decoding.begin()
    batch = decoding.write(
        "INSERT INTO t VALUES ('', '', 0, 'x'), (NULL, NULL, NULL, NULL), ('x', '\\x00ff', -1, '')",
        # The same lengths, other kinds of fields: a decoder must not take one layout for the other.
        "INSERT INTO t VALUES ('', NULL, 7, NULL), (NULL, '', 7, NULL), ('', NULL, 7, NULL)",
        "INSERT INTO t VALUES ('a', '', NULL, 'bbb'), ('bbb', '', NULL, 'a')",
    )
    assert rows_of(only(batch)) == [
        [b"", b"", int4(0), b"x"],
        [None, None, None, None],
        [b"x", b"\x00\xff", int4(-1), b""],
        [b"", None, int4(7), None],
        [None, b"", int4(7), None],
        [b"", None, int4(7), None],
        [b"a", b"", None, b"bbb"],
        [b"bbb", b"", None, b"a"],
    ]
    assert set(only(batch).ops) == {INSERT}


def test_update_and_delete_by_key(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE t (value text, b int, a int, PRIMARY KEY (a, b))")
    decoding.conn.execute("INSERT INTO t VALUES ('x', 1, 10), ('y', 2, 20)")
    decoding.begin()
    batch = decoding.write(
        "UPDATE t SET value = 'new' WHERE a = 10", "UPDATE t SET a = 11 WHERE a = 10", "DELETE FROM t WHERE a = 20"
    )
    section = only(batch)
    assert section.ops == bytes([UPDATE, UPDATE, DELETE])
    assert section.relation.key_columns == ("b", "a"), "in the table's order"
    assert keys_of(section) == [[int4(1), int4(10)], [int4(1), int4(11)], [int4(2), int4(20)]]
    assert [key_fields(key, 2) for key in section.old_key_map().values()] == [[int4(1), int4(10)]]
    assert list(section.old_index) == [1]


def test_full_identity(decoding: Decoding) -> None:
    big = "x" * 20_000
    decoding.conn.execute("CREATE TABLE t (id int PRIMARY KEY, value text, big text STORAGE EXTERNAL)")
    decoding.conn.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    decoding.conn.execute("INSERT INTO t VALUES (1, 'a', repeat('x', 20000)), (2, NULL, NULL)")
    decoding.begin()
    batch = decoding.write(
        "UPDATE t SET value = 'b' WHERE id = 1", "UPDATE t SET id = 3 WHERE id = 2", "DELETE FROM t WHERE id = 1"
    )
    section = only(batch)
    assert section.relation.key_columns == ("id",), "the primary key, not the whole row"
    assert rows_of(section) == [
        [int4(1), b"b", big.encode()],  # completed from the old row
        [int4(3), None, None],
        [int4(1), b"b", big.encode()],  # the row as it was
    ]
    assert not section.mask_index
    assert section.old_key_map() == {1: b"\0\0\0\4" + int4(2)}


def test_columns_out_of_line_that_did_not_change(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE t (id int PRIMARY KEY, big text STORAGE EXTERNAL, value int)")
    decoding.conn.execute("INSERT INTO t VALUES (1, repeat('x', 20000), 1)")
    decoding.begin()
    section = only(decoding.write("UPDATE t SET value = 2", "UPDATE t SET big = 'short'", "UPDATE t SET value = 3"))
    assert section.mask_map() == {0: b"\x02"}
    assert rows_of(section)[1:] == [[int4(1), b"short", int4(2)], [int4(1), b"short", int4(3)]]


def test_truncate(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE a (id int PRIMARY KEY)")
    decoding.conn.execute("CREATE TABLE b (id int PRIMARY KEY REFERENCES a)")
    decoding.begin()
    batch = decoding.write("TRUNCATE a, b RESTART IDENTITY", "INSERT INTO a VALUES (1)", "TRUNCATE b")
    sections = {section.relation.table: section for section in batch.sections}
    assert sections["a"].ops == bytes([TRUNCATE, INSERT])
    assert sections["b"].ops == bytes([TRUNCATE, TRUNCATE])
    assert sections["a"].order[0] == sections["b"].order[0] < sections["a"].order[1] < sections["b"].order[1]
    assert [row[0] for row in sections["b"].row_list()] == [2, 0], "option bits"


def test_logical_messages(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE t (id int PRIMARY KEY)")
    decoding.begin()
    batch = decoding.write(
        "SELECT pg_logical_emit_message(false, 'free', 'not part of a transaction')",
        "SELECT pg_logical_emit_message(true, 'příznak', '\\x00ff'::bytea)",
        "WITH w AS (INSERT INTO t VALUES (1) RETURNING id::text) SELECT pg_logical_emit_message(true, '', id) FROM w",
    )
    assert [(m.tx, m.prefix, m.content) for m in batch.messages[:-1]] == [(0, "příznak", b"\x00\xff"), (1, "", b"1")]
    assert batch.messages[1].order > only(batch).order[0]


def test_origin(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE t (id int PRIMARY KEY)")
    decoding.begin()
    origin = decoding.conn.info.dbname
    batch = decoding.write(
        f"SELECT pg_replication_origin_create('{origin}')",
        f"SELECT pg_replication_origin_session_setup('{origin}')",
        "INSERT INTO t VALUES (1)",
        "SELECT pg_replication_origin_session_reset()",
        f"SELECT pg_replication_origin_drop('{origin}')",
    )
    assert rows_of(only(batch)) == [[int4(1)]]


def test_types_of_the_database_and_types_without_a_binary_form(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE SCHEMA other CREATE TABLE dummy (id int)")
    decoding.conn.execute("CREATE TYPE other.mood AS ENUM ('sad', 'happy')")
    decoding.conn.execute("CREATE TABLE t (id int PRIMARY KEY, mood other.mood, access aclitem)")
    decoding.begin()
    batch = decoding.write(
        "INSERT INTO t VALUES (1, NULL, NULL)",
        "INSERT INTO t VALUES (2, 'happy', '=r/postgres')",
        "UPDATE t SET mood = 'sad' WHERE id = 1",
    )
    late = (
        "CREATE DOMAIN other.late AS text",
        "ALTER TABLE t ADD more other.late",
        "UPDATE t SET more = 'x' WHERE id = 1",
    )
    after = decoding.write(*late)
    # Which columns are text shows with the first value: what came before is a section of its own.
    assert [[c.binary for c in section.relation.columns] for section in batch.sections] == [
        [True, True, True],
        [True, True, False],
    ]
    columns = batch.sections[1].relation.columns
    assert [column.type for column in columns] == ["int4", "other.mood", "aclitem"]
    assert rows_of(batch.sections[1])[0] == [int4(2), b"happy", b"=r/postgres"]
    assert [column.type for column in only(after).relation.columns][-1] == "other.late"


def test_columns_renamed_added_and_dropped_on_the_way(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    decoding.begin()
    batch = decoding.write(
        "INSERT INTO t VALUES (1, 'a', 'b')",
        "ALTER TABLE t RENAME a TO z",
        "INSERT INTO t VALUES (2, 'z', 'b')",
        "ALTER TABLE t DROP COLUMN b",
        "ALTER TABLE t ADD COLUMN c int DEFAULT 5",
        "UPDATE t SET c = 6 WHERE id = 1",
        "ALTER TABLE t RENAME TO t2",
        "INSERT INTO t2 VALUES (3, 'x', 7)",
    )
    found = [
        (section.relation.table, [column.name for column in section.relation.columns], rows_of(section))
        for section in batch.sections
    ]
    assert found == [
        ("t", ["id", "a", "b"], [[int4(1), b"a", b"b"]]),
        ("t", ["id", "z", "b"], [[int4(2), b"z", b"b"]]),
        ("t", ["id", "z", "c"], [[int4(1), b"a", int4(6)]]),
        ("t2", ["id", "z", "c"], [[int4(3), b"x", int4(7)]]),
    ]


@pytest.mark.parametrize("columns", [37, 36, 256 + 37])
def test_numbers_whose_bytes_are_percent_signs(decoding: Decoding, columns: int) -> None:
    # A row's layout becomes a format string: 37 columns, or values of 37 bytes, put a '%' into it.
    names = [f"c{n}" for n in range(columns)]
    decoding.conn.execute(f"CREATE TABLE t ({', '.join(f'{name} text' for name in names)})".encode())
    decoding.conn.execute("ALTER TABLE t ADD PRIMARY KEY (c0), ALTER c5 SET STORAGE MAIN")
    decoding.begin()
    values = [b"%" * 37, b"%s %b %% %", b"%(x)s", "ž%".encode(), b""]
    filled = [values[n % len(values)] for n in range(columns)]
    filled[5] = b"x" * (37 * 256)
    literals = ", ".join(psycopg.sql.quote(value.decode()) for value in filled)
    batch = decoding.write(
        f"INSERT INTO t VALUES ({literals})",
        "UPDATE t SET c1 = c1",  # the same layout, by the quick way
        "UPDATE t SET c1 = NULL",
        "UPDATE t SET c1 = NULL",
    )
    without = [filled[0], None, *filled[2:]]
    assert rows_of(only(batch)) == [filled, filled, without, without]
    assert keys_of(only(batch)) == [[filled[0]]] * 4


def test_tables_without_columns_or_keys(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE nothing ()")
    decoding.conn.execute("CREATE TABLE t (a int, gone int, b int GENERATED ALWAYS AS (a + 1) STORED)")
    decoding.conn.execute("ALTER TABLE t DROP COLUMN gone")
    decoding.begin()
    batch = decoding.write("INSERT INTO nothing DEFAULT VALUES", "INSERT INTO t VALUES (1)")
    found = {section.relation.table: rows_of(section) for section in batch.sections}
    assert found == {"nothing": [[]], "t": [[int4(1)]]}


def test_text_instead_of_binary(source_db: str) -> None:
    decoding = Decoding(source_db, binary=False)
    try:
        decoding.conn.execute(
            "CREATE TABLE t (id int PRIMARY KEY, value float8, at timestamptz, span interval, b bytea)"
        )
        decoding.conn.execute(f"ALTER DATABASE {decoding.conn.info.dbname} SET DateStyle = 'German'".encode())
        decoding.begin()
        batch = decoding.write(
            "INSERT INTO t VALUES (1, 0.1, '2026-02-03 04:05:06+00', '-1 day 02:03', '\\x25')",
            "UPDATE t SET id = 2",
        )
    finally:
        decoding.close()
    section = only(batch)
    assert not any(column.binary for column in section.relation.columns)
    assert rows_of(section)[0] == [b"1", b"0.1", b"2026-02-03 04:05:06+00", b"-1 days +02:03:00", b"\\x25"]
    assert keys_of(section) == [[b"1"], [b"2"]]
    assert section.old_key_map() == {1: b"\0\0\0\x011"}


def test_what_was_captured_before_is_passed_over(decoding: Decoding) -> None:
    decoding.conn.execute("CREATE TABLE t (id int PRIMARY KEY, value text)")
    decoding.begin()
    first = decoding.write("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2, 'b')")
    decoder = decoding._decoder
    decoder.skip_to = first.last_position + 1_000_000_000
    builder = decoding._builder
    assert builder is not None
    decoding.conn.execute("INSERT INTO t VALUES (3, 'c')")
    decoding.conn.execute("TRUNCATE t")
    decoding.conn.execute("SELECT pg_logical_emit_message(true, 'x', '')")
    row = decoding.conn.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    while decoder.end_position < row[0]:
        if decoding._replication.pump(decoder, 1, MIB):
            decoding._replication.wait(1000)
    assert not builder.positions
    assert not builder.messages
    assert not any(section.ops for section in builder.sections.values())


def test_commit_times_are_compared_with_the_clock_of_the_server(
    decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding.begin()
    true_s = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: true_s() + 3600)
        assert 3500 < decoding.clock_late_s() < 3700
    assert -100 < decoding.clock_late_s() < 100

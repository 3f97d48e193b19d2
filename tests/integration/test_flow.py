"""What a live stream must carry over unharmed. One stream serves most tests, each with tables of its own."""

from __future__ import annotations

import psycopg
import pytest

from schemas.change_batch_codec import decode_batch
from tests.support.fixtures import SharedRig
from tests.support.rig import Rig
from tests.support.topics import read_topic
from tests.support.writing import commit_each

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TABLES = (
    "CREATE TABLE toast (id int PRIMARY KEY, small int, big text, other text)",
    "ALTER TABLE toast ALTER big SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL",
    "CREATE TABLE toasted_key (id text PRIMARY KEY, small int, filler text)",
    "ALTER TABLE toasted_key ALTER id SET STORAGE EXTERNAL, ALTER filler SET STORAGE PLAIN",
    "CREATE TABLE moved (id int PRIMARY KEY, label text, big text)",
    "ALTER TABLE moved ALTER big SET STORAGE EXTERNAL",
    "CREATE TABLE full_keyed (id int PRIMARY KEY, value text, big text)",
    "ALTER TABLE full_keyed REPLICA IDENTITY FULL",
    "CREATE TABLE full_keyless (a int, b text, c numeric)",
    "ALTER TABLE full_keyless REPLICA IDENTITY FULL",
    "CREATE TABLE by_index (id int NOT NULL, code text NOT NULL UNIQUE, value int)",
    "ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key",
    "CREATE TABLE keyless (a int, b text)",
    "CREATE TABLE parent (id int PRIMARY KEY, name text)",
    "CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent, note text)",
    "CREATE TABLE seat (id int PRIMARY KEY, place int UNIQUE, version int NOT NULL DEFAULT 0)",
    "CREATE TABLE noted (id int PRIMARY KEY)",
    "CREATE TABLE always (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, value int)",
    "ALTER TABLE always ADD number int GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE always ADD doubled int GENERATED ALWAYS AS (value * 2) STORED",
    "CREATE TABLE parts (region text, id int, value int, PRIMARY KEY (region, id)) PARTITION BY LIST (region)",
    "CREATE TABLE parts_north PARTITION OF parts FOR VALUES IN ('north')",
    "CREATE TABLE parts_south PARTITION OF parts FOR VALUES IN ('south')",
    "CREATE TABLE loose_parts (region text, value int) PARTITION BY LIST (region)",
    "CREATE TABLE loose_parts_north PARTITION OF loose_parts FOR VALUES IN ('north')",
    "CREATE TABLE loose_parts_south PARTITION OF loose_parts FOR VALUES IN ('south')",
    "ALTER TABLE loose_parts REPLICA IDENTITY FULL",
    "ALTER TABLE loose_parts_north REPLICA IDENTITY FULL",
    "ALTER TABLE loose_parts_south REPLICA IDENTITY FULL",
    'CREATE SCHEMA "Odd ""names"""',
    'CREATE TABLE "Odd ""names"""."select" ("order" int PRIMARY KEY, "a.b %s" text, "Ünï" text)',
)
# Few rows take the row-by-row way, many the set-based one.
FEW, MANY = 3, 200
BIG = "repeat(md5(n::text), 300)"  # 9.6 kB, out of line


@pytest.fixture(scope="module")
def rig(shared_rig: SharedRig) -> Rig:
    rig = shared_rig(*TABLES, source={"tables": ["*.*"]})
    rig.start()
    rig.wait_until_applied()  # what is done before the slot is there is in no log, whichever test comes first
    return rig


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_columns_out_of_line_that_did_not_change(rig: Rig, rows: int) -> None:
    first = rows * 1000
    among = f"WHERE id BETWEEN {first + 1} AND {first + rows}"
    rig.source(f"INSERT INTO toast SELECT {first} + n, n, {BIG}, {BIG} FROM generate_series(1, {rows}) n")
    commit_each(
        rig,
        f"UPDATE toast SET small = small + 1 {among}",
        f"UPDATE toast SET small = small + 1, other = 'x' || other {among}",
        f"UPDATE toast SET big = NULL {among} AND id % 3 = 0",
        f"UPDATE toast SET big = 'short' {among} AND id % 3 = 1",
    )
    rig.source(
        f"UPDATE toast SET small = -small {among}",
        f"UPDATE toast SET big = {BIG.replace('n::text', 'id::text')} {among} AND id % 3 = 1",
        f"DELETE FROM toast {among} AND id % 7 = 0",
    )
    rig.wait_until_equal("toast")


def test_a_key_out_of_line(rig: Rig) -> None:
    key = "(SELECT string_agg(md5((n * 100 + k)::text), '') FROM generate_series(1, 60) k)"
    rig.source(f"INSERT INTO toasted_key SELECT {key}, n, repeat('x', 1500) FROM generate_series(1, 5) n")
    commit_each(
        rig, "UPDATE toasted_key SET small = small + 10", "UPDATE toasted_key SET id = 'short' WHERE small = 11"
    )
    rig.source("UPDATE toasted_key SET small = 99 WHERE small = 12", "DELETE FROM toasted_key WHERE small = 13")
    rig.wait_until_equal("toasted_key")


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_keys_that_move_swap_and_chain(rig: Rig, rows: int) -> None:
    first = rows * 1000
    low, high = first + 1, first + rows
    among = f"WHERE id BETWEEN {low} AND {high}"
    rig.source(f"INSERT INTO moved SELECT {first} + n, 'row ' || n, {BIG} FROM generate_series(1, {rows}) n")
    # Two rows change places, through a key that no row keeps.
    swap = [f"UPDATE moved SET id = {new} WHERE id = {old}" for old, new in ((low, -1), (high, low), (-1, high))]
    rig.source(*swap)
    commit_each(rig, *swap)
    # All rows move up by one, the last first; then back, in transactions of their own.
    rig.source(*(f"UPDATE moved SET id = {n + 1}, label = label || '+' WHERE id = {n}" for n in range(high, first, -1)))
    commit_each(rig, *(f"UPDATE moved SET id = {n - 1} WHERE id = {n}" for n in range(low + 1, high + 2)))
    # A key is left, taken by another row, and the first comes back elsewhere.
    rig.source(
        f"DELETE FROM moved WHERE id = {low}",
        f"UPDATE moved SET id = {low} WHERE id = {high}",
        f"INSERT INTO moved VALUES ({high}, 'again', 'x')",
        f"UPDATE moved SET label = 'last' {among} AND id % 2 = 0",
    )
    rig.wait_until_equal("moved")


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_full_identity_with_a_key(rig: Rig, rows: int) -> None:
    first = rows * 1000
    rig.source(f"INSERT INTO full_keyed SELECT {first} + n, 'v' || n, {BIG} FROM generate_series(1, {rows}) n")
    commit_each(
        rig,
        f"UPDATE full_keyed SET value = value || '!' WHERE id > {first} AND id <= {first + rows}",
        f"UPDATE full_keyed SET id = -id WHERE id = {first + 1}",
        f"DELETE FROM full_keyed WHERE id = {first + 2}",
    )
    rig.wait_until_equal("full_keyed")


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_full_identity_without_a_key_counts_equal_rows(rig: Rig, rows: int) -> None:
    value = f"'{rows}'"
    rig.source(f"INSERT INTO full_keyless SELECT n % 5, {value}, NULLIF(n % 3, 0) FROM generate_series(1, {rows}) n")
    rig.source(f"INSERT INTO full_keyless SELECT n % 5, {value}, NULLIF(n % 3, 0) FROM generate_series(1, {rows}) n")
    one = f"ctid = (SELECT min(ctid) FROM full_keyless WHERE b = {value} AND a = 1)"
    commit_each(rig, f"DELETE FROM full_keyless WHERE {one}", f"UPDATE full_keyless SET a = 77, c = NULL WHERE {one}")
    rig.source(f"UPDATE full_keyless SET c = coalesce(c, 0) + 0.50 WHERE b = {value} AND a = 2")
    rig.wait_until_equal("full_keyless")


def test_an_index_as_identity(rig: Rig) -> None:
    rig.source("INSERT INTO by_index SELECT n, 'code ' || n, n FROM generate_series(1, 100) n")
    rig.source("UPDATE by_index SET value = value + 1", "UPDATE by_index SET code = 'new' WHERE id = 7")
    commit_each(rig, "DELETE FROM by_index WHERE id > 90", "UPDATE by_index SET id = id + 1000 WHERE id < 10")
    rig.wait_until_equal("by_index")


def test_tables_without_any_key_take_inserts(rig: Rig) -> None:
    rig.source("INSERT INTO keyless SELECT n % 3, NULL FROM generate_series(1, 500) n")
    commit_each(rig, *("INSERT INTO keyless VALUES (1, 'one')" for _ in range(50)))
    rig.source("INSERT INTO keyless VALUES (9, 'rolled back')", "ROLLBACK")
    rig.source("TRUNCATE keyless", "INSERT INTO keyless SELECT n, 'new' FROM generate_series(1, 100) n")
    rig.wait_until_equal("keyless")


def test_two_tables_with_a_foreign_key_are_truncated_together(rig: Rig) -> None:
    rig.source("INSERT INTO parent SELECT n, 'p' FROM generate_series(1, 100) n")
    rig.source("INSERT INTO child SELECT n, 1 + n % 100, 'c' FROM generate_series(1, 300) n")
    commit_each(
        rig, "UPDATE child SET note = 'x' WHERE id = 1", "TRUNCATE parent, child", "INSERT INTO parent VALUES (5)"
    )
    rig.source(
        "INSERT INTO child VALUES (1, 5)",
        "TRUNCATE child, parent RESTART IDENTITY",
        "INSERT INTO parent VALUES (6), (7)",
        "INSERT INTO child VALUES (2, 6)",
        "TRUNCATE parent CASCADE",
        "INSERT INTO parent VALUES (8)",
    )
    commit_each(rig, "INSERT INTO child VALUES (3, 8)", "TRUNCATE child")
    rig.wait_until_equal("parent", "child")


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_unique_values_change_rows_in_one_transaction(rig: Rig, rows: int) -> None:
    first = rows * 1000
    rig.source(f"INSERT INTO seat SELECT {first} + n, {first} + n FROM generate_series(1, {rows}) n")
    # Everybody moves to the next seat, the last to the first: by way of negative numbers.
    among = f"WHERE id > {first} AND id <= {first + rows}"
    rig.source(
        f"UPDATE seat SET place = -place {among}",
        f"UPDATE seat SET place = {first} + 1 + (-place - {first}) % {rows}, version = version + 1 {among}",
    )
    # A row goes and another takes its seat.
    rig.source(
        f"DELETE FROM seat WHERE id = {first + 1}",
        f"INSERT INTO seat SELECT -{first + 1}, n FROM generate_series({first + 1}, {first + rows}) n"
        f" WHERE NOT EXISTS (SELECT FROM seat WHERE place = n)",
    )
    rig.wait_until_equal("seat")


def test_logical_messages_travel_and_hold_nothing_up(rig: Rig) -> None:
    rig.source("SELECT pg_logical_emit_message(true, 'alone', 'no rows beside it')")
    rig.source(
        "INSERT INTO noted VALUES (1)",
        "SELECT pg_logical_emit_message(true, 'between', convert_to('žluť', 'UTF8'))",
        "INSERT INTO noted VALUES (2)",
        "SELECT pg_logical_emit_message(false, 'outside', 'any transaction')",
    )
    rig.wait_until_equal("noted")
    batches = [decode_batch(record) for record in read_topic(rig.settings, "changes")]
    messages = {message.prefix: message.content for batch in batches for message in batch.messages}
    assert messages["alone"] == b"no rows beside it"
    assert messages["between"].decode() == "žluť"
    assert "outside" not in messages


def test_transactions_from_another_origin_are_replicated_too(rig: Rig) -> None:
    name = f"origin_{rig.stream}"
    with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
        conn.execute("SELECT pg_replication_origin_create(%s)", [name])
        conn.execute("SELECT pg_replication_origin_session_setup(%s)", [name])
        with conn.transaction():
            conn.execute("SELECT pg_replication_origin_xact_setup('0/1234', now())")
            conn.execute("INSERT INTO noted SELECT n FROM generate_series(100, 300) n")
        conn.execute("SELECT pg_replication_origin_session_reset()")
        conn.execute("SELECT pg_replication_origin_drop(%s)", [name])
    rig.wait_until_equal("noted")


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_columns_that_an_update_cannot_set(rig: Rig, rows: int) -> None:
    rig.source(f"INSERT INTO always (value) SELECT n FROM generate_series(1, {rows}) n")
    rig.source("UPDATE always SET value = value + 1")
    commit_each(rig, "UPDATE always SET value = NULL WHERE id % 2 = 0", "DELETE FROM always WHERE id % 5 = 0")
    rig.wait_until_equal("always")
    assert rig.target_rows("SELECT count(*) FROM always WHERE doubled IS DISTINCT FROM value * 2") == [(0,)]


def test_partitioned_tables(rig: Rig) -> None:
    both = "(VALUES ('north'), ('south')) r (name), generate_series(1, 100) n"
    rig.source(
        f"INSERT INTO parts SELECT r.name, n, n FROM {both}", f"INSERT INTO loose_parts SELECT r.name, n FROM {both}"
    )
    rig.source(
        "UPDATE parts SET value = value + 1 WHERE region = 'north'",
        "UPDATE parts SET region = 'south', id = id + 1000 WHERE region = 'north' AND id < 10",
        "DELETE FROM parts WHERE region = 'south' AND id BETWEEN 50 AND 60",
    )
    # Rows of two partitions have the same place in their files.
    commit_each(rig, "UPDATE loose_parts SET value = -value WHERE region = 'south' AND value < 20",
                "DELETE FROM loose_parts WHERE region = 'north' AND value = 1")  # fmt: skip
    rig.wait_until_equal("parts", "loose_parts")


def test_names_that_need_quotes(rig: Rig) -> None:
    table = '"Odd ""names"""."select"'
    rig.source(f"INSERT INTO {table} SELECT n, '%s {{}} ''' || n, NULL FROM generate_series(1, 100) n")
    rig.source(f'UPDATE {table} SET "a.b %s" = "a.b %s" || \'"\', "Ünï" = \'$1\' WHERE "order" > 50')
    commit_each(rig, f'DELETE FROM {table} WHERE "order" = 5', f'UPDATE {table} SET "order" = -1 WHERE "order" = 6')
    rig.wait_until_equal('Odd "names".select')


def test_an_idle_stream_lets_the_source_forget_the_log_of_others(rig: Rig) -> None:
    rig.wait_until_applied()
    with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE not_replicated AS SELECT n FROM generate_series(1, 50000) n")
        row = conn.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert row is not None
    confirmed = (
        f"SELECT confirmed_flush_lsn >= '{row[0]}' FROM pg_replication_slots WHERE slot_name = 'headrace_{rig.stream}'"
    )
    rig.until(lambda: rig.source_rows(confirmed) == [(True,)], "the slot is confirmed past what others wrote")

"""Values of many types arrive as they were: by snapshot and live, row by row and set-based, binary and as text."""

from __future__ import annotations

import psycopg
import pytest

from schemas.change_batch_codec import decode_batch
from tests.support.fixtures import SharedRig
from tests.support.rig import Rig
from tests.support.topics import read_topic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

USER_TYPES = (
    "CREATE SCHEMA kinds",
    "CREATE TYPE kinds.mood AS ENUM ('sad', 'so so', 'it''s \"happy\"')",
    "CREATE DOMAIN kinds.positive AS numeric(12, 3) CHECK (VALUE > 0)",
    "CREATE DOMAIN kinds.code AS varchar(8) NOT NULL DEFAULT 'none'",
    "CREATE TYPE kinds.pair AS (a int, b text, c numeric[])",
    "CREATE TYPE kinds.text_range AS RANGE (subtype = text)",
    'CREATE TYPE "kinds"."Odd.name" AS ENUM (\'x\')',
    'CREATE SCHEMA "odd.""kinds"',
    'CREATE TYPE "odd.""kinds"."m.ood" AS ENUM (\'x\', \'y\')',
    "CREATE EXTENSION hstore",
    "CREATE EXTENSION citext",
    "CREATE EXTENSION ltree",
    "CREATE EXTENSION seg",  # a type that has no binary form
    "CREATE EXTENSION cube",
)
TEXTS = ["''", "'a'", "'ž 漢字 🚰 \u200b'", "E'line\\nbreak\\ttab \\\\ \\''", "repeat('y', 70000)", "'%s $1 {} \"'"]
VALUES: dict[str, list[str]] = {
    "bool": ["true", "false"],
    "int2": ["0", "-32768", "32767"],
    "int4": ["0", "-2147483648", "2147483647"],
    "int8": ["0", "-9223372036854775808", "9223372036854775807"],
    "numeric": ["0", "'NaN'", "'Infinity'", "'-Infinity'", "1e-50", "-1.2300", "12345678901234567890123456789.0001"],
    "numeric(20, 4)": ["0", "-1.2345", "9999999999999999.9999"],
    "float4": ["0", "'-0'", "'NaN'", "'Infinity'", "1e-40", "3.4028235e38", "0.1"],
    "float8": ["0", "'-0'", "'NaN'", "'-Infinity'", "5e-324", "1.7976931348623157e308", "0.1"],
    "text": TEXTS,
    "varchar": TEXTS,
    "varchar(5)": ["''", "'漢字   '", "'a'"],
    "char(5)": ["''", "'a'", "'žžžžž'"],
    '"char"': ["'x'", "''"],
    "name": ["'name'"],
    "bytea": ["''", "'\\x00ff10'", "decode(repeat('ab', 40000), 'hex')"],
    "date": ["'2026-11-24'", "'0001-01-01 BC'", "'4713-01-01 BC'", "'5874897-12-31'", "'infinity'", "'-infinity'"],
    "time": ["'00:00'", "'23:59:59.999999'", "'24:00'"],
    "time(3)": ["'12:34:56.789'"],
    "timetz": ["'12:00:00.5+05:45'", "'00:00-15:59'"],
    "timestamp": ["'2026-11-24 12:00:00.000001'", "'0044-03-15 12:00 BC'", "'infinity'", "'294276-12-31'"],
    "timestamptz": ["'2026-11-24 12:00:00.000001+14'", "'0044-03-15 12:00+00 BC'", "'-infinity'"],
    "interval": ["'0'", "'-1 year 2 mons -3 days +04:05:06.7'", "'178000000 years'", "'infinity'"],
    "interval day to second (2)": ["'3 days 04:05:06.78'"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
    "json": ['\'{"b": 1,  "a": [1.0, null, "\\u017e"], "b": 2}\'', "'null'", "'\"\"'"],
    "jsonb": ['\'{"b": 1, "a": [1.0, null, "\\u017e"]}\'', "'null'", "'[]'", "to_jsonb(repeat('z', 70000))"],
    "jsonpath": ["'$.a[*] ? (@ > 3)'"],
    "inet": ["'192.168.0.1'", "'10.1.2.3/8'", "'2001:db8::1/64'"],
    "cidr": ["'10.0.0.0/8'", "'2001:db8::/32'"],
    "macaddr": ["'08:00:2b:01:02:03'"],
    "macaddr8": ["'08:00:2b:01:02:03:04:05'"],
    "bit(3)": ["B'101'"],
    "bit": ["B'1'"],
    "varbit": ["B''", "B'1010101010101'"],
    "money": ["'0'", "'-12.34'", "92233720368547758.07"],
    "tsvector": ["''", "'fat:1A,3 cat:2 ''odd word'':4'"],
    "tsquery": ["'fat & (cat | !rat:AB)'"],
    "point": ["'(1.5,-2)'", "'(NaN,Infinity)'"],
    "line": ["'{1,2,3}'"],
    "lseg": ["'[(0,0),(1,1)]'"],
    "box": ["'(1,1),(0,0)'"],
    "path": ["'((0,0),(1,1),(2,0))'", "'[(0,0),(1,1)]'"],
    "polygon": ["'((0,0),(1,1),(2,0))'"],
    "circle": ["'<(1,2),3>'"],
    "pg_lsn": ["'16/B374D848'"],
    "pg_snapshot": ["'10:20:10,14,15'"],
    "xid8": ["'18446744073709551615'"],
    "tid": ["'(42,7)'"],
    "oid": ["4294967295"],
    "int4[]": ["'{}'", "'{1,NULL,-3}'", "'{{1,2},{3,4}}'", "'[0:1]={5,6}'"],
    "text[]": ["'{}'", "ARRAY['', NULL, 'NULL', '\"', '\\', ',', 'ž']"],
    "numeric[]": ["'{NaN,1.10,NULL}'"],
    "timestamptz[]": ["'{infinity,2026-01-01 00:00:00+00}'"],
    "bytea[]": ["ARRAY['\\x00'::bytea, NULL]"],
    "jsonb[]": ["ARRAY['{\"a\": 1}'::jsonb]"],
    "int4range": ["'empty'", "'[1,5)'", "'(,)'", "'[3,)'"],
    "numrange": ["'(1.50,2.5]'"],
    "tstzrange": ["'[2026-01-01 00:00+00,infinity)'"],
    "daterange[]": ["'{\"[2026-01-01,2026-02-01)\",empty}'"],
    "int8multirange": ["'{}'", "'{[1,3),[7,)}'"],
    "datemultirange": ["'{[2026-01-01,2026-02-01)}'"],
    "kinds.mood": ["'sad'", "'it''s \"happy\"'"],
    "kinds.positive": ["0.001", "123456789"],
    "kinds.pair": ["ROW(1, 'x', NULL)", "ROW(NULL, '', '{1.0,NULL}')"],
    "kinds.text_range": ["'[a,b)'", "'empty'"],
    'kinds."Odd.name"': ["'x'"],
    '"odd.""kinds"."m.ood"': ["'x'", "'y'"],
    "hstore": ['\'a=>1, b=>NULL, ""=>""\''],
    "citext": ["'CaSe'"],
    "ltree": ["'Top.Science'"],
    "seg": ["'~6.5'", "'1.0 .. 2.50'"],
    "cube": ["'(1,2),(3,4.5)'"],
    "aclitem": ["'=r/postgres'"],
}
# Binary forms that name types by the numbers of one server, or have parts without a binary form.
LOCAL_VALUES: dict[str, list[str]] = {
    "kinds.mood[]": ["'{sad,NULL,\"so so\"}'", "'{}'"],
    '"odd.""kinds"."m.ood"[]': ["'{x,NULL,y}'"],
    "kinds.positive[]": ["'{0.001,5}'"],
    "kinds.pair[]": ["ARRAY[ROW(1, 'x', '{1}')::kinds.pair, NULL]"],
    "kinds.nested": ["ROW('sad', ROW(1, '\"', '{NULL}'), '2026-01-01')"],
    "kinds.text_range[]": ["'{\"[a,b)\"}'"],
    "kinds.moods": ["'{sad,sad}'"],
    "regclass": ["'kinds.marked'::regclass"],
    "regtype[]": ["ARRAY['kinds.mood'::regtype, 'int4'::regtype]"],
    "regprocedure": ["'pg_catalog.lower(text)'::regprocedure"],
    "aclitem[]": ["'{=r/postgres}'"],
    "hstore[]": ["ARRAY['a=>1'::hstore]"],
}
LOCAL_TYPES = (
    "CREATE TYPE kinds.nested AS (m kinds.mood, p kinds.pair, d date)",
    "CREATE DOMAIN kinds.moods AS kinds.mood[]",
    "CREATE TABLE kinds.marked (id int)",
)
ROWS = 150  # of each statement that shall take the set-based way; 64 and fewer go row by row


def create(values: dict[str, list[str]]) -> str:
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(values))
    return f"CREATE TABLE kinds.every (id int PRIMARY KEY, code kinds.code, {columns})"


def inserts(values: dict[str, list[str]], first: int) -> list[str]:
    """INSERTs of rows that among them hold every value, and one of NULLs."""
    deepest = max(map(len, values.values()))
    rows = []
    for depth in range(deepest):
        chosen = [f"({choices[depth % len(choices)]})::{kind}" for kind, choices in values.items()]
        rows.append(f"INSERT INTO kinds.every VALUES ({first + depth}, 'c{depth}', {', '.join(chosen)})")
    return [*rows, f"INSERT INTO kinds.every (id) VALUES ({first + deepest})"]


def exercise(rig: Rig, values: dict[str, list[str]]) -> None:
    """The same values by snapshot, by single rows and by many, as inserts, updates and deletes."""
    rig.source(*inserts(values, 0))
    rig.start()
    rig.wait_until_equal()
    rig.source(*inserts(values, 100))
    rig.wait_until_equal()
    columns = ", ".join(f"c{n}" for n in range(len(values)))
    rig.source(
        "INSERT INTO kinds.every SELECT 1000 + n, 'many', "
        f"{columns} FROM generate_series(1, {ROWS}) n JOIN kinds.every e ON e.id = 100 + n % 8"
    )
    rig.wait_until_equal()
    shifted = ", ".join(f"c{n} = o.c{n}" for n in range(len(values)))
    rig.source(
        f"UPDATE kinds.every e SET {shifted} FROM kinds.every o WHERE o.id = 100 + (e.id + 3) % 8 AND e.id > 1000"
    )
    rig.wait_until_equal()
    rig.source("UPDATE kinds.every SET code = 'new' WHERE id > 1000 AND id < 1020")
    rig.source(f"UPDATE kinds.every e SET {shifted} FROM kinds.every o WHERE o.id = 101 AND e.id BETWEEN 1000 AND 1005")
    rig.source("DELETE FROM kinds.every WHERE id > 1010")
    rig.wait_until_equal()


def shift_type_numbers(rig: Rig) -> None:
    """Make sure that types have other numbers on the target than on the source."""
    with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
        for n in range(5):
            conn.execute(f"CREATE TYPE dummy_{n} AS ENUM ()".encode())


def test_values_of_every_type_in_binary(shared_rig: SharedRig) -> None:
    rig = shared_rig(source={"tables": ["kinds.*"]})
    shift_type_numbers(rig)
    rig.both(*USER_TYPES, create(VALUES))
    exercise(rig, VALUES)
    batches = [decode_batch(record) for record in read_topic(rig.settings, "changes")]
    columns = [column for batch in batches for section in batch.sections for column in section.relation.columns]
    assert {column.type for column in columns if not column.binary} == {"aclitem", "public.seg"}, (
        "the only types without a binary form"
    )


def test_values_of_types_that_bind_to_one_server(shared_rig: SharedRig) -> None:
    rig = shared_rig(source={"tables": ["kinds.every"]})
    shift_type_numbers(rig)
    values = {**VALUES, **LOCAL_VALUES}
    # Formats of text are the session's affair: what the databases are set to must not matter.
    for dsn, styles in ((rig.source_dsn, "German sql_standard"), (rig.target_dsn, "Postgres,DMY iso_8601")):
        with psycopg.connect(dsn, autocommit=True) as conn:
            date, interval = styles.split()
            conn.execute(f"ALTER DATABASE {conn.info.dbname} SET DateStyle = '{date}'".encode())
            conn.execute(f"ALTER DATABASE {conn.info.dbname} SET IntervalStyle = '{interval}'".encode())
            conn.execute(f"ALTER DATABASE {conn.info.dbname} SET TimeZone = 'Asia/Kathmandu'".encode())
            conn.execute(f"ALTER DATABASE {conn.info.dbname} SET extra_float_digits = -5".encode())
    rig.both(*USER_TYPES, *LOCAL_TYPES, create(values))
    exercise(rig, values)
    assert "rows are read as text, since the binary form of kinds.every." in rig.log("capture")


def test_source_and_target_columns_may_differ(shared_rig: SharedRig) -> None:
    rig = shared_rig()
    with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
        conn.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
        conn.execute(
            "CREATE TABLE t (id int PRIMARY KEY, a int, b varchar(10), c mood, d numeric, e timestamp, f json)"
        )
    with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
        # Other order, wider types, more columns.
        conn.execute("CREATE TABLE t (more text DEFAULT 'm', f jsonb, e date, d float8, c text, b text, a int8,"
                     " id int8 PRIMARY KEY)")  # fmt: skip
    fill = "SELECT n, -n, 'b' || n, CASE WHEN n % 2 = 0 THEN 'sad'::mood END, n / 4.0, '2026-01-01', '{\"a\": 1}'"
    rig.source(f"INSERT INTO t {fill} FROM generate_series(1, 200) n")
    rig.start()
    rig.wait_until_applied()
    rig.source(
        f"INSERT INTO t {fill} FROM generate_series(201, 203) n", "UPDATE t SET a = 7, c = 'happy' WHERE id > 190"
    )
    rig.source(f"INSERT INTO t {fill} FROM generate_series(301, 500) n", "UPDATE t SET d = d + 1 WHERE id > 300")
    rig.source("DELETE FROM t WHERE id IN (5, 6, 7)", "UPDATE t SET id = -id WHERE id > 490")
    rig.wait_until_applied()
    columns = "id::text, a::text, b, c::text, d::float8, e::date, f::text"
    assert rig.target_rows(f"SELECT {columns}, more FROM t ORDER BY id") == [
        (*row, "m") for row in rig.source_rows(f"SELECT {columns} FROM t ORDER BY id")
    ]

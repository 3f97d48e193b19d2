"""Tables under other names, columns left out or hashed, tables created on an empty target."""

from __future__ import annotations

import hashlib
import hmac

import psycopg
import pytest

from tests.support.fixtures import MakeRig
from tests.support.rig import EX_OPERATOR
from tests.support.topics import read_topic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SECRET = "correct horse battery staple"
TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'it''s \"fine\"')",
    "CREATE DOMAIN code AS varchar(8) NOT NULL",
    "CREATE TYPE place AS (street text, moods mood[])",
)
TABLES = (
    """CREATE TABLE customer (
        id serial PRIMARY KEY, email varchar(80) UNIQUE, password text, born date, m mood DEFAULT 'sad', c code,
        p place, doubled int GENERATED ALWAYS AS (2 * 21) STORED
    )""",
    """CREATE TABLE "Order" (
        "no" bigint GENERATED ALWAYS AS IDENTITY, customer int NOT NULL REFERENCES customer ON DELETE CASCADE,
        before bigint, amount numeric(12,2) CHECK (amount > 0), "a.b" text[], PRIMARY KEY ("no", customer),
        UNIQUE ("no"), UNIQUE (before, amount) DEFERRABLE INITIALLY DEFERRED,
        FOREIGN KEY (before) REFERENCES "Order" ("no")
    )""",
    "CREATE TABLE login (email text PRIMARY KEY, times int NOT NULL)",
    "CREATE SCHEMA other",
    "CREATE TABLE other.note (id int PRIMARY KEY, text text)",
    "CREATE TABLE secret_thing (id int PRIMARY KEY)",
    "CREATE TABLE visit (page int, password text); ALTER TABLE visit REPLICA IDENTITY FULL",
)
MAPPING = {
    "rename": {"public": "shop", "public.customer": "crm.Person"},
    "exclude_columns": ["*.pass*"],
    "hash_columns": ["*.email", "public.customer.born"],
}


def hashed(text: str) -> str:
    return hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()


def test_an_empty_target_under_other_names(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HASH_SECRET", SECRET)
    rig = make_rig(
        source={"tables": ["public.*", "other.note"], "exclude": ["*.secret*"]},
        target={"create_tables": "missing"}, stream={"mapping": MAPPING},
    )  # fmt: skip
    with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
        for statement in (*TYPES, *TABLES):
            conn.execute(statement.encode())
    customers = (
        "INSERT INTO customer (email, password, born, c, p) SELECT 'user' || n || '@x', 'plain',"
        " '2000-01-01'::date + n, 'c' || n, ROW('street ' || n, '{{sad,NULL}}')::place FROM generate_series({}, {}) n"
    )
    rig.source(customers.format(1, 100), "INSERT INTO login SELECT 'user' || n || '@x', n FROM generate_series(1, 9) n")
    rig.start()
    rig.wait_until_equal()
    rig.source(
        customers.format(101, 300),
        'INSERT INTO "Order" (customer, amount, "a.b") SELECT n, n, ARRAY[n::text] FROM generate_series(1, 200) n',
        "INSERT INTO other.note VALUES (1, 'x')",
        "INSERT INTO visit SELECT n % 9, 'plain' FROM generate_series(1, 90) n",
    )
    rig.source("UPDATE customer SET email = NULL, born = born + 1 WHERE id < 120", 'UPDATE "Order" SET before = 1',
               "UPDATE login SET times = 0, email = upper(email) WHERE times > 5", "DELETE FROM login WHERE times = 1",
               "DELETE FROM customer WHERE id = 250", "UPDATE customer SET password = 'other'",
               "UPDATE visit SET page = 100 WHERE page = 1", "DELETE FROM visit WHERE page = 2")  # fmt: skip
    rig.wait_until_equal()
    assert rig.target_rows('SELECT email, born FROM crm."Person" WHERE id = 130') == [
        (hashed("user130@x"), hashed("2000-05-10"))
    ]
    assert rig.target_rows("SELECT times FROM shop.login WHERE email = %r" % hashed("USER7@X")) == [(0,)]  # noqa: UP031
    rig.target_rows('SELECT 1 FROM other.note, shop."Order" WHERE "a.b" IS NULL')
    # What was created: keys, foreign keys, identities, and nothing of what was excluded.
    constraints = "SELECT contype::text, count(*) FROM pg_constraint WHERE connamespace::regnamespace::text IN ({})"
    ours = constraints.format("'shop', 'crm', 'other'") + " AND contype IN ('p', 'u', 'f') GROUP BY 1 ORDER BY 1"
    assert rig.target_rows(ours) == [("f", 2), ("p", 4), ("u", 3)]
    assert rig.target_rows("SELECT to_regclass('shop.secret_thing'), to_regclass('public.login')") == [(None, None)]
    columns = rig.target_rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'crm.\"Person\"'::regclass AND attnum > 0"
    )
    assert [name for (name,) in columns] == ["id", "email", "born", "m", "c", "p"]
    # The difference that a hash does not hide.
    with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
        conn.execute('UPDATE crm."Person" SET born = NULL WHERE id = 130')
    assert [check.differences for check in rig.compare("customer")] == [2]
    # Neither Kafka nor a log has seen what is personal.
    records = b"".join(read_topic(rig.settings, "changes"))
    logs = "".join(rig.log(name) for name in rig.roles)
    assert hashed("user130@x").encode() in records
    for private in ("user130@x", "plain", SECRET):
        assert private.encode() not in records
        assert private not in logs


def test_a_type_that_can_not_be_created_is_named(make_rig: MakeRig) -> None:
    rig = make_rig(target={"create_tables": "missing"})
    with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION citext")
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, name citext)")
    rig.start()
    assert rig.wait_for_end("capture") == EX_OPERATOR
    assert "table public.t needs type public.citext" in rig.log("capture")
    with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION citext")
    rig.source("INSERT INTO t VALUES (1, 'A')")
    rig.start()
    rig.wait_until_equal()

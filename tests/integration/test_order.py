"""What the target's readers may see, and what it may enforce: source order, foreign keys, large transactions."""

from __future__ import annotations

import random
import threading

import psycopg
import pytest

from tests.support.fixtures import MakeRig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

READ_EVERY_S = 0.01


def test_in_commit_order_every_target_state_is_a_source_state(make_rig: MakeRig) -> None:
    rig = make_rig(target={"order": "commit", "merge_transactions_max": 7})
    rig.both("CREATE TABLE counter (id int PRIMARY KEY, value int NOT NULL)")
    rig.source("INSERT INTO counter VALUES (0, 0), (1, 0), (2, 0)")
    rig.start()
    rig.wait_until_equal()
    # Transaction n sets counter n % 3 to n. So the three values of any source state are n-2, n-1, n, in places
    # that n tells: transactions that share no row must not overtake each other.
    wrong: list[object] = []
    seen: set[int] = set()
    stopping = threading.Event()

    def read() -> None:
        with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
            while not stopping.wait(READ_EVERY_S):
                values = [value for (value,) in conn.execute("SELECT value FROM counter ORDER BY id")]
                newest = max(values)
                seen.add(newest)
                if values != [max(0, n) for n in sorted(range(newest - 2, newest + 1), key=lambda n: n % 3)]:
                    wrong.append(values)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
            for n in range(1, 2001):
                conn.execute("UPDATE counter SET value = %s WHERE id = %s", [n, n % 3])
        rig.wait_until_equal()
    finally:
        stopping.set()
        reader.join()
    assert not wrong, wrong[:5]
    assert len(seen) > 3, "the reader has seen too few states to prove anything"
    assert rig.target_rows("SELECT lane FROM headrace.lane WHERE seq > 0") == [(0,)]


ENFORCED = (
    "CREATE TABLE customer (id int PRIMARY KEY, email text UNIQUE)",
    "CREATE TABLE purchase (id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customer ON DELETE CASCADE)",
    "CREATE TABLE item (purchase_id int REFERENCES purchase ON DELETE CASCADE, line int, email text)",
    "ALTER TABLE item ADD PRIMARY KEY (purchase_id, line)",
    "ALTER TABLE item ADD FOREIGN KEY (email) REFERENCES customer (email) ON UPDATE CASCADE ON DELETE SET NULL",
    "CREATE TABLE employee (id int PRIMARY KEY, boss int REFERENCES employee)",
    "CREATE TABLE husband (id int PRIMARY KEY, wife int)",
    "CREATE TABLE wife (id int PRIMARY KEY, husband int REFERENCES husband DEFERRABLE INITIALLY DEFERRED)",
    "ALTER TABLE husband ADD FOREIGN KEY (wife) REFERENCES wife DEFERRABLE INITIALLY DEFERRED",
)
CUSTOMERS = 40


def random_purchases(conn: psycopg.Connection[tuple[object, ...]], steps: int, seed: int) -> None:
    """Parents and children that come and go, in small transactions."""
    dice = random.Random(seed)
    for step in range(steps):
        customer, purchase = dice.randint(1, CUSTOMERS), seed * 100_000 + step
        with conn.transaction():
            kind = dice.random()
            if kind < 0.6:
                conn.execute("INSERT INTO customer VALUES (%s, %s) ON CONFLICT DO NOTHING", [customer, f"{customer}@x"])
                conn.execute("INSERT INTO purchase VALUES (%s, %s)", [purchase, customer])
                if dice.random() < 0.5:
                    conn.execute(
                        "INSERT INTO item SELECT %s, n, (SELECT email FROM customer WHERE id = %s)"
                        " FROM generate_series(1, 3) n", [purchase, customer],
                    )  # fmt: skip
            elif kind < 0.75:
                conn.execute("DELETE FROM customer WHERE id = %s", [customer])
            elif kind < 0.9:
                conn.execute("UPDATE customer SET email = %s WHERE id = %s", [f"{customer}@{step}", customer])
            else:
                conn.execute("DELETE FROM item WHERE purchase_id IN (SELECT id FROM purchase WHERE customer_id = %s)",
                             [customer])  # fmt: skip


def test_foreign_keys_that_the_target_enforces(make_rig: MakeRig) -> None:
    rig = make_rig(target={"session_replication_role": "origin"})
    rig.both(*ENFORCED)
    rig.source(
        f"INSERT INTO customer SELECT n, n || '@x' FROM generate_series(1, {CUSTOMERS}) n",
        f"INSERT INTO purchase SELECT n, 1 + n % {CUSTOMERS} FROM generate_series(1, 3000) n",
        "INSERT INTO employee SELECT n, NULLIF(n / 3, 0) FROM generate_series(1, 300) n",
        "INSERT INTO husband SELECT n, n FROM generate_series(1, 50) n",
        "INSERT INTO wife SELECT n, n FROM generate_series(1, 50) n",
    )
    rig.start()
    rig.wait_until_equal()
    with psycopg.connect(rig.source_dsn) as conn:
        random_purchases(conn, 300, seed=1)
        # All of this in windows of their own size: what conflicts shows in different places.
        rig.pause("capture")
        random_purchases(conn, 300, seed=2)
        rig.resume("capture")
    rig.source("DELETE FROM customer WHERE id % 2 = 0")
    # One window: rows that are in each other's way one by one, and what can't be merged.
    rig.pause("capture")
    rig.source(
        "INSERT INTO employee SELECT n, NULLIF(n - 1, 999) FROM generate_series(1000, 1200) n",
        "UPDATE employee SET boss = NULL WHERE boss = 1",
        "DELETE FROM employee WHERE id = 1",
        "DELETE FROM employee WHERE id >= 1000",
    )
    rig.source("INSERT INTO husband VALUES (100, 100)", "INSERT INTO wife VALUES (100, 100)")
    rig.source("DELETE FROM husband WHERE id <= 20", "DELETE FROM wife WHERE id <= 20")
    rig.source(
        "TRUNCATE customer CASCADE", "INSERT INTO customer VALUES (1, 'last@x')", "INSERT INTO purchase VALUES (1, 1)"
    )
    rig.resume("capture")
    rig.wait_until_equal()


LARGE = 200_000


def test_a_large_transaction_among_small_ones(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.both(
        "CREATE TABLE large (id int PRIMARY KEY, value int NOT NULL, filler text)",
        "CREATE TABLE small (id int PRIMARY KEY, value int NOT NULL)",
    )
    rig.source("INSERT INTO small SELECT n, 0 FROM generate_series(1, 500) n", "INSERT INTO large VALUES (0, 0, '')")
    rig.start()
    rig.wait_until_equal()
    torn: list[int] = []
    stopping = threading.Event()

    def read() -> None:
        with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
            while not stopping.wait(READ_EVERY_S):
                row = conn.execute("SELECT count(*) FROM large").fetchone()
                if row is not None and row[0] not in (1, LARGE + 1):
                    torn.append(row[0])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
            for n in range(1, 200):
                conn.execute("UPDATE small SET value = value + 1 WHERE id = %s", [n])
            with conn.transaction():
                conn.execute("INSERT INTO large SELECT n, n, repeat('x', 40) FROM generate_series(1, %s) n", [LARGE])
                conn.execute("UPDATE large SET value = -value WHERE id %% 5 = 0 AND id < 10000", [])
                # Values of a unique key change places within the transaction.
                conn.execute("UPDATE large SET id = -1 WHERE id = 7")
                conn.execute("UPDATE large SET id = 7 WHERE id = 8")
                conn.execute("UPDATE large SET id = 8 WHERE id = -1")
            for n in range(1, 200):
                conn.execute("UPDATE small SET value = value + 1 WHERE id = %s", [n])
        writes = "SELECT FROM pg_locks WHERE relation = 'large'::regclass AND mode = 'RowExclusiveLock'"
        rig.until(lambda: rig.target_rows(writes), "the large transaction is being applied")
        rig.kill("apply")
        rig.wait_until_equal()
    finally:
        stopping.set()
        reader.join()
    assert not torn, torn[:5]

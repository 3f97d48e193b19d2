"""The demonstration's tables, the same on both sides, and the rows that exist before the start.

An order-taking application with foreign keys and one hot row, beside pgbench's TPC-B tables.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

CUSTOMERS = 1_000
PRODUCTS = 200
BRANCHES = 10  # each is a row that a tenth of all TPC-B transactions write
TELLERS = 100
ACCOUNTS = 10_000
HOT_COUNTER = "orders"

# pgbench's own pgbench_history has no key; a table without one conflicts with itself, so that all TPC-B
# transactions would wait for each other. With a key only a branch's transactions do.
TABLES = """
CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, orders int NOT NULL DEFAULT 0,
                        created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE products (id int PRIMARY KEY, sku text NOT NULL UNIQUE, price numeric(10, 2) NOT NULL, tags text[]);
CREATE TABLE stock (product_id int PRIMARY KEY REFERENCES products, quantity bigint NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers,
                     status text NOT NULL DEFAULT 'new', total numeric(12, 2) NOT NULL, details jsonb,
                     placed_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE order_lines (order_id bigint REFERENCES orders, line int, product_id int NOT NULL REFERENCES products,
                          quantity int NOT NULL, price numeric(10, 2) NOT NULL, PRIMARY KEY (order_id, line));
CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL);
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int NOT NULL, filler char(88));
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int NOT NULL REFERENCES pgbench_branches, tbalance int NOT NULL,
                              filler char(84));
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int NOT NULL REFERENCES pgbench_branches,
                               abalance int NOT NULL, filler char(84));
CREATE TABLE pgbench_history (id bigserial PRIMARY KEY, tid int NOT NULL, bid int NOT NULL, aid int NOT NULL,
                              delta int NOT NULL, mtime timestamp NOT NULL);
"""

_ROWS = """
INSERT INTO customers (id, email) SELECT n, 'customer' || n || '@example.com' FROM generate_series(1, {customers}) n;
INSERT INTO products SELECT n, 'SKU-' || n, (n * 37 % 5000 + 99) / 100.0, ARRAY['tag' || n % 7, 'tag' || n % 11]
  FROM generate_series(1, {products}) n;
INSERT INTO stock SELECT n, 1000000 FROM generate_series(1, {products}) n;
INSERT INTO counters VALUES ({hot}, 0);
INSERT INTO pgbench_branches SELECT n, 0 FROM generate_series(1, {branches}) n;
INSERT INTO pgbench_tellers SELECT n, (n - 1) % {branches} + 1, 0 FROM generate_series(1, {tellers}) n;
INSERT INTO pgbench_accounts SELECT n, (n - 1) % {branches} + 1, 0, '' FROM generate_series(1, {accounts}) n;
"""

# pgbench's TPC-B script with the account's and the teller's own branch.
TPCB_SCRIPT = f"""\
\\set bid random(1, {BRANCHES})
\\set tid :bid + {BRANCHES} * random(0, {TELLERS // BRANCHES - 1})
\\set aid :bid + {BRANCHES} * random(0, {ACCOUNTS // BRANCHES - 1})
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""


def create_tables(dsn: str) -> None:
    """Create the tables on one side. Raises psycopg.Error."""
    with psycopg.connect(dsn) as conn:
        conn.execute(TABLES)


def fill_tables(dsn: str) -> None:
    """Write the rows that the snapshot will find. Raises psycopg.Error."""
    numbers = {"customers": CUSTOMERS, "products": PRODUCTS, "branches": BRANCHES, "tellers": TELLERS}
    literals = {name: sql.Literal(number) for name, number in {**numbers, "accounts": ACCOUNTS}.items()}
    with psycopg.connect(dsn) as conn:
        conn.execute(sql.SQL(_ROWS).format(**literals, hot=sql.Literal(HOT_COUNTER)))
        conn.execute("SELECT setval('pgbench_history_id_seq', 1, false)")

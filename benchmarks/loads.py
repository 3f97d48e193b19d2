"""Workloads on the source: tables, the pgbench script that changes them, and what both contestants publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Servers
from headrace.embedded import EmbeddedPostgres

SCALE = 10
ACCOUNTS = 100_000 * SCALE
TABLES_MANY = 100
ROWS_MANY = 10_000  # in each of the hundred tables
ROWS_WIDE = 50_000
FIELDS_WIDE = 19  # of 100 bytes: as wide as a row gets before PostgreSQL moves fields out of line
ZIPF = 1.01  # pgbench takes exponents from 1.001

_TPCB = """\
\\set aid {accounts}
\\set bid random(1, {scale})
\\set tid random(1, 10 * {scale})
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""
_INSERTS = "BEGIN;\n" + (
    "INSERT INTO bench_events (account, kind, amount, note)"
    " VALUES (:account, 'transfer', :amount, 'a note of some forty letters and digits');\n" * 4
) + "END;\n"  # fmt: skip
_WIDE = "UPDATE bench_wide SET n = n + 1, f1 = repeat(md5(:n::text), 3) WHERE id = :id;\n"
_MANY = "BEGIN;\n" + "".join(f"UPDATE bench_t:t{n} SET n = n + 1 WHERE id = :r{n};\n" for n in range(4)) + "END;\n"


@dataclass(frozen=True, slots=True)
class Load:
    """A workload.

    `initialise` makes the tables of a database; `script` is pgbench's, None for its built-in TPC-B.
    `keyed` and `inserts` are the tables published with all changes, and with inserts alone. `enforced`
    says that the target's foreign keys are checked while changes are applied.
    """

    name: str
    title: str
    rows: int  # row changes a transaction
    initialise: Callable[[Servers, EmbeddedPostgres, str], None]
    keyed: tuple[str, ...]
    inserts: tuple[str, ...] = ()
    script: str | None = None
    enforced: bool = False

    @property
    def pattern(self) -> str:
        """What selects the tables in a configuration."""
        return "public.pgbench_*" if self.keyed[0].startswith("pgbench") else "public.bench_*"

    def script_arguments(self, directory: Path) -> list[str]:
        """pgbench's arguments that run the script."""
        if self.script is None:
            return []
        path = directory / f"{self.name}.sql"
        path.write_text(self.script)
        return ["-f", str(path)]


def pgbench_tables(steps: str, *after: str) -> Callable[[Servers, EmbeddedPostgres, str], None]:
    """What makes pgbench's tables by its initialisation `steps`, and runs further statements `after` them."""

    def initialise(bench: Servers, server: EmbeddedPostgres, dbname: str) -> None:
        bench.pgbench(server, "-i", "-I", steps, "-q", "-s", str(SCALE), dbname=dbname)
        for statement in after:
            bench.sql(server, statement, dbname)

    return initialise


def _statements(*statements: str) -> Callable[[Servers, EmbeddedPostgres, str], None]:
    def initialise(bench: Servers, server: EmbeddedPostgres, dbname: str) -> None:
        for statement in statements:
            bench.sql(server, statement, dbname)

    return initialise


PGBENCH_TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers")
_ROUND = {"accounts": f"random(1, {ACCOUNTS})", "scale": SCALE}
_SKEWED = {"accounts": f"random_zipfian(1, {ACCOUNTS}, {ZIPF})", "scale": SCALE}
# Both contestants apply as a replica does, which skips ordinary triggers: the foreign keys' are made to fire always.
_ALWAYS = """
DO $$ DECLARE r record; BEGIN
  FOR r IN SELECT tgname, tgrelid::regclass AS t FROM pg_trigger WHERE tgisinternal LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', r.t, r.tgname);
  END LOOP;
END $$
"""
_FIELDS = ", ".join(f"f{n} text" for n in range(1, FIELDS_WIDE + 1))
_VALUES = ", ".join(f"repeat(md5((i * {n})::text), 3)" for n in range(1, FIELDS_WIDE + 1))
_NAMES_MANY = tuple(f"bench_t{n}" for n in range(1, TABLES_MANY + 1))
_MAKE_MANY = f"""
DO $$ BEGIN FOR t IN 1..{TABLES_MANY} LOOP
  EXECUTE format('CREATE TABLE bench_t%s (id int PRIMARY KEY, n int NOT NULL, note text)', t);
  EXECUTE format('INSERT INTO bench_t%s SELECT i, 0, ''a note'' FROM generate_series(1, {ROWS_MANY}) i', t);
END LOOP; END $$
"""

LOADS = {
    load.name: load
    for load in (
        Load("tpcb", "TPC-B", 4, pgbench_tables("dtgvp"), PGBENCH_TABLES, ("pgbench_history",)),
        Load(
            "foreign-keys", "TPC-B, foreign keys and a second unique key checked on the target", 4,
            pgbench_tables("dtgvpf", "CREATE UNIQUE INDEX ON pgbench_accounts (bid, aid)", _ALWAYS),
            PGBENCH_TABLES, ("pgbench_history",), _TPCB.format(**_ROUND), enforced=True,
        ),
        Load(
            "zipf", f"TPC-B, accounts chosen by a Zipf law of exponent {ZIPF}", 4, pgbench_tables("dtgvp"),
            PGBENCH_TABLES, ("pgbench_history",), _TPCB.format(**_SKEWED),
        ),
        Load(
            "accounts", "one update of an account a transaction", 1, pgbench_tables("dtgvp"),
            PGBENCH_TABLES, ("pgbench_history",),
            f"\\set aid random(1, {ACCOUNTS})\n"
            "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n",
        ),
        Load(
            "inserts", "four inserts a transaction, one table with a primary key", 4,
            _statements(
                "DROP TABLE IF EXISTS bench_events",
                "CREATE TABLE bench_events (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, account int,"
                " kind text, amount numeric(12, 2), note text, at timestamptz DEFAULT now())",
            ),
            ("bench_events",),
            script="\\set account random(1, 100000)\n\\set amount random(1, 100000)\n" + _INSERTS,
        ),
        Load(
            "wide", "one update a transaction, rows of 1.9 KB", 1,
            _statements(
                "DROP TABLE IF EXISTS bench_wide",
                f"CREATE TABLE bench_wide (id int PRIMARY KEY, n int NOT NULL, {_FIELDS})",
                f"INSERT INTO bench_wide SELECT i, 0, {_VALUES} FROM generate_series(1, {ROWS_WIDE}) i",
            ),
            ("bench_wide",), script=f"\\set id random(1, {ROWS_WIDE})\n\\set n random(1, 1000000)\n" + _WIDE,
        ),
        Load(
            "tables", f"four updates a transaction over {TABLES_MANY} tables", 4,
            _statements(
                *(f"DROP TABLE IF EXISTS {name}" for name in _NAMES_MANY), _MAKE_MANY,
            ),
            _NAMES_MANY,
            script="".join(
                f"\\set t{n} random(1, {TABLES_MANY})\n\\set r{n} random(1, {ROWS_MANY})\n" for n in range(4)
            ) + _MANY,
        ),
    )
}  # fmt: skip


_DROP_GROWN = """
DO $$ DECLARE t text; BEGIN
  FOR t IN SELECT relname FROM pg_class WHERE relname ~ '^bench_t[0-9]+$' LOOP EXECUTE 'DROP TABLE ' || t; END LOOP;
END $$
"""


def growing(tables: int, rows: int) -> Load:
    """One update of a random row in one of `tables` tables of `rows` rows each."""
    names = tuple(f"bench_t{n}" for n in range(1, tables + 1))
    statements = [_DROP_GROWN]
    for name in names:
        statements.append(f"CREATE TABLE {name} (id int, n int NOT NULL, note text)")
        statements.append(f"INSERT INTO {name} SELECT i, 0, 'a note' FROM generate_series(1, {rows}) i")
        statements.append(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")  # half the time of an index that grows along
    script = f"\\set t random(1, {tables})\n\\set r random(1, {rows})\nUPDATE bench_t:t SET n = n + 1 WHERE id = :r;\n"
    return Load("growing", f"{tables} tables of {rows} rows", 1, _statements(*statements), names, script=script)

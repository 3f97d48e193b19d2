"""Schema changes in the middle of a stream: followed at their place, or refused with what to run."""

from __future__ import annotations

import random
import threading

import psycopg
import pytest

from headrace.recent import newest_batch
from headrace.status import stream_status
from tests.support.fixtures import MakeRig, SharedRig
from tests.support.rig import EX_OPERATOR, Rig
from tests.support.writing import commit_each, commit_in_one_window

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FILL = "SELECT n, 'a' || n, n FROM generate_series({}, {}) n"
TABLES = tuple(f"CREATE TABLE t{n} (id int PRIMARY KEY, a varchar(10), b int)" for n in range(12))
BESIDE = "CREATE TABLE beside (id int PRIMARY KEY, b int)"  # what no test changes


@pytest.fixture(scope="module")
def rig(shared_rig: SharedRig) -> Rig:
    """A stream that follows everything."""
    rig = shared_rig(*TABLES, BESIDE, target={"schema_changes": "evolve"})
    rig.source(*(f"INSERT INTO t{n} {FILL.format(1, 100)}" for n in range(12)), "INSERT INTO beside VALUES (1, 1)")
    rig.start()
    rig.wait_until_equal()
    return rig


# Statements in transactions of their own, all in one window where they follow each other; {t} is the table.
CHANGES = {
    "add": """
        ALTER TABLE {t} ADD c text;
        INSERT INTO {t} VALUES (1001, 'x', 1, 'new');
        UPDATE {t} SET c = 'y' WHERE id < 50
    """,
    "add with a constant": """
        ALTER TABLE {t} ADD c timestamptz NOT NULL DEFAULT now(), ADD d text DEFAULT 'it''s', ADD e int[] DEFAULT '{1}';
        INSERT INTO {t} VALUES (1001, 'x', 5);
        UPDATE {t} SET d = NULL WHERE id < 5
    """,
    "add twice": """
        ALTER TABLE {t} ADD c int;
        INSERT INTO {t} VALUES (1001, 'x', 5);
        ALTER TABLE {t} ADD d int DEFAULT 7;
        DELETE FROM {t} WHERE id = 7
    """,
    "drop": """
        ALTER TABLE {t} DROP a;
        INSERT INTO {t} VALUES (1001, 5);
        UPDATE {t} SET b = -b
    """,
    "rename": """
        ALTER TABLE {t} RENAME a TO "A b";
        INSERT INTO {t} VALUES (1001, 'x', 5);
        UPDATE {t} SET "A b" = 'z' WHERE id < 9
    """,
    "rename the key": """
        ALTER TABLE {t} RENAME id TO key;
        INSERT INTO {t} VALUES (1001, 'x', 5);
        UPDATE {t} SET key = -key WHERE key < 9
    """,
    "replace the last": """
        ALTER TABLE {t} DROP b;
        ALTER TABLE {t} ADD c int;
        INSERT INTO {t} VALUES (1001, 'x', 5)
    """,
    "widen": """
        ALTER TABLE {t} ALTER b TYPE bigint, ALTER a TYPE varchar(20);
        INSERT INTO {t} VALUES (1001, 'longer than ten', 1::bigint << 40)
    """,
    "in one transaction": """
        BEGIN;
        UPDATE {t} SET b = 1 WHERE id = 1;
        ALTER TABLE {t} ADD c int;
        UPDATE {t} SET c = id WHERE id < 70;
        ALTER TABLE {t} DROP a;
        INSERT INTO {t} VALUES (1001, 1, 2);
        COMMIT
    """,
    "there and back": """
        ALTER TABLE {t} RENAME a TO z;
        INSERT INTO {t} VALUES (1001, 'x', 5);
        ALTER TABLE {t} RENAME z TO a;
        UPDATE {t} SET b = 0
    """,
    "rename the table": """
        ALTER TABLE {t} RENAME TO {t}_new;
        INSERT INTO {t}_new VALUES (1001, 'x', 5)
    """,
    "of a type of the user": """
        CREATE TYPE mood AS ENUM ('sad', 'happy');
        ALTER TABLE {t} ADD c mood DEFAULT 'sad', ADD d mood[];
        INSERT INTO {t} VALUES (1001, 'x', 5, 'happy', '{sad,happy}');
        UPDATE {t} SET b = 9 WHERE id > 90
    """,
}


@pytest.mark.parametrize(("number", "case"), list(enumerate(CHANGES)), ids=list(CHANGES))
def test_a_change_is_followed_at_its_place(rig: Rig, number: int, case: str) -> None:
    table = f"t{number}"
    if case == "of a type of the user":
        with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
            conn.execute("CREATE TYPE dummy AS ENUM ()")
            conn.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    beside = "UPDATE beside SET b = -b"
    statements = CHANGES[case].replace("{t}", table).split(";")
    commit_in_one_window(rig, f"UPDATE {table} SET b = b + 1", beside, *statements, beside)
    if case == "rename the table":
        table += "_new"
    commit_each(rig, f"DELETE FROM {table} WHERE {'key' if case == 'rename the key' else 'id'} > 98")
    rig.wait_until_equal(table, "beside")


def test_new_tables_and_dropped_ones(rig: Rig) -> None:
    rig.wait_until_applied()
    commit_each(rig, "CREATE TABLE born (id int PRIMARY KEY, v text)", "CREATE TABLE keyless (v text)")
    rig.wait_for_log("capture", "the new table public.born is replicated from now on")
    rig.wait_for_log("capture", "the new table public.keyless is replicated from now on")
    rig.source("INSERT INTO born SELECT n, 'v' FROM generate_series(1, 100) n", "INSERT INTO keyless VALUES ('x')")
    rig.source("UPDATE born SET v = 'w' WHERE id < 9", "ALTER TABLE born ADD more int", "DELETE FROM born WHERE id = 5")
    rig.wait_until_equal("born", "keyless")
    # A table that has rows when it is found would come without them.
    rig.source("CREATE TABLE filled (id int PRIMARY KEY)", "INSERT INTO filled VALUES (1)")
    rig.wait_for_log("capture", "the new table public.filled has rows already and is NOT replicated")
    assert "public.filled" in stream_status(rig.settings, rig.config).left_out
    rig.kill("capture")
    rig.source("INSERT INTO filled VALUES (2)", "UPDATE born SET v = 'after'")
    rig.wait_until_equal("born")
    assert [(check.source_rows, check.differences) for check in rig.compare("filled")] == [(2, 2)]
    # A dropped table stays on the target.
    commit_each(rig, "UPDATE born SET v = 'last'", "DROP TABLE born, filled", "INSERT INTO keyless VALUES ('y')")
    rig.wait_until_equal("keyless")
    assert rig.target_rows("SELECT DISTINCT v FROM born") == [("last",)]


def test_tables_that_were_there_before_the_stream_are_known_from_their_first_rows(make_rig: MakeRig) -> None:
    """Without a snapshot the ledger learns columns from the first changes, which go through the lanes like any."""
    rig = make_rig(source={"snapshot": "never"}, target={"schema_changes": "evolve", "lanes": 2})
    rig.both("CREATE TABLE one (id int PRIMARY KEY, a text, b int)", "CREATE TABLE two (LIKE one INCLUDING ALL)")
    rig.start()
    rig.wait_until_applied()
    commit_in_one_window(rig, *(f"INSERT INTO {'one' if n % 2 else 'two'} VALUES ({n}, 'a', {n})" for n in range(300)))
    rig.wait_until_equal()
    assert "schema change" not in rig.log("apply")
    assert rig.target_rows("SELECT count(*) FROM headrace.relation") == [(2,)]
    commit_each(rig, "ALTER TABLE one RENAME a TO c", "INSERT INTO one VALUES (999, 'c', 1)",
                "ALTER TABLE two DROP b", "DELETE FROM two WHERE id = 4")  # fmt: skip
    rig.wait_until_equal()


def test_a_new_column_under_load(make_rig: MakeRig) -> None:
    """Writers go on while columns come and go, and roles are killed: nothing is lost, and nothing done twice."""
    rig = make_rig(target={"schema_changes": "evolve"})
    rig.both("CREATE TABLE busy (id int PRIMARY KEY, n int)", "CREATE TABLE other (id int PRIMARY KEY, n int)")
    rig.source("INSERT INTO busy SELECT n, 0 FROM generate_series(1, 200) n",
               "INSERT INTO other SELECT n, 0 FROM generate_series(1, 200) n")  # fmt: skip
    rig.start()
    rig.wait_until_equal()
    stopping = threading.Event()

    def write(seed: int) -> None:
        dice = random.Random(seed)
        with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
            while not stopping.is_set():
                conn.execute("UPDATE busy SET n = n + 1 WHERE id = %s", [dice.randint(1, 200)])
                conn.execute("UPDATE other SET n = n + 1 WHERE id = %s", [dice.randint(1, 200)])

    writers = [threading.Thread(target=write, args=[seed]) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        for n in range(6):
            change = f"ADD c{n} int NOT NULL DEFAULT {n}" if n % 2 == 0 else f"DROP c{n - 1}, ADD d{n} text"
            commit_each(rig, f"ALTER TABLE busy {change}")
            if n in (1, 3):
                rig.kill("plan" if n == 1 else "apply")
            commit_each(rig, "UPDATE busy SET n = n + 1 WHERE id % 7 = 0")
            # The constant of a column is read from the source's catalogue, which forgets it when the column goes.
            if n % 2 == 0:
                rig.until(lambda n=n: _captured(rig, f"c{n}"), "capture has seen the column")  # type: ignore[misc]
    finally:
        stopping.set()
        for writer in writers:
            writer.join()
    rig.wait_until_equal()


def _captured(rig: Rig, column: str) -> bool:
    batch = newest_batch(rig.settings, 0)
    sections = batch.sections if batch is not None else []
    return any(column in {c.name for c in section.relation.columns} for section in sections)


def stopped(rig: Rig) -> str:
    """Wait until the stream has stopped; the reason in the ledger."""
    assert rig.wait_for_end("apply") == EX_OPERATOR
    assert rig.wait_for_end("plan") == EX_OPERATOR
    row = rig.stream_row()
    assert row is not None
    return row.stopped


def test_stop_says_what_to_run_and_goes_on_afterwards(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.both("CREATE TABLE t (id int PRIMARY KEY, a int)")
    rig.start()
    rig.wait_until_equal()
    commit_each(rig, "INSERT INTO t VALUES (1, 1)", "ALTER TABLE t ADD b numeric(12,2) DEFAULT 1.5",
                "INSERT INTO t VALUES (2, 2, 2)")  # fmt: skip
    reason = stopped(rig)
    wanted = 'ALTER TABLE "public"."t" ADD COLUMN "b" "pg_catalog"."numeric"(12,2) DEFAULT'
    assert "table public.t" in reason
    assert wanted in reason, reason
    assert rig.target_rows("SELECT * FROM t") in ([], [(1, 1)]), "as large a unit as it was"
    rig.start()  # nothing was done: it stops again, at the same place
    assert wanted in stopped(rig)
    with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
        conn.execute("ALTER TABLE t ADD b numeric(12,2) DEFAULT 1.5")
    rig.start()
    rig.wait_until_equal()


def test_starting_again_accepts_what_the_target_has(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.both("CREATE TABLE t (id int PRIMARY KEY, a int)")
    rig.source("INSERT INTO t VALUES (1, 1), (2, 2)")
    rig.start()
    rig.wait_until_equal()
    # What the target already has stops nothing.
    with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
        conn.execute("ALTER TABLE t ADD c int")
    commit_each(rig, "ALTER TABLE t ADD c int", "UPDATE t SET c = 5")
    rig.wait_until_equal()
    # A column that went at the source alone: starting again says that the target shall keep it.
    commit_each(rig, "ALTER TABLE t DROP a", "UPDATE t SET c = 6")
    assert 'DROP COLUMN "a"' in stopped(rig)
    rig.start()
    rig.wait_until_equal()
    assert rig.target_rows("SELECT id, a, c FROM t ORDER BY id") == [(1, 1, 6), (2, 2, 6)]

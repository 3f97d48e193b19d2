"""What a source can do to its rows arrives: keys, constraints, unusual tables; in every way of applying.

Each case has its own schema for each way: row by row, set by set with everything merged, in source order; on targets
that enforce foreign keys and triggers (`origin`, where all values travel as text) and on such that do not (`replica`).
"""

# ruff: noqa: E501 - the statements of a case stand together

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg
import pytest

from connectors.postgres import lane
from connectors.settings import SourceSettings, TargetSettings
from headrace.embedded import EmbeddedPostgres
from tests.conftest import fresh_database
from tests.support.direct import DirectStream, on_both

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class Case:
    """`tables` on both sides, unless the target has its own; `work` are transactions, divided by `;;`."""

    tables: str
    work: str
    target: str = ""
    roles: tuple[str, ...] = ("replica", "origin")
    ways: tuple[str, ...] = ("rows", "sets", "serial")
    after: str = ""  # a query on the target that must give true


NUMBERS = "SELECT n, 'v' || n, n FROM generate_series(1, 100) n"
CASES = {
    # ---- keys ----------------------------------------------------------------------------------
    "columns in another order, of other types, on one side only": Case(
        "CREATE TABLE t (id int, a text, b int, c date, PRIMARY KEY (b, id))",
        """INSERT INTO t SELECT n, 'v' || n, -n, '2026-01-01' FROM generate_series(1, 80) n;;
        UPDATE t SET a = a || '!' WHERE id < 40;; UPDATE t SET b = b * 2, id = id + 1000 WHERE id > 70;;
        DELETE FROM t WHERE id BETWEEN 30 AND 50""",
        "CREATE TABLE t (c date, more text DEFAULT 'm' NOT NULL, id bigint, b numeric, at timestamptz DEFAULT now(),"
        " a varchar(50), PRIMARY KEY (id, b))",
        after="SELECT bool_and(more = 'm') FROM t",
    ),
    "keys that swap, chain and come back": Case(
        "CREATE TABLE t (id int PRIMARY KEY, v text, n int)",
        f"""INSERT INTO t {NUMBERS};;
        UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1;;
        UPDATE t SET id = 101 WHERE id = 100; UPDATE t SET id = 100 WHERE id = 99; UPDATE t SET id = 99 WHERE id = 98;;
        DELETE FROM t WHERE id = 5; UPDATE t SET id = 5 WHERE id = 6; INSERT INTO t VALUES (6, 'new', 0);;
        UPDATE t SET id = 200 WHERE id = 7;; UPDATE t SET id = 7 WHERE id = 200;; UPDATE t SET v = 'end' WHERE id < 9""",
    ),
    "keys with numbers that are written in many ways": Case(
        "CREATE TABLE t (id numeric PRIMARY KEY, f float8 UNIQUE, v text)",
        """INSERT INTO t VALUES (1.0, 0, 'a'), (2.50, 1.5, 'b'), (1e3, 'NaN', 'c');; UPDATE t SET id = 1.000, v = 'x' WHERE id = 1;;
        UPDATE t SET v = 'y' WHERE id = 2.5;; UPDATE t SET f = '-0' WHERE id = 1;; DELETE FROM t WHERE id = 1000.0;;
        INSERT INTO t VALUES (1000.00, 'NaN', 'd')""",
    ),
    "a deferrable primary key is no identity": Case(
        "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text); ALTER TABLE t REPLICA IDENTITY FULL",
        "INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 80) n;; UPDATE t SET id = id + 1;; DELETE FROM t WHERE id = 9;;"
        "UPDATE t SET v = 'x' WHERE id = 10; UPDATE t SET id = -id",
    ),
    "identity by index": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b text NOT NULL, v int, UNIQUE (b, a));"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_b_a_key",
        """INSERT INTO t SELECT n, n % 7, 'b' || n, n FROM generate_series(1, 80) n;; UPDATE t SET v = v + 1;;
        UPDATE t SET id = id + 1000 WHERE id < 20;; UPDATE t SET a = a + 10, b = b || 'x' WHERE v > 60;;
        DELETE FROM t WHERE v < 12""",
    ),
    "identity full, a key on the target": Case(
        "CREATE TABLE t (id int NOT NULL, v text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;"
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "INSERT INTO t SELECT n, 'v' || n, repeat('x', 5000) FROM generate_series(1, 80) n;; UPDATE t SET v = NULL WHERE id < 9;;"
        "UPDATE t SET id = -id WHERE id > 70;; DELETE FROM t WHERE id = 3",
        "CREATE TABLE t (id int PRIMARY KEY, v text, big text)",
    ),
    "equal rows without a key": Case(
        "CREATE TABLE t (a int, b text, c jsonb, d float8, e point); ALTER TABLE t REPLICA IDENTITY FULL",
        """INSERT INTO t SELECT n % 3, NULLIF('x', 'x'), '{"a": 1.0}', 0.1, '(1,2)' FROM generate_series(1, 80) n;;
        DELETE FROM t WHERE ctid IN (SELECT ctid FROM t LIMIT 7);; UPDATE t SET a = 9, b = '' WHERE ctid IN (SELECT ctid FROM t LIMIT 5);;
        UPDATE t SET d = 'NaN' WHERE a = 1;; UPDATE t SET d = 'Infinity', c = NULL WHERE a = 2; DELETE FROM t WHERE b = ''""",
    ),
    "no identity at all": Case(
        "CREATE TABLE t (a int, b text); CREATE TABLE u (id int PRIMARY KEY, v int); ALTER TABLE u REPLICA IDENTITY NOTHING",
        "INSERT INTO t SELECT n % 3, NULL FROM generate_series(1, 80) n;; INSERT INTO u SELECT n, n FROM generate_series(1, 80) n;;"
        "TRUNCATE t; INSERT INTO t VALUES (1, 'x'), (1, 'x')",
    ),
    "an identity that changes on the way": Case(
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, v int)",
        """INSERT INTO t SELECT n, 'c' || n, n FROM generate_series(1, 80) n;; UPDATE t SET v = 0 WHERE id < 9;;
        ALTER TABLE t REPLICA IDENTITY FULL;; UPDATE t SET v = 1, code = code || '!' WHERE id < 20;; DELETE FROM t WHERE id = 5;;
        ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key;; UPDATE t SET id = -id WHERE id > 60; DELETE FROM t WHERE id = 8;;
        ALTER TABLE t REPLICA IDENTITY DEFAULT;; UPDATE t SET code = 'new' WHERE id = 9""",
    ),
    # ---- identity and generated columns ----------------------------------------------------------
    "columns that are always generated": Case(
        """CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, n int UNIQUE, big text);
        ALTER TABLE t ALTER big SET STORAGE EXTERNAL; ALTER TABLE t ALTER n SET NOT NULL, ALTER n ADD GENERATED ALWAYS AS IDENTITY;
        ALTER TABLE t ADD twice int GENERATED ALWAYS AS (v * 2) STORED""",
        """INSERT INTO t (v, big) SELECT n, repeat('x', 9000) FROM generate_series(1, 80) n;; UPDATE t SET v = -v WHERE id < 40;;
        UPDATE t SET n = DEFAULT WHERE id < 10;; UPDATE t SET n = DEFAULT, v = 7 WHERE id = 11;; UPDATE t SET id = DEFAULT WHERE id = 12;;
        DELETE FROM t WHERE id = 13; UPDATE t SET big = 'short', n = DEFAULT WHERE id = 14""",
        after="SELECT bool_and(twice IS NOT DISTINCT FROM v * 2) FROM t",
    ),
    # ---- constraints -----------------------------------------------------------------------------
    "unique values that move, swap and are freed": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b int, c int, UNIQUE (b, c))",
        """INSERT INTO t SELECT n, 'a' || n, n, CASE WHEN n % 2 = 0 THEN n END FROM generate_series(1, 80) n;;
        UPDATE t SET a = 'tmp' WHERE id = 1; UPDATE t SET a = 'a1' WHERE id = 2; UPDATE t SET a = 'a2' WHERE id = 1;;
        UPDATE t SET a = NULL WHERE id = 3;; UPDATE t SET a = 'a3' WHERE id = 4;; UPDATE t SET a = 'a4' WHERE id = 3;;
        DELETE FROM t WHERE id = 5;; INSERT INTO t VALUES (-5, 'a5', 5, NULL), (-6, NULL, 5, NULL), (-7, NULL, 5, NULL);;
        UPDATE t SET c = NULL WHERE id = 10; UPDATE t SET b = 10, c = 10 WHERE id = 12""",
    ),
    "nulls that are not distinct": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE NULLS NOT DISTINCT)",
        """INSERT INTO t VALUES (1, 1), (2, NULL);; UPDATE t SET a = 2 WHERE id = 2; UPDATE t SET a = NULL WHERE id = 1;;
        DELETE FROM t WHERE id = 1;; INSERT INTO t VALUES (3, NULL)""",
    ),
    "partial and expression indexes": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a text, live bool); CREATE UNIQUE INDEX ON t (lower(a)) WHERE live",
        """INSERT INTO t SELECT n, 'A' || n, true FROM generate_series(1, 80) n;; UPDATE t SET live = false WHERE id = 1;;
        INSERT INTO t VALUES (101, 'a1', true);; UPDATE t SET live = false WHERE id = 101; UPDATE t SET live = true WHERE id = 1;;
        UPDATE t SET a = 'x' WHERE id = 2; UPDATE t SET a = 'A2' WHERE id = 3; UPDATE t SET a = 'a3' WHERE id = 2""",
    ),
    "an exclusion constraint": Case(
        "CREATE TABLE t (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&))",
        """INSERT INTO t SELECT n, int4range(n * 10, n * 10 + 10) FROM generate_series(1, 80) n;;
        UPDATE t SET during = int4range(2000, 2010) WHERE id = 1; UPDATE t SET during = '[10,20)' WHERE id = 2;
        UPDATE t SET during = '[20,30)' WHERE id = 1;; DELETE FROM t WHERE id = 3;; INSERT INTO t VALUES (300, '[30,40)');;
        UPDATE t SET during = 'empty' WHERE id > 70""",
    ),
    "deferred unique values": Case(
        "CREATE TABLE t (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        """INSERT INTO t SELECT n, n FROM generate_series(1, 80) n;; UPDATE t SET place = place + 1;;
        UPDATE t SET place = 82 - place WHERE place < 82;; DELETE FROM t WHERE id = 4; INSERT INTO t SELECT -4, 77""",
    ),
    "unique values by one statement": Case(
        "CREATE TABLE t (id int PRIMARY KEY, place int UNIQUE DEFERRABLE)",
        "INSERT INTO t SELECT n, n FROM generate_series(1, 80) n;; UPDATE t SET place = 81 - place;; UPDATE t SET place = place + 1",
    ),
    "a table that refers to itself": Case(
        "CREATE TABLE t (id int PRIMARY KEY, boss int REFERENCES t)",
        """INSERT INTO t SELECT n, NULLIF(n / 3, 0) FROM generate_series(1, 80) n;; UPDATE t SET boss = NULL WHERE boss = 1;;
        DELETE FROM t WHERE id = 1;; INSERT INTO t VALUES (200, NULL), (201, 200); UPDATE t SET boss = 201 WHERE id = 200;;
        UPDATE t SET boss = NULL WHERE id = 200; DELETE FROM t WHERE id = 201; DELETE FROM t WHERE id = 200;;
        DELETE FROM t WHERE id > 26; DELETE FROM t""",
    ),
    "tables that refer to each other": Case(
        """CREATE TABLE h (id int PRIMARY KEY, w int); CREATE TABLE w (id int PRIMARY KEY, h int REFERENCES h DEFERRABLE);
        ALTER TABLE h ADD FOREIGN KEY (w) REFERENCES w DEFERRABLE INITIALLY DEFERRED""",
        """BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO h SELECT n, n FROM generate_series(1, 50) n;
        INSERT INTO w SELECT n, n FROM generate_series(1, 50) n; COMMIT;; DELETE FROM h WHERE id = 9; DELETE FROM w WHERE h = 9""".replace(
            "DELETE FROM h WHERE id = 9; DELETE FROM w WHERE h = 9",
            "BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM h WHERE id = 9; DELETE FROM w WHERE id = 9; COMMIT",
        )
        + ";; UPDATE h SET w = NULL WHERE id = 8; DELETE FROM w WHERE id = 8",
    ),
    "actions of foreign keys": Case(
        """CREATE TABLE p (id int PRIMARY KEY, code text UNIQUE);
        CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE,
          code text REFERENCES p (code) ON DELETE SET NULL ON UPDATE CASCADE, d int DEFAULT 1 REFERENCES p ON DELETE SET DEFAULT);
        CREATE TABLE g (id int PRIMARY KEY, c int REFERENCES c ON DELETE CASCADE)""",
        """INSERT INTO p SELECT n, 'c' || n FROM generate_series(1, 60) n; INSERT INTO c SELECT n, n, 'c' || (61 - n), CASE WHEN n < 51 THEN n END FROM generate_series(1, 60) n;
        INSERT INTO g SELECT n, n FROM generate_series(1, 60) n;; UPDATE p SET code = code || '!' WHERE id < 20;;
        UPDATE p SET id = id + 1000 WHERE id > 50;; DELETE FROM p WHERE id BETWEEN 20 AND 30;; DELETE FROM p WHERE id = 1001;;
        DELETE FROM c WHERE id = 2; INSERT INTO p VALUES (20, 'c20'); INSERT INTO c VALUES (20, 20, 'c20', 20)""",
    ),
    "checks, and triggers that change rows": Case(
        """CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v >= 0)); CREATE TABLE log (id int, v int); ALTER TABLE log REPLICA IDENTITY FULL;
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE format(''INSERT INTO %I.log VALUES ($1, $2)'',
          TG_TABLE_SCHEMA) USING NEW.id, NEW.v; RETURN NEW; END';
        CREATE TRIGGER note AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note()""",
        "INSERT INTO t SELECT n, n FROM generate_series(1, 80) n;; UPDATE t SET v = v + 1 WHERE id < 10",
        roles=("replica",),
    ),
    "triggers of the target": Case(
        "CREATE TABLE t (id int PRIMARY KEY, v int)",
        "INSERT INTO t SELECT n, n FROM generate_series(1, 80) n;; UPDATE t SET v = v + 1 WHERE id < 10",
        """CREATE TABLE t (id int PRIMARY KEY, v int, a text, b text);
        CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF TG_NAME = ''ordinary'' THEN NEW.a := ''fired'';
          ELSE NEW.b := current_setting(''session_replication_role''); END IF; RETURN NEW; END';
        CREATE TRIGGER ordinary BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fire();
        CREATE TRIGGER always BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fire();
        ALTER TABLE t ENABLE ALWAYS TRIGGER always""",
        after="SELECT bool_and(b IS NOT NULL AND (a IS NOT NULL) = (b = 'origin')) FROM t",
    ),
    # ---- unusual tables --------------------------------------------------------------------------
    "partitions here, none there": Case(
        """CREATE TABLE t (r text, id int, v int, PRIMARY KEY (r, id)) PARTITION BY LIST (r);
        CREATE TABLE t_n PARTITION OF t FOR VALUES IN ('n'); CREATE TABLE t_s PARTITION OF t FOR VALUES IN ('s') PARTITION BY RANGE (id);
        CREATE TABLE t_s1 PARTITION OF t_s FOR VALUES FROM (0) TO (50); CREATE TABLE t_s2 PARTITION OF t_s DEFAULT""",
        """INSERT INTO t SELECT r, n, n FROM unnest('{n,s}'::text[]) r, generate_series(1, 80) n;; UPDATE t SET r = 's', id = -id WHERE r = 'n' AND id < 9;;
        UPDATE t SET id = id + 60 WHERE r = 's' AND id BETWEEN 40 AND 49 AND id + 60 > 100;; DELETE FROM t_s2 WHERE v < 70;;
        DELETE FROM t WHERE v = 1""",
        "CREATE TABLE t (r text, id int, v int, PRIMARY KEY (id, r))",
    ),
    "partitions there, none here": Case(
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (r int, v int); ALTER TABLE u REPLICA IDENTITY FULL",
        """INSERT INTO t SELECT n, n FROM generate_series(1, 80) n; INSERT INTO u SELECT n % 4, n % 2 FROM generate_series(1, 80) n;;
        UPDATE t SET id = id + 1000 WHERE id > 70; UPDATE u SET r = 3 WHERE r = 0;; DELETE FROM t WHERE v % 3 = 0;;
        DELETE FROM u WHERE ctid IN (SELECT ctid FROM u WHERE r = 3 LIMIT 5)""",
        """CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (40);
        CREATE TABLE t_2 PARTITION OF t DEFAULT; CREATE TABLE u (r int, v int) PARTITION BY HASH (r);
        CREATE TABLE u_1 PARTITION OF u FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE u_2 PARTITION OF u FOR VALUES WITH (MODULUS 2, REMAINDER 1)""",
    ),
    "inheritance": Case(
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (more text, PRIMARY KEY (id)) INHERITS (t)",
        """INSERT INTO t SELECT n, n FROM generate_series(1, 40) n; INSERT INTO u SELECT n, n, 'u' FROM generate_series(1, 40) n;;
        UPDATE t SET v = v + 1 WHERE id < 10;; DELETE FROM ONLY t WHERE id = 20;; DELETE FROM u WHERE id = 21;;
        UPDATE t SET id = id + 100 WHERE id > 35""",
    ),
    "truncate": Case(
        """CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id serial PRIMARY KEY, p int REFERENCES p);
        CREATE TABLE s (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v int)""",
        """INSERT INTO p SELECT n FROM generate_series(1, 40) n; INSERT INTO c (p) SELECT n FROM generate_series(1, 40) n; INSERT INTO s (v) SELECT n FROM generate_series(1, 40) n;;
        TRUNCATE p, c;; INSERT INTO p VALUES (1); INSERT INTO c (p) VALUES (1);; TRUNCATE p CASCADE; INSERT INTO p VALUES (2);;
        TRUNCATE s RESTART IDENTITY; INSERT INTO s (v) VALUES (5); UPDATE s SET v = 6;; TRUNCATE c, p; TRUNCATE s""",
    ),
    "savepoints, roll-backs and prepared transactions": Case(
        "CREATE TABLE t (id int PRIMARY KEY, v int)",
        """BEGIN; INSERT INTO t VALUES (1, 1); SAVEPOINT a; INSERT INTO t VALUES (2, 2); ROLLBACK TO a; SAVEPOINT b; INSERT INTO t VALUES (3, 3);
        RELEASE b; COMMIT;; BEGIN; DELETE FROM t; ROLLBACK;; BEGIN; INSERT INTO t VALUES (4, 4); UPDATE t SET v = 9 WHERE id = 1; PREPARE TRANSACTION '{p}';;
        INSERT INTO t VALUES (5, 5);; COMMIT PREPARED '{p}';; BEGIN; INSERT INTO t VALUES (6, 6); PREPARE TRANSACTION '{p}';;
        ROLLBACK PREPARED '{p}'""",
        after="SELECT array_agg(id ORDER BY id) = '{1,3,4,5}' FROM t",
    ),
    "names that need care": Case(
        'CREATE TABLE "Sel""ect.%s {}" ("order" int, "a.b $1" text, "Ünï\'\\" int, "%(x)s" int, "' + "ž" * 31 + 'x" int, PRIMARY KEY ("order"));'
        'CREATE TABLE "user" ("user" int PRIMARY KEY, "SELECT" text)',
        """INSERT INTO "Sel""ect.%s {}" SELECT n, '%s {} $1 '' \\', n, n, n FROM generate_series(1, 80) n;; INSERT INTO "user" VALUES (1, 'x');;
        UPDATE "Sel""ect.%s {}" SET "a.b $1" = E'\\t\\n"', "%(x)s" = NULL WHERE "order" < 20;; UPDATE "Sel""ect.%s {}" SET "order" = -"order" WHERE "order" = 30;;
        DELETE FROM "Sel""ect.%s {}" WHERE "order" = 31; DELETE FROM "user\"""",
    ),
    "as many columns as there can be": Case(
        "CREATE TABLE t (id int PRIMARY KEY, " + ", ".join(f"c{n} int" for n in range(1, 1600)) + ")",
        "INSERT INTO t (id, c1, c1599) SELECT n, n, n FROM generate_series(1, 70) n;; UPDATE t SET c700 = 5 WHERE id < 5;; DELETE FROM t WHERE id = 9",
        roles=("replica",),
        ways=("sets",),
    ),
    "nothing but a key, or no column at all": Case(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE e ()",
        "INSERT INTO t SELECT n FROM generate_series(1, 80) n;; UPDATE t SET id = id + 100;; UPDATE t SET id = id;; INSERT INTO e DEFAULT VALUES;; DELETE FROM t WHERE id < 120",
    ),
    "empty values and no values": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b bytea, c int[], d jsonb, e varchar)",
        r"""INSERT INTO t VALUES (1, '', '', '{}', '""', ''), (2, NULL, NULL, NULL, NULL, NULL), (3, E'\t\n\\N', '\x00', '{NULL}', 'null', '\N');;
        UPDATE t SET a = NULL WHERE id = 1;; UPDATE t SET a = '', b = '' WHERE id = 2;; UPDATE t SET e = '', d = NULL WHERE id = 3""",
    ),
    "unchanged and changed large values": Case(
        "CREATE TABLE t (id int PRIMARY KEY, n int, a text, b text); ALTER TABLE t ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL",
        """INSERT INTO t SELECT n, n, repeat('a', 5000), repeat('b', 5000) FROM generate_series(1, 80) n;; UPDATE t SET n = -n WHERE id < 50;;
        UPDATE t SET a = repeat('c', 4000) WHERE id < 30; UPDATE t SET n = 5 WHERE id < 20;; UPDATE t SET b = 'x' WHERE id < 10; UPDATE t SET n = 6 WHERE id < 5;;
        UPDATE t SET id = id + 1000 WHERE id < 3;; UPDATE t SET a = NULL, n = 1 WHERE id = 4; UPDATE t SET n = 2 WHERE id = 4;;
        DELETE FROM t WHERE id = 7; INSERT INTO t VALUES (7, 7, 'short', NULL); UPDATE t SET n = 8 WHERE id = 7""",
    ),
}  # fmt: skip
WAYS = ("rows", "sets", "serial")
PARAMETERS = [
    (role, way, name)
    for role, ways in (("replica", WAYS), ("origin", WAYS[:2]))
    for way in ways
    for name, case in CASES.items()
    if role in case.roles and way in case.ways
]


def schema(case: str, way: str) -> str:
    return f"{way}_{list(CASES).index(case)}"


@pytest.fixture(scope="module")
def streams(source_pg: EmbeddedPostgres, target_pg: EmbeddedPostgres) -> Iterator[dict[str, DirectStream]]:
    """A stream for each role, with the tables of all cases."""
    with ExitStack() as stack:
        found = {}
        for role in ("replica", "origin"):
            dsns = [stack.enter_context(fresh_database(server)) for server in (source_pg, target_pg)]
            for way, name in [(way, name) for of, way, name in PARAMETERS if of == role]:
                begin = f"CREATE SCHEMA {schema(name, way)}; SET search_path TO {schema(name, way)};"
                on_both(dsns[:1], begin + CASES[name].tables)
                on_both(dsns[1:], begin + (CASES[name].target or CASES[name].tables))
            source = SourceSettings(dsns[0], ("*.*",), as_text=role == "origin")
            target = TargetSettings(dsns[1], session_replication_role=role)
            found[role] = stack.enter_context(DirectStream(source, target))
        yield found


@pytest.mark.parametrize(("role", "way", "name"), PARAMETERS)
def test_what_the_source_does_arrives(
    streams: dict[str, DirectStream], role: str, way: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, case, here = streams[role], CASES[name], schema(name, way)
    monkeypatch.setattr(lane, "ROW_BY_ROW_MAX", -1 if way == "sets" else 1_000_000)
    stream.conn.execute(f"SET search_path TO {here}".encode())
    work = [text.replace("{p}", f"p_{role}_{here}") for text in case.work.split(";;")]
    try:
        batches = [stream.write(text) for text in work]
    except psycopg.Error as error:
        raise AssertionError(f"the source refuses {error.diag.statement_position}: {error}") from error
    if way == "sets":
        stream.apply(*batches)
    else:
        for batch in batches:
            stream.apply(batch, serial=way == "serial")
    assert not stream.differing([f"{here}.*"])
    if case.after:
        stream.there.execute(f"SET search_path TO {here}".encode())
        assert stream.rows(case.after) == [(True,)]

"""What an operator has to change: roles end with 78, and `check` tells the same beforehand with a remedy."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from headrace.console import EX_CONFIG, EX_FAILURE, EX_OK
from headrace.embedded import EmbeddedPostgres
from tests.cli.conftest import Setup, Starter, create_topic, execute
from tests.conftest import fresh_database
from tests.support.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_wrong_password(setup: Setup, start: Starter, source_pg: EmbeddedPostgres) -> None:
    with role_on(setup.source, "LOGIN PASSWORD 'right'") as user, password_needed(source_pg, user):
        setup.source = make_conninfo(setup.source, user=user, password="hunter2")
        capture = start(setup.start("capture"))
        assert setup.run("check").code == EX_FAILURE
        assert capture.end() == EX_CONFIG
    assert f'password authentication failed for user "{user}"' in capture.text()
    assert "hunter2" not in capture.text()
    assert "Traceback" not in capture.text()


def test_unknown_database(setup: Setup, start: Starter) -> None:
    right, setup.target = setup.target, make_conninfo(setup.target, dbname="nowhere")
    plan = start(setup.start("plan"))
    setup.source = make_conninfo(right, dbname="nowhere_else")
    capture = start(setup.start("capture"))
    assert plan.end() == EX_CONFIG
    assert 'database "nowhere" does not exist' in plan.text()
    assert capture.end() == EX_CONFIG
    assert "nowhere" in capture.text()


def test_missing_table(setup: Setup) -> None:
    execute(setup.source, "CREATE TABLE only_here (id int PRIMARY KEY)")
    outcome = setup.run("check")
    assert outcome.code == EX_FAILURE
    assert "public.only_here: the table does not exist" in outcome.out
    assert "remedy: create it with the source's columns" in outcome.out


def test_no_table_chosen(setup: Setup, start: Starter) -> None:
    setup.more["source"] = 'tables = ["public.nothing_like_it"]'
    capture = start(setup.start("capture"))
    assert setup.run("check").code == EX_FAILURE
    assert capture.end() == EX_CONFIG
    assert "public.nothing_like_it" in capture.text()


def test_a_database_into_itself(setup: Setup, start: Starter) -> None:
    setup.target = make_conninfo(setup.source, host="localhost")
    capture = start(setup.start("capture"))
    outcome = setup.run("check")
    assert outcome.code == EX_FAILURE
    assert "source and target are the same database" in outcome.out
    assert capture.end() == EX_CONFIG
    assert "public.items would be replicated again" in capture.text()


def test_missing_privileges(setup: Setup, start: Starter) -> None:
    with role_on(setup.source, "LOGIN") as reader, role_on(setup.target, "LOGIN") as writer:
        setup.source = make_conninfo(setup.source, user=reader)
        setup.target = make_conninfo(setup.target, user=writer)
        capture = start(setup.start("capture"))
        outcome = setup.run("check")
        assert outcome.code == EX_FAILURE
        for text in (
            f"user {reader} has no REPLICATION attribute", f"remedy: ALTER ROLE {reader} REPLICATION",
            "public.items: no SELECT privilege", f"{reader} does not own the table", "may not create a publication",
            "public.items: SELECT, INSERT, UPDATE, DELETE, TRUNCATE is not granted",
            "may not create the schema headrace", "may not set session_replication_role",
        ):  # fmt: skip
            assert text in outcome.out
        assert capture.end() == EX_CONFIG
        assert "its publications (the user must own the tables)" in capture.text()


def test_wal_level_replica(setup: Setup, start: Starter, server_dir: Path) -> None:
    home = server_dir / f"replica-{uuid.uuid4().hex[:6]}"
    with EmbeddedPostgres(home, settings={"wal_level": "replica", "fsync": "off"}) as server:
        setup.source = server.dsn()
        execute(setup.source, "CREATE TABLE items (id int PRIMARY KEY, name text)")
        capture = start(setup.start("capture"))
        outcome = setup.run("check")
        assert outcome.code == EX_FAILURE
        assert "wal_level is replica, logical decoding needs logical" in outcome.out
        assert "remedy: ALTER SYSTEM SET wal_level = logical, then restart the server" in outcome.out
        assert capture.end() == EX_CONFIG
        assert "wal_level=replica" in capture.text()


def test_slot_in_use(setup: Setup, start: Starter) -> None:
    """Another capture may be about to go away, so this one waits, and says for what."""
    first = start(setup.start("capture"))
    first.await_text("capture starts anew")
    slot = f"headrace_{setup.stream}"
    await_active_slot(setup.source, slot)
    second = start(setup.start("capture"))
    second.await_text("trying again in")
    assert f'"{slot}" is active' in second.text()
    assert "Is a second capture of this stream running?" in second.text()
    assert first.stop() == EX_OK
    assert second.stop() == EX_OK


@pytest.mark.parametrize("plugin", ["pgoutput", "test_decoding"])
def test_slot_of_somebody_else(setup: Setup, start: Starter, source_pg: EmbeddedPostgres, plugin: str) -> None:
    """The name is taken by another database's stream, or by another program: nobody's slot is dropped."""
    slot = f"headrace_{setup.stream}"
    with fresh_database(source_pg) as other:
        dsn = other if plugin == "pgoutput" else setup.source
        execute(dsn, f"SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')")
        found = f"replication slot {slot} is somebody else's (plugin {plugin}, database "
        capture = start(setup.start("capture"))
        outcome = setup.run("check")
        assert outcome.code == EX_FAILURE
        assert f"{found}{conninfo_to_dict(dsn)['dbname']})" in outcome.out
        assert "remedy: Give this stream another name" in outcome.out
        assert capture.end() == EX_CONFIG
        assert found in capture.text()
        dropped = setup.run("drop", "--yes")
        assert dropped.code == EX_OK
        assert slot not in dropped.out
        execute(dsn, f"SELECT pg_drop_replication_slot('{slot}')")  # still there


def test_topic_with_wrong_partitions(setup: Setup, start: Starter) -> None:
    name = f"{setup.prefix}.lag"
    create_topic(setup.servers, name, 3)
    apply = start(setup.start("apply"))
    outcome = setup.run("check")
    assert outcome.code == EX_FAILURE
    assert f"topic {name} has 3 partitions, 8 are needed" in outcome.out
    assert apply.end() == EX_CONFIG
    assert f"headrace apply: topic {name} has 3 partitions, 8 are needed" in apply.text()


def test_all_is_well(setup: Setup) -> None:
    outcome = setup.run("check")
    assert outcome.code == EX_OK
    assert "0 blockers, 0 notes" in outcome.out


def await_active_slot(dsn: str, slot: str) -> None:
    """Wait until somebody streams from the slot."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        query = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
        until(lambda: conn.execute(query, [slot]).fetchone() == (True,))


@contextmanager
def role_on(dsn: str, options: str) -> Iterator[str]:
    """A database user of its own, without any privilege."""
    name = f"u_{uuid.uuid4().hex[:8]}"
    execute(dsn, f"CREATE ROLE {name} {options}")
    try:
        yield name
    finally:
        execute(dsn, f"DROP ROLE {name}")


@contextmanager
def password_needed(server: EmbeddedPostgres, user: str) -> Iterator[None]:
    """The server asks this user, and nobody else, for a password."""
    path = server.data_path / "pg_hba.conf"
    before = path.read_text()
    path.write_text(f"host all {user} all scram-sha-256\n{before}")
    execute(server.dsn(), "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        path.write_text(before)
        execute(server.dsn(), "SELECT pg_reload_conf()")

"""Changes that are lost for good are noticed before anything is applied, and `headrace resync` copies anew."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from confluent_kafka import TopicPartition
from typer.testing import CliRunner

from connectors.postgres.slot import slot_name
from headrace.cli import app
from tests.support.fixtures import MakeRig
from tests.support.rig import EX_OPERATOR, ROLES, Rig
from tests.support.topics import end_offset, group_members
from tests.support.writing import commit_each
from topologies.kafka import make_admin

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]


def slot_is_dropped(rig: Rig) -> None:
    with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
        conn.execute("SELECT pg_drop_replication_slot(%s)", [slot_name(rig.stream)])


def slot_is_advanced(rig: Rig) -> None:
    commit_each(rig, "INSERT INTO t VALUES (100)", "INSERT INTO t VALUES (101)")
    with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
        conn.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", [slot_name(rig.stream)])


def changes_have_expired(rig: Rig) -> None:
    """The planner is down while capture goes on, for longer than `changes` is kept."""
    rig.start("capture")
    before = end_offset(rig.settings, "changes")
    commit_each(rig, *(f"INSERT INTO t VALUES ({n})" for n in range(100, 110)))
    rig.until(lambda: end_offset(rig.settings, "changes") > before, "changes are captured")
    rig.stop("capture")
    where = TopicPartition(rig.settings.topic("changes"), 0, end_offset(rig.settings, "changes"))
    admin = make_admin(rig.settings)  # kept: the answer comes through it
    for future in admin.delete_records([where]).values():
        future.result()
    commit_each(rig, "INSERT INTO t VALUES (200)")


@pytest.mark.parametrize(
    ("accident", "role", "message"),
    [
        (slot_is_dropped, "capture", "has no replication slot"),
        pytest.param(slot_is_advanced, "capture", "past", marks=pytest.mark.long),
        pytest.param(
            changes_have_expired, "capture", "its retention is shorter than the outage", marks=pytest.mark.long
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_lost_changes_are_noticed_and_a_resync_heals(
    make_rig: MakeRig, accident: Callable[[Rig], None], role: str, message: str
) -> None:
    rig = make_rig()
    rig.both("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE log (n int)")
    commit_each(rig, *(f"WITH w AS (INSERT INTO t VALUES ({n})) INSERT INTO log VALUES ({n})" for n in range(20)))
    rig.start()
    rig.wait_until_equal()
    rig.stop(*ROLES)
    accident(rig)
    rig.faults[accident.__name__] += 1
    rig.start()
    assert rig.wait_for_end(role) == EX_OPERATOR
    assert message in rig.log(role)
    assert f"`headrace resync --stream {rig.stream} --yes`" in rig.log(role)
    assert rig.target_rows("SELECT count(*) FROM t") == [(20,)], "nothing was applied past the gap"

    rig.until(lambda: all(group_members(rig.settings, name) for name in ("plan", "apply")), "the others have started",
              failing=False)  # fmt: skip
    arguments = ["resync", "-c", str(rig.config_path), "--stream", rig.stream]
    running = CliRunner().invoke(app, [*arguments, "--yes"])
    assert "stop `headrace run` and all roles first" in str(running.exception)
    rig.stop(*(name for name in ROLES if name != role))
    rig.until(lambda: not any(group_members(rig.settings, name) for name in ("plan", "apply")), "they have left",
              failing=False)  # fmt: skip
    planned = CliRunner().invoke(app, arguments)
    assert (planned.exit_code, "EMPTY these tables" in planned.output) == (1, True)
    assert CliRunner().invoke(app, [*arguments, "--yes"]).exit_code == 0
    rig.start()
    commit_each(rig, "INSERT INTO log VALUES (1000)", "DELETE FROM t WHERE id = 3")
    rig.wait_until_equal()
    anew = rig.log("capture").count("capture starts anew")
    rig.stop("capture")
    rig.start("capture")
    commit_each(rig, "INSERT INTO log VALUES (1001)")
    rig.wait_until_equal()
    assert rig.log("capture").count("capture starts anew") == anew >= 2

"""A target that is restored from a backup goes back in time; the stream has to go back with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from headrace.embedded import EmbeddedPostgres
from tests.support.fixtures import MakeRig
from tests.support.rig import ROLES, Rig
from tests.support.writing import commit_each

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

STEP = 300


def write(rig: Rig, step: int) -> None:
    """Transactions that overwrite each other's rows, each with a number that must arrive once."""
    numbers = range(step * STEP, (step + 1) * STEP)
    commit_each(
        rig,
        *(f"WITH w AS (UPDATE t SET value = {n} WHERE id = {n % 50}) INSERT INTO log VALUES ({n})" for n in numbers),
    )


def run(server: EmbeddedPostgres, program: str, *arguments: str) -> None:
    subprocess.run([str(server.bin_dir / program), *arguments], check=True, capture_output=True)


def test_a_restored_target_catches_up(make_rig: MakeRig, target_pg: EmbeddedPostgres, tmp_path: Path) -> None:
    rig = make_rig()
    rig.both("CREATE TABLE t (id int PRIMARY KEY, value int)", "CREATE TABLE log (n int)")
    rig.source("INSERT INTO t SELECT n, 0 FROM generate_series(0, 49) n")
    rig.start()
    write(rig, 0)
    rig.wait_until_equal()
    backup = tmp_path / "backup.sql"
    run(target_pg, "pg_dump", "-f", str(backup), rig.target_dsn)
    # What is lost was planned by two planners: the second one's epoch, which began later than the backup, must
    # not be taken for the one that begins after it.
    write(rig, 1)
    rig.wait_until_equal()
    rig.kill("plan")
    write(rig, 2)
    rig.wait_until_equal()
    rig.stop(*ROLES)
    name = psycopg.conninfo.conninfo_to_dict(rig.target_dsn)["dbname"]
    with psycopg.connect(target_pg.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(name))))
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(str(name))))
    run(target_pg, "psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(backup), rig.target_dsn)
    assert rig.target_rows("SELECT count(*) FROM log") == [(STEP,)]
    rig.start(*ROLES)
    write(rig, 3)
    rig.wait_until_equal()
    assert rig.target_rows("SELECT count(*), count(DISTINCT n) FROM log") == [(4 * STEP, 4 * STEP)]
    assert "ahead of the ledger" in rig.log("plan")
    assert rig.roles["apply"].codes == [0], "a lane waits for the planner; the process does not give up"

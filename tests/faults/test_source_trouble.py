"""A source that has forgotten what was not captured, or was replaced by a standby that never had it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from headrace.cli import app
from headrace.embedded import EmbeddedPostgres
from headrace.embedded.account import server_account
from tests.conftest import PG_SETTINGS
from tests.support.fixtures import MakeRig
from tests.support.rig import EX_OPERATOR, ROLES, Rig
from tests.support.writing import commit_each

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(200)]

FORGET = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB", "shared_buffers": "16MB"}
WAL_MIB = 100  # several segments more than the slot may hold back


def started(rig: Rig) -> Rig:
    rig.both("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE log (n int)")
    rig.source("INSERT INTO t SELECT generate_series(1, 20)")
    rig.start()
    rig.wait_until_equal()
    return rig


def is_noticed_and_healed(rig: Rig, message: str) -> None:
    assert rig.wait_for_end("capture") == EX_OPERATOR
    assert message in rig.log("capture")
    assert f"`headrace resync --stream {rig.stream} --yes`" in rig.log("capture")
    assert rig.target_rows("SELECT count(*) FROM t WHERE id > 1000") == [(0,)], "nothing beyond the gap was applied"
    rig.stop("plan", "apply")
    assert CliRunner().invoke(app, ["resync", "-c", str(rig.config_path), "--yes"]).exit_code == 0
    rig.start()
    commit_each(rig, "INSERT INTO log VALUES (1)")
    rig.wait_until_equal()


def test_the_slot_is_invalidated(make_rig: MakeRig, own_dir: Path) -> None:
    with EmbeddedPostgres(own_dir, settings={**PG_SETTINGS, **FORGET}) as source:
        rig = started(make_rig(source_dsn=source.dsn()))
        rig.stop("capture")
        commit_each(rig, "INSERT INTO t VALUES (1001)")
        with psycopg.connect(source.dsn(), autocommit=True) as conn:
            for _ in range(WAL_MIB):
                conn.execute("SELECT pg_logical_emit_message(false, 'tests', repeat('x', 1024 * 1024))")
            conn.execute("CHECKPOINT")
            rig.until(
                lambda: conn.execute("SELECT FROM pg_replication_slots WHERE wal_status = 'lost'").rowcount == 1,
                "the slot is invalidated",
            )
        rig.faults["slot invalidated"] += 1
        rig.start("capture")
        is_noticed_and_healed(rig, "is invalidated: its WAL is gone (max_slot_wal_keep_size)")


def test_a_standby_takes_over_that_lacks_the_newest_changes(make_rig: MakeRig, own_dir: Path) -> None:
    with EmbeddedPostgres(own_dir / "primary", settings=PG_SETTINGS) as primary:
        rig = started(make_rig(source_dsn=primary.dsn()))
        with EmbeddedPostgres(own_dir / "standby", settings=PG_SETTINGS) as standby:
            standby.stop()
            clone(primary, standby)
            # Captured, applied, and never received by the standby.
            commit_each(rig, *(f"INSERT INTO log SELECT {n} FROM generate_series(1, 1000)" for n in range(100)))
            rig.wait_until_equal()
            rig.stop(*ROLES)
            primary.kill()
            (standby.data_path / "standby.signal").unlink()
            standby.start()
            rig.faults["failover"] += 1
            rig.rewrite_config(f"port={primary.port}", f"port={standby.port}")
            rig.source_dsn = standby.dsn()
            commit_each(rig, "INSERT INTO t VALUES (1001)")
            rig.start()
            is_noticed_and_healed(rig, "before the last captured position")


def clone(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """Make the standby's files a base backup of the primary."""
    subprocess.run(["rm", "-r", str(standby.data_path)], check=True)
    subprocess.run(
        [str(primary.bin_dir / "pg_basebackup"), "-D", str(standby.data_path), "-R", "-c", "fast", "-d", primary.dsn()],
        check=True, capture_output=True,
    )  # fmt: skip
    account = server_account()
    if account is not None:
        uid, gid = account.numbers
        subprocess.run(["chown", "-R", f"{uid}:{gid}", str(standby.data_path)], check=True)

"""A target whose disk is really full: a tablespace on a file system of a few megabytes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from headrace.embedded import EmbeddedPostgres
from headrace.embedded.account import server_account
from headrace.status import stream_status
from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.writing import commit_each

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(150)]


@pytest.fixture
def small_disk(own_dir: Path) -> Iterator[Path]:
    """A tmpfs of 16 MiB that the server may write to; needs the right to mount."""
    disk = own_dir / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "headrace", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    account = server_account()
    if account is not None:
        os.chown(disk, *account.numbers)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_the_disk_of_the_target_is_full(make_rig: MakeRig, small_disk: Path, own_pg: EmbeddedPostgres) -> None:
    rig = make_rig(target_dsn=own_pg.dsn(), target={"on_error": "park"})
    create_bank(rig)
    with psycopg.connect(own_pg.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'".encode())
        conn.execute("CREATE TABLE filler (id int PRIMARY KEY, filler text) TABLESPACE small")
    rig.source("CREATE TABLE filler (id int PRIMARY KEY, filler text)")
    rig.start()
    rig.wait_until_equal()
    with BankLoad(rig) as load:
        rows = "INSERT INTO filler SELECT n, repeat(md5(n::text), 30) FROM generate_series({0}, {0} + 999) n"
        commit_each(rig, *(rows.format(first) for first in range(1, 30_000, 1000)))
        rig.until(lambda: "[SQLSTATE 53100]" in rig.log("apply"), "the disk is full")
        rig.faults["disk full"] += 1
        rig.until(lambda: stream_status(rig.settings, rig.config).state == "paused", "the status says so")
        subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
        load.wait_for_transfers(100)
        load.finish()
    assert rig.target_rows("SELECT count(*) FROM headrace.parked") == [(0,)]
    assert rig.roles["apply"].codes == rig.roles["plan"].codes == []

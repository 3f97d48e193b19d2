"""The connection to a database breaks, or goes silent, at the worst moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.proxy import Proxy
from tests.support.rig import Rig

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

BETWEEN = 40


@contextmanager
def through_proxy(make_rig: MakeRig, dsn: str, side: str) -> Iterator[tuple[Rig, Proxy]]:
    """A rig whose roles reach the database at `dsn` through a proxy; the test itself goes straight there."""
    parts = conninfo_to_dict(dsn)
    with Proxy(str(parts["host"]), int(str(parts["port"]))) as proxy:
        rig = make_rig(**{side: {"dsn": make_conninfo(dsn, host="127.0.0.1", port=proxy.port)}})
        create_bank(rig)
        rig.start()
        rig.wait_until_equal()
        yield rig, proxy
        rig.faults += proxy.faults


def test_the_reply_to_commit_is_lost(make_rig: MakeRig, target_db: str) -> None:
    with through_proxy(make_rig, target_db, "target") as (rig, proxy), BankLoad(rig) as load:
        load.wait_for_transfers(BETWEEN)
        for count in (1, 3):
            proxy.swallow_commits(count)
            rig.until(lambda: not proxy.commits_left, "replies are swallowed")
            load.wait_for_transfers(BETWEEN)
        load.finish()
        assert proxy.faults["replies to COMMIT swallowed"] == 4
        assert "reading the ledger to see whether it was committed" in rig.log("apply")
        assert rig.roles["apply"].codes == []


def test_connections_are_cut_again_and_again(make_rig: MakeRig, target_db: str) -> None:
    with through_proxy(make_rig, target_db, "target") as (rig, proxy), BankLoad(rig) as load:
        for _ in range(6):
            load.wait_for_transfers(BETWEEN)
            proxy.delay_s = 0.002 - proxy.delay_s
            proxy.cut()
        proxy.delay_s = 0.0
        load.wait_for_transfers(BETWEEN)
        load.finish()
        assert rig.roles["apply"].codes == rig.roles["plan"].codes == []


@pytest.mark.long
def test_the_target_goes_silent(make_rig: MakeRig, target_db: str) -> None:
    with through_proxy(make_rig, target_db, "target") as (rig, proxy), BankLoad(rig) as load:
        load.wait_for_transfers(BETWEEN)
        proxy.silent = True
        proxy.faults["silence"] += 1
        time.sleep(25)
        proxy.silent = False
        load.wait_for_transfers(BETWEEN)
        load.finish()


@pytest.mark.long
def test_the_source_is_cut_off(make_rig: MakeRig, source_db: str) -> None:
    with through_proxy(make_rig, source_db, "source") as (rig, proxy), BankLoad(rig) as load:
        for _ in range(6):
            load.wait_for_transfers(BETWEEN)
            proxy.cut()
        load.wait_for_transfers(BETWEEN)
        load.finish()

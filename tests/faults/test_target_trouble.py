"""Faults of the target that may pass: the stream pauses with an alert and goes on by itself; nothing is parked."""

from __future__ import annotations

import contextlib
import threading

import psycopg
import pytest

from headrace.status import stream_status
from tests.support.bank import ACCOUNTS, BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.rig import Rig

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

# disk full, out of memory, missing privilege, read-only, lock timeout, cancelled, deadlock, serialization failure
TROUBLES = ("53100", "53200", "42501", "25006", "55P03", "57014", "40P01", "40001")
# The trigger is an "always" one: it fires in the lanes' sessions, whose role is "replica".
FUNCTION = """
CREATE FUNCTION raise_trouble() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE s text;
BEGIN
  SELECT state INTO s FROM public.trouble;
  IF s IS NOT NULL THEN RAISE EXCEPTION 'trouble' USING ERRCODE = s; END IF;
  RETURN NULL;
END $$
"""
SQL = (
    "CREATE TABLE trouble (state text)",
    FUNCTION,
    "CREATE TRIGGER trouble AFTER INSERT ON ledger_entry EXECUTE FUNCTION raise_trouble()",
    "ALTER TABLE ledger_entry ENABLE ALWAYS TRIGGER trouble",
)


def is_paused(rig: Rig, reason: str) -> bool:
    status = stream_status(rig.settings, rig.config)
    return status.state == "paused" and reason in status.last_error


def written(rig: Rig) -> int:
    return int(str(rig.source_rows("SELECT count(*) FROM ledger_entry")[0][0]))


def test_trouble_pauses_the_stream_and_parks_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(target={"on_error": "park"})
    create_bank(rig)
    with rig.target_connection() as conn, BankLoad(rig) as load:
        for statement in SQL:
            conn.execute(statement.encode())
        rig.start()
        rig.wait_until_applied()  # the lanes commit the parts of a snapshot in any order: now the target is whole
        load.wait_for_transfers(20)
        for number, trouble in enumerate(TROUBLES):
            seen = rig.log("apply").count(f"[SQLSTATE {trouble}]")
            conn.execute("INSERT INTO trouble VALUES (%s)", [trouble])
            rig.until(lambda t=trouble, s=seen: rig.log("apply").count(f"[SQLSTATE {t}]") > s, "it is met")  # type: ignore[misc]
            if number == 0:
                rig.until(lambda: is_paused(rig, "[SQLSTATE 53100]"), "the status says so")
            conn.execute("DELETE FROM trouble")
            rig.faults[f"SQLSTATE {trouble}"] += 1
            load.wait_for_transfers(20)
        load.finish()
        assert conn.execute("SELECT count(*) FROM headrace.parked").fetchone() == (0,)
    assert rig.roles["apply"].codes == rig.roles["plan"].codes == []


def test_a_locked_table_holds_the_stream_back_and_no_longer(make_rig: MakeRig) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    with BankLoad(rig) as load:
        load.wait_for_transfers(20)
        with rig.target_connection() as conn, conn.transaction():
            conn.execute("LOCK TABLE ledger_entry IN ACCESS EXCLUSIVE MODE")
            rig.faults["table locked"] += 1
            before = written(rig)
            rig.until(lambda: written(rig) > before + 300, "a backlog grows")
        load.wait_for_transfers(300)
        load.finish()
    assert rig.roles["apply"].codes == []


def _reverse(rig: Rig, stopping: threading.Event) -> None:
    """Transactions of somebody else on the target, that lock accounts in another order than anybody."""
    with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
        while not stopping.wait(0.02):
            with contextlib.suppress(psycopg.errors.DeadlockDetected), conn.transaction():
                for key in range(ACCOUNTS, 0, -1):
                    conn.execute("UPDATE account SET balance = balance WHERE id = %s", [key])


@pytest.mark.long
def test_deadlocks_with_somebody_else(make_rig: MakeRig) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    met = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    stopping = threading.Event()
    others = threading.Thread(target=_reverse, args=(rig, stopping))
    others.start()
    try:
        with BankLoad(rig) as load:
            rig.until(lambda: int(str(rig.target_rows(met)[0][0])) >= 3, "there are deadlocks", timeout_s=100)
            rig.faults["deadlocks"] += int(str(rig.target_rows(met)[0][0]))
            stopping.set()
            load.wait_for_transfers(20)
            load.finish()
    finally:
        stopping.set()
        others.join()
    assert rig.roles["apply"].codes == []


@pytest.mark.long
def test_sessions_are_ended_every_moment(make_rig: MakeRig) -> None:
    rig = make_rig()
    create_bank(rig)
    rig.start()
    rig.wait_until_equal()
    with BankLoad(rig) as load, rig.target_connection() as conn:
        for _ in range(20):
            load.wait_for_transfers(20)
            ended = conn.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'headrace %'"
                " AND datname = current_database()"
            ).fetchone()
            rig.faults["sessions ended"] += int(ended[0]) if ended is not None else 0  # type: ignore[call-overload]
        load.finish()

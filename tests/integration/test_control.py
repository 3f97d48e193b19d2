"""A slow target: urgent tables overtake a bulk load, buffers keep their limits, and the source keeps the rest."""

from __future__ import annotations

import psycopg
import pytest

from headrace.recent import recent_reports
from schemas.role_report import RoleReport
from tests.support.fixtures import MakeRig
from tests.support.rig import Rig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

BULK, URGENT = 3000, 20
SLOW = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.0005); RETURN NEW; END $$",
    "CREATE TRIGGER slow BEFORE INSERT ON bulk FOR EACH ROW EXECUTE FUNCTION slow()",
    "ALTER TABLE bulk ENABLE ALWAYS TRIGGER slow",
    """CREATE FUNCTION count_bulk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN SELECT count(*) INTO NEW.behind FROM bulk; RETURN NEW; END $$""",
    "CREATE TRIGGER count_bulk BEFORE INSERT ON urgent FOR EACH ROW EXECUTE FUNCTION count_bulk()",
    "ALTER TABLE urgent ENABLE ALWAYS TRIGGER count_bulk",
)


def reports(rig: Rig) -> dict[str, RoleReport]:
    """The newest report of each role."""
    return {report.role: report for report in recent_reports(rig.settings, 0)}


def test_urgent_tables_overtake_a_bulk_load(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STREAMS__0__TARGET__PRIORITIES__CRITICAL", "public.urgent")
    rig = make_rig(target={"lanes": 3, "merge_transactions_max": 100})
    rig.both("CREATE TABLE bulk (id int PRIMARY KEY)", "CREATE TABLE urgent (id int PRIMARY KEY, behind int)")
    with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
        for statement in SLOW:
            conn.execute(statement.encode())
    rig.start()
    rig.wait_until_applied()
    with psycopg.connect(rig.target_dsn) as lock:  # nothing is applied before all of it is planned
        lock.execute("LOCK TABLE bulk, urgent IN EXCLUSIVE MODE")
        with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
            conn.execute(
                f"DO $$ BEGIN FOR n IN 1..{BULK} LOOP INSERT INTO bulk VALUES (n); COMMIT; END LOOP; END $$".encode()
            )
            for n in range(URGENT):
                conn.execute("INSERT INTO urgent VALUES (%s, 0)", [n])
        rig.until(lambda: _in_flight(rig) >= BULK + URGENT, "all is planned")
        there = f"SELECT FROM pg_stat_activity WHERE application_name = 'headrace {rig.stream} lane 2'"
        waiting = f"{there} AND wait_event_type = 'Lock'"
        rig.until(lambda: rig.target_rows(waiting), "the lane of urgent tables has what it needs")
    rig.wait_until_equal("bulk")
    behind = sorted(int(str(row[0])) for row in rig.target_rows("SELECT behind FROM urgent"))
    assert len(behind) == URGENT
    print(f"bulk transactions applied before an urgent one, of {BULK} that were committed before it: "
          f"median {behind[URGENT // 2]}, p99 {behind[-1]}")  # fmt: skip
    assert behind[-1] < BULK / 2
    assert rig.target_rows("SELECT transactions FROM headrace.lane WHERE lane = 2") == [(URGENT,)]


def _in_flight(rig: Rig) -> int:
    report = reports(rig).get("plan")
    return next(b.used for b in report.buffers if b.name == "transactions in flight") if report else 0


def test_a_target_that_stands_still_fills_no_buffer_beyond_its_limit(make_rig: MakeRig) -> None:
    megabytes, ahead_mb = 20, 5
    rig = make_rig(source={"ahead_mb_max": ahead_mb})
    rig.both("CREATE TABLE bulk (id int PRIMARY KEY, body text)")
    rig.start()
    rig.wait_until_applied()
    rig.until(lambda: _ahead(rig) > 0, "capture has asked how far the target is: before that it has no limit")
    with psycopg.connect(rig.target_dsn) as lock:
        lock.execute("LOCK TABLE bulk IN EXCLUSIVE MODE")
        with psycopg.connect(rig.source_dsn, autocommit=True) as conn:
            for n in range(megabytes):
                conn.execute(
                    "INSERT INTO bulk SELECT %s, string_agg(md5(n::text), '') FROM generate_series(1, 32768) n", [n]
                )
        rig.until(lambda: _ahead(rig) > ahead_mb << 20, "capture pauses")
        seen = [_check_buffers(rig) for _ in range(3)]
        assert max(seen) < (ahead_mb + 6) << 20, "what was under way when the limit was reached"
        kept = rig.source_rows(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) FROM pg_replication_slots"
            f" WHERE slot_name = 'headrace_{rig.stream}'"
        )
        assert int(str(kept[0][0])) > 1 << 20, "the source keeps what was not captured"
    rig.wait_until_equal("bulk")
    rig.until(lambda: _ahead(rig) < ahead_mb << 20, "the lead is made up")
    # A transaction of more than the limit: its parts are applied together, so capture must not pause between them.
    rig.source("INSERT INTO bulk SELECT 100 + n, body FROM bulk, generate_series(1, 12) n WHERE id = 0")
    rig.wait_until_equal("bulk")


def test_planning_goes_on_while_the_watermark_is_advanced(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.both("CREATE TABLE t (id int PRIMARY KEY)")
    rig.start()
    rig.wait_until_applied()
    with psycopg.connect(rig.target_dsn) as lock:
        lock.execute("SELECT FROM headrace.stream FOR NO KEY UPDATE")
        rig.source("INSERT INTO t VALUES (1)")
        waiting = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'headrace%' AND wait_event_type = 'Lock'"
        rig.until(lambda: rig.target_rows(waiting), "the planner waits for the stream's row")
        rig.source("INSERT INTO t VALUES (2)")
        rig.until(lambda: len(rig.target_rows("SELECT FROM t")) == 2, "what came meanwhile is applied")
    rig.wait_until_equal("t")


def _ahead(rig: Rig) -> int:
    report = reports(rig).get("capture")
    return next(b.used for b in report.buffers if b.name == "ahead of the target") if report else 0


def _check_buffers(rig: Rig) -> int:
    """Every buffer but the one that may exceed its limit by what is under way; returns that."""
    for report in reports(rig).values():
        for buffer in report.buffers:
            if buffer.name not in ("ahead of the target", "unacknowledged changes"):
                assert buffer.used <= buffer.limit, (report.role, buffer)
    return _ahead(rig)

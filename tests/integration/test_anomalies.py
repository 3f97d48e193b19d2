"""Rows that somebody else has deleted or written on the target: refused, or counted and settled by policy."""

from __future__ import annotations

import pytest

from headrace.status import stream_status
from tests.support.fixtures import MakeRig
from tests.support.rig import Rig
from tests.support.writing import commit_each

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WIDE = "x" * 5000  # stored out of line: an UPDATE of another column does not send it


def start(make_rig: MakeRig, **target: str) -> Rig:
    rig = make_rig(target=dict(target))
    rig.both(
        "CREATE TABLE t (id int PRIMARY KEY, value int, wide text)", "ALTER TABLE t ALTER wide SET STORAGE EXTERNAL"
    )
    rig.source("INSERT INTO t SELECT n, 0, 'short' FROM generate_series(1, 100) n")
    rig.start()
    rig.wait_until_equal()
    return rig


def counted(rig: Rig) -> tuple[int, int]:
    status = stream_status(rig.settings, rig.config)
    return status.missing_rows, status.existing_rows


def test_missing_and_existing_rows_are_made_right(make_rig: MakeRig) -> None:
    rig = start(make_rig, on_missing_row="insert", on_existing_row="update")
    with rig.target_connection() as conn:
        conn.execute("DELETE FROM t WHERE id <= 90")
        conn.execute("INSERT INTO t VALUES (200, 7, 'theirs')")
    commit_each(
        rig,
        "UPDATE t SET value = 1 WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t VALUES (200, 8, 'ours')",
        "UPDATE t SET value = 3 WHERE id <= 90",  # set-based at first: many rows
        "UPDATE t SET id = 300 WHERE id = 5",
        "UPDATE t SET value = 4 WHERE id = 100",
    )
    rig.wait_until_equal()
    missing, existing = counted(rig)
    assert existing == 1
    assert missing >= 90  # row 1 once, row 2, and rows that nothing had written yet


def test_missing_and_existing_rows_are_passed_over(make_rig: MakeRig) -> None:
    rig = start(make_rig, on_missing_row="ignore", on_existing_row="ignore")
    with rig.target_connection() as conn:
        conn.execute("DELETE FROM t WHERE id = 1")
        conn.execute("INSERT INTO t VALUES (200, 7, 'theirs')")
    commit_each(
        rig,
        "UPDATE t SET value = 1 WHERE id = 1",
        "INSERT INTO t VALUES (200, 8, 'ours')",
        "UPDATE t SET value = 9 WHERE id = 9",
    )
    rig.wait_until_applied()
    assert rig.target_rows("SELECT * FROM t WHERE id IN (1, 9, 200) ORDER BY id") == [
        (9, 9, "short"),
        (200, 7, "theirs"),
    ]
    assert counted(rig) == (1, 1)


def test_a_missing_row_that_came_incomplete_is_refused(make_rig: MakeRig) -> None:
    rig = start(make_rig, on_missing_row="insert")
    commit_each(rig, f"UPDATE t SET wide = '{WIDE}' WHERE id = 3")
    rig.wait_until_equal()
    with rig.target_connection() as conn:
        conn.execute("DELETE FROM t WHERE id = 3")
    commit_each(rig, "UPDATE t SET value = 1 WHERE id = 3")
    rig.wait_for_end("apply")
    assert "REPLICA IDENTITY FULL" in rig.log("apply")
    assert counted(rig) == (0, 0)

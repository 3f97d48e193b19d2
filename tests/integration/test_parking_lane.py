"""What the parking lane applies and what it keeps, in a window where something is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from connectors.postgres.dead_letters import PostgresDeadLetters
from connectors.postgres.parking_lane import ParkingLane
from connectors.settings import SourceSettings, TargetSettings
from schemas.change_batch import ChangeBatch
from tests.support.direct import DirectStream, on_both

pytestmark = pytest.mark.integration

# Rows with an array travel through temporary tables.
TABLES = """
CREATE TABLE t (id int PRIMARY KEY, value int);
CREATE TABLE employee (id int PRIMARY KEY, boss int REFERENCES employee);
CREATE TABLE general (id int PRIMARY KEY, chief int REFERENCES general, medals int[]);
"""
ROWS = (
    "INSERT INTO t VALUES (1, 1), (2, 2)",
    "INSERT INTO employee SELECT n, NULLIF(n - 1, 0) FROM generate_series(1, 100) n",
    "INSERT INTO general SELECT n, CASE WHEN n % 100 <> 1 THEN n - 1 END FROM generate_series(1, 200) n",
)


@contextmanager
def parking(
    source_db: str, target_db: str, on_missing_row: str = "error"
) -> Iterator[tuple[DirectStream, ParkingLane]]:
    """A stream with rows on both sides, whose target enforces foreign keys and refuses a value of 13."""
    on_both([source_db, target_db], TABLES)
    target = TargetSettings(target_db, session_replication_role="origin", on_missing_row=on_missing_row)
    with DirectStream(SourceSettings(source_db, ("public.*",)), target) as stream:
        stream.replicate(*ROWS)
        stream.there.execute("ALTER TABLE t ADD CONSTRAINT unlucky CHECK (value <> 13)")
        stream.lane.close()
        stream.lane = lane = ParkingLane(stream.stream, 0, target)
        yield stream, lane


def settle(stream: DirectStream, lane: ParkingLane, *transactions: str) -> tuple[ChangeBatch, dict[int, str]]:
    """Apply or park transactions as one window; return it, and the parked positions with their states."""
    batch = stream.write(*transactions)
    assert lane.apply_or_park(stream.group([batch], serial=True)).fenced is None
    letters = PostgresDeadLetters(stream.stream, stream.target).letters()
    return batch, {letter.position: letter.sqlstate for letter in letters}


def test_rows_in_each_others_way_are_applied_as_a_set(source_db: str, target_db: str) -> None:
    with parking(source_db, target_db) as (stream, lane):
        batch, parked = settle(
            stream, lane,
            "UPDATE t SET value = 13 WHERE id = 1",
            "DELETE FROM employee WHERE id > 50",
            "DELETE FROM general WHERE id BETWEEN 51 AND 100",
            "UPDATE t SET value = 3 WHERE id = 2",
        )  # fmt: skip
        assert parked == {batch.positions[0]: "23514"}
        assert not stream.differing(["public.employee", "public.general"])
        assert stream.rows("SELECT * FROM t ORDER BY id") == [(1, 1), (2, 3)]


def test_nothing_stays_of_a_set_that_is_refused(source_db: str, target_db: str) -> None:
    """Neither its rows nor what was counted; and its temporary tables, which are gone, are made again."""
    with parking(source_db, target_db, on_missing_row="ignore") as (stream, lane):
        stream.there.execute("CREATE TABLE badge (general int REFERENCES general); INSERT INTO badge VALUES (90)")
        stream.there.execute("DELETE FROM t WHERE id = 2")
        batch, parked = settle(
            stream, lane,
            "UPDATE t SET value = 4 WHERE id = 2; DELETE FROM general WHERE id BETWEEN 81 AND 100",
            "DELETE FROM general WHERE id BETWEEN 181 AND 200",
        )  # fmt: skip
        assert parked == {batch.positions[0]: "23503"}
        assert stream.rows("SELECT count(*) FROM general") == [(180,)]
        assert stream.rows("SELECT sum(missing_rows) FROM headrace.lane") == [(0,)]


def test_a_letter_is_replayed_as_a_set(source_db: str, target_db: str) -> None:
    with parking(source_db, target_db) as (stream, lane):
        stream.there.execute("CREATE TABLE badge (employee int REFERENCES employee); INSERT INTO badge VALUES (90)")
        batch, parked = settle(stream, lane, "DELETE FROM employee WHERE id > 50")
        assert parked == {batch.positions[0]: "23503"}
        stream.there.execute("TRUNCATE badge")
        stream.there.execute(
            "UPDATE headrace.stream SET (generation, watermark) = (%s, %s)", [batch.generation, batch.last_position]
        )
        (outcome,) = PostgresDeadLetters(stream.stream, stream.target).replay(lambda letter: True)
        assert outcome.settled, outcome.text
        assert not stream.differing(["public.*"])

"""Records that should not be there, and rows that the target refuses."""

from __future__ import annotations

from array import array
from dataclasses import replace

import psycopg
import pytest

from schemas.change_batch import ChangeBatch
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.packed import INT32, INT64
from tests.support.fixtures import MakeRig
from tests.support.rig import EX_OPERATOR, Rig
from tests.support.topics import end_offset, read_topic, write_topic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

# ---- records -----------------------------------------------------------------------------------


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A stream with one table, caught up; its capture is stopped, so that a test can write in its place."""
    rig = make_rig()
    rig.both("CREATE TABLE t (id int PRIMARY KEY, value text)")
    rig.source("INSERT INTO t VALUES (1, 'first')")
    rig.start()
    rig.wait_until_equal()
    rig.source("INSERT INTO t VALUES (2, 'second')")
    rig.wait_until_equal()
    rig.stop("capture")
    return rig


def last_batch(rig: Rig) -> ChangeBatch:
    """The newest batch of rows in the topic."""
    batches = [decode_batch(record) for record in read_topic(rig.settings, "changes")]
    return [batch for batch in batches if batch.sections and batch.kind == "live"][-1]


def following(batch: ChangeBatch, previous: int, position: int, row_id: int) -> ChangeBatch:
    """A batch of one transaction with the one row of `batch`, under another key, at another place of the chain.

    `batch` may hold more transactions, such as the mark that `headrace wait` leaves in the source's log.
    """
    (section,) = batch.sections
    key = (4).to_bytes(4, "big") + row_id.to_bytes(4, "big")
    moved = replace(section, tx=array(INT32, [0]), keys=key, rows=section.rows[:2] + key + section.rows[10:])
    return replace(
        batch, previous_position=previous, positions=array(INT64, [position]), sections=[moved], messages=[],
        commit_times_us=batch.commit_times_us[:1], source_ids=batch.source_ids[:1],
    )  # fmt: skip


def test_a_damaged_record_stops_the_planner(rig: Rig) -> None:
    batch = last_batch(rig)
    end = end_offset(rig.settings, "changes")
    tail = decode_batch(read_topic(rig.settings, "changes")[-1]).last_position
    good = encode_batch(following(batch, tail, tail + 100, 3))
    beyond = encode_batch(following(batch, tail + 200, tail + 300, 4))
    damaged = good[:40] + bytes(20) + good[60:]
    write_topic(rig.settings, "changes", [good, damaged, beyond])
    assert rig.wait_for_end("plan") == EX_OPERATOR
    place = f"topic {rig.settings.topic('changes')}, partition 0, offset {end + 1} can't be read"
    assert place in rig.log("plan")
    row = rig.stream_row()
    assert row is not None
    assert place in row.stopped
    # What was good before it is applied, now or after the next start; nothing beyond it ever is.
    rig.start("plan")
    assert rig.wait_for_end("plan") == EX_OPERATOR
    rig.until(
        lambda: rig.target_rows("SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)], "row 3 is there", failing=False
    )
    assert rig.target_rows("SELECT count(*) FROM t WHERE id = 4") == [(0,)]


def test_a_gap_in_the_chain_stops_the_planner(rig: Rig) -> None:
    batch = last_batch(rig)
    tail = decode_batch(read_topic(rig.settings, "changes")[-1]).last_position
    good = encode_batch(following(batch, tail, tail + 100, 3))
    # The record from tail + 100 to tail + 200 is missing.
    beyond = encode_batch(following(batch, tail + 200, tail + 300, 4))
    write_topic(rig.settings, "changes", [good, beyond, beyond])
    assert rig.wait_for_end("plan") == EX_OPERATOR
    gap = f"changes are missing between position {tail + 100} (generation {batch.generation}) and {tail + 200}"
    assert gap in rig.log("plan")
    row = rig.stream_row()
    assert row is not None
    assert gap in row.stopped
    rig.start("plan")
    assert rig.wait_for_end("plan") == EX_OPERATOR
    rig.until(
        lambda: rig.target_rows("SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)], "row 3 is there", failing=False
    )
    assert rig.target_rows("SELECT count(*) FROM t WHERE id = 4") == [(0,)]


def test_damaged_and_repeated_records_of_other_topics_do_no_harm(rig: Rig) -> None:
    changes = read_topic(rig.settings, "changes")
    units = read_topic(rig.settings, "units")
    progress = read_topic(rig.settings, "progress")
    # Everything once more, as a process would send it that was frozen for a long time.
    write_topic(rig.settings, "progress", [b"", b"no progress", progress[-1][:-3], *progress])
    write_topic(rig.settings, "units", [b"no unit", units[-1][:-5], *units, units[-1]])
    write_topic(rig.settings, "changes", changes)
    rig.start("capture")
    rig.source("UPDATE t SET value = 'third' WHERE id = 1")
    rig.wait_until_equal()
    rig.kill("apply", "plan")
    rig.source("UPDATE t SET value = 'fourth' WHERE id = 1", "DELETE FROM t WHERE id = 2")
    rig.wait_until_equal()


def test_a_row_that_the_target_refuses_stops_the_stream(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.both("CREATE TABLE t (id int PRIMARY KEY, value int)", "CREATE TABLE other (id int PRIMARY KEY)")
    with psycopg.connect(rig.target_dsn) as conn:
        conn.execute("ALTER TABLE t ADD CONSTRAINT small CHECK (value < 100)")
    rig.start()
    rig.source("INSERT INTO t SELECT n, n FROM generate_series(1, 50) n")
    rig.wait_until_equal()
    rig.source(
        "INSERT INTO other VALUES (1)", "UPDATE t SET value = 100 WHERE id = 7", "UPDATE t SET value = 3 WHERE id = 8"
    )
    rig.source("INSERT INTO other VALUES (2)")
    assert rig.wait_for_end("apply") == EX_OPERATOR
    assert rig.wait_for_end("plan") == EX_OPERATOR
    row = rig.stream_row()
    assert row is not None
    assert 'violates check constraint "small"' in row.stopped
    assert "the target refuses position" in row.stopped
    assert "Nothing of this transaction was applied" in rig.log("apply")
    # Nothing of that transaction is there.
    assert rig.target_rows("SELECT value FROM t WHERE id = 8") == [(8,)]
    assert rig.target_rows("SELECT count(*) FROM other WHERE id = 1") == [(0,)]
    # Starting again changes nothing until the operator has mended the target.
    rig.start("plan", "apply")
    assert rig.wait_for_end("apply") == EX_OPERATOR
    rig.stop("plan")  # it may have begun too late to hear of that
    with psycopg.connect(rig.target_dsn) as conn:
        conn.execute("ALTER TABLE t DROP CONSTRAINT small")
    rig.start("plan", "apply")
    rig.wait_until_equal()
    row = rig.stream_row()
    assert row is not None
    assert row.stopped == ""

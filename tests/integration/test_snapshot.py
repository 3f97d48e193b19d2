"""How a stream begins: the snapshot, under writes, cut short, refused, or left out."""

from __future__ import annotations

import psycopg
import pytest

from connectors.failpoints import ENV_FAILPOINTS
from connectors.postgres.source import PostgresSource
from connectors.settings import SourceSettings
from tests.support.bank import BankLoad, create_bank
from tests.support.fixtures import MakeRig
from tests.support.rig import EX_OPERATOR, Rig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

# "a" is copied before "z". It has rows enough for many records, so that a test can act meanwhile.
A_ROWS, Z_ROWS = 60_000, 500
A_AND_Z = (
    "CREATE TABLE a (id int PRIMARY KEY, filler text)",
    "CREATE TABLE z (id int PRIMARY KEY, a_id int REFERENCES a)",
)


def fill(rig: Rig) -> None:
    rig.both(*A_AND_Z)
    rig.source(
        f"INSERT INTO a SELECT n, repeat('x', 20) FROM generate_series(1, {A_ROWS}) n",
        f"INSERT INTO z SELECT n, n FROM generate_series(1, {Z_ROWS}) n",
    )


def test_a_snapshot_while_writers_go_on(make_rig: MakeRig) -> None:
    rig = make_rig(source={"batch_bytes_max": 1024})  # the accounts in several records
    create_bank(rig)
    rig.source("INSERT INTO ledger_entry SELECT -n, 1, 1, 0 FROM generate_series(1, 2000) n")
    with BankLoad(rig) as load:
        rig.until(lambda: rig.source_rows("SELECT count(*) > 2050 FROM ledger_entry") == [(True,)], "writers write")
        rig.start()
        rig.wait_until_applied()
        load.wait_for_transfers(200)
        load.finish()


def test_a_snapshot_cut_short_begins_anew(make_rig: MakeRig) -> None:
    rig = make_rig(source={"batch_bytes_max": 16 * 1024})
    fill(rig)
    rig.environment["capture"] = {ENV_FAILPOINTS: "capture.before_send=sleep:600@50"}  # in the middle of "a"
    rig.start()
    rig.until(lambda: rig.target_rows("SELECT count(*) > 10000 FROM a") == [(True,)], "some of it is applied")
    rig.until(lambda: (row := rig.stream_row()) is not None and row.generation, "the ledger knows its generation")
    first = rig.stream_row()
    rig.kill("capture", again=False)
    rig.until(lambda: not rig.roles["capture"].alive, "capture is dead")
    assert rig.target_rows(f"SELECT count(*) < {A_ROWS}, (SELECT count(*) FROM z) FROM a") == [(True, 0)]
    # What the second snapshot must not leave behind: rows that are gone by then.
    rig.source("DELETE FROM a WHERE id BETWEEN 5000 AND 9000", "UPDATE a SET filler = 'new' WHERE id < 100")
    del rig.environment["capture"]
    rig.start("capture")
    rig.wait_for_log("capture", "with a new snapshot: the last one was not finished")
    rig.source("DELETE FROM a WHERE id BETWEEN 1000 AND 2000", "INSERT INTO z VALUES (-1, 5)")
    rig.wait_until_equal()
    second = rig.stream_row()
    assert first is not None
    assert second is not None
    assert second.generation > first.generation > 0


def test_a_pause_in_a_snapshot_keeps_the_connection(source_db: str) -> None:
    """Back-pressure pauses capture anywhere; the connection that has no stream yet is left alone."""
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE a AS SELECT n AS id FROM generate_series(1, 50) n")
    source = PostgresSource("paused", SourceSettings(source_db, ("public.*",), (), batch_bytes_max=64))
    try:
        parts = []
        for batch in source.batches(None):
            if batch is None:
                break  # it streams
            parts.append(batch.kind)
            source.keepalive()
        assert parts == ["snapshot"] * (len(parts) - 1) + ["live"]
        assert len(parts) > 2
    finally:
        source.close()


def test_rows_of_others_on_the_target_stop_the_snapshot(make_rig: MakeRig) -> None:
    rig = make_rig()
    fill(rig)
    with psycopg.connect(rig.target_dsn) as conn:
        conn.execute("INSERT INTO a VALUES (-1, 'of others'), (-2, 'of others')")
    rig.start()
    assert rig.wait_for_end("apply") == EX_OPERATOR
    refusal = "table public.a has rows, and they are not from a snapshot of this stream; empty it, or start the stream"
    assert refusal in rig.log("apply")
    row = rig.stream_row()
    assert row is not None
    assert refusal in row.stopped
    assert rig.target_rows("SELECT id FROM a ORDER BY id") == [(-2,), (-1,)]
    assert rig.target_rows("SELECT count(*) FROM z") == [(0,)]
    # The operator empties the table, and starts again what has given up.
    with psycopg.connect(rig.target_dsn) as conn:
        conn.execute("DELETE FROM a")
    rig.wait_for_end("plan")
    rig.start("plan", "apply")
    rig.wait_until_equal()
    row = rig.stream_row()
    assert row is not None
    assert row.stopped == ""


def test_without_a_snapshot_only_changes_travel(make_rig: MakeRig) -> None:
    rig = make_rig(source={"snapshot": "never"})
    fill(rig)
    rig.start()
    # A slot that is still being created is active too, and what is committed before it is complete is not in its log.
    ready = "active AND confirmed_flush_lsn IS NOT NULL"
    slot = f"SELECT {ready} FROM pg_replication_slots WHERE slot_name = 'headrace_{rig.stream}'"
    rig.until(lambda: rig.source_rows(slot) == [(True,)], "capture streams")
    rig.source("INSERT INTO a SELECT n, 'later' FROM generate_series(-10, -1) n", "INSERT INTO z VALUES (-1, -1)")
    rig.source("UPDATE a SET filler = 'changed' WHERE id = -3", "DELETE FROM a WHERE id = -4")
    rig.wait_until_applied()
    kept = "SELECT * FROM a WHERE id < 0 ORDER BY id"
    assert rig.target_rows(kept) == rig.source_rows(kept)
    assert rig.target_rows("SELECT count(*) FROM a") == [(9,)]
    assert rig.target_rows("SELECT * FROM z") == [(-1, -1)]

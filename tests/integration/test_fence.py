"""The ledger in a real database: what it admits, what it refuses, and what a planner that takes over finds."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from connectors.errors import RefusedError
from connectors.lane import Applied, UnitGroup
from connectors.postgres.copy_requests import note_copied
from connectors.postgres.lane import PostgresLane
from connectors.postgres.ledger import PostgresLedger
from connectors.postgres.parking_lane import ParkingLane
from connectors.settings import TargetSettings
from headrace.embedded import EmbeddedPostgres
from pipeline.builder import BatchBuilder
from pipeline.errors import RetriableError
from pipeline.fence import Fenced, LaneRow
from pipeline.merging import QueuedUnit
from pipeline.table_copies import TableCopy
from schemas.apply_unit import NORMAL, ApplyUnit
from schemas.change_batch import INSERT, ChangeBatch, Column, Relation
from schemas.packed import INT64
from schemas.rows import pack_fields, pack_row
from topologies.lane_transactions import LaneTransactions
from topologies.target_connection import TargetConnection

pytestmark = pytest.mark.integration

STREAM = "fenced"
RELATION = Relation(1, "public", "t", "d", (Column("id", "int4", key=True, binary=True),))


def batch(*ids: int, position: int) -> ChangeBatch:
    """One transaction that inserts rows."""
    builder = BatchBuilder(STREAM, 1, position - 1)
    builder.begin(position, 0, 0)
    section = builder.section(RELATION)
    for rank, number in enumerate(ids):
        field = number.to_bytes(4, "big")
        section.ops.append(INSERT)
        section.tx.append(0)
        section.order.append(rank)
        section.keys.append(pack_fields([field]))
        section.rows.append(pack_row([field]))
    return builder.close("live", 0, 0)


def group(*batches: ChangeBatch, epoch: int, seq: int, serial: bool = False) -> UnitGroup:
    """The batches as the units seq, seq + 1, ... of lane 0."""
    last = seq + len(batches) - 1
    return UnitGroup(STREAM, 1, 0, epoch, seq, last, 10 * last, batches, serial=serial)


@pytest.fixture
def settings(target_db: str) -> TargetSettings:
    with psycopg.connect(target_db) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY CHECK (id < 1000000))")
    return TargetSettings(target_db)


@pytest.fixture
def ledger(settings: TargetSettings) -> Iterator[PostgresLedger]:
    ledger = PostgresLedger(STREAM, settings)
    ledger.ensure()
    yield ledger
    ledger.close()


@pytest.fixture
def lane(ledger: PostgresLedger, settings: TargetSettings) -> Iterator[PostgresLane]:
    lane = PostgresLane(STREAM, 0, settings)
    yield lane
    lane.close()


def ids(settings: TargetSettings) -> list[int]:
    with psycopg.connect(settings.dsn) as conn:
        return [int(row[0]) for row in conn.execute("SELECT id FROM t ORDER BY id")]


def test_each_unit_is_admitted_once_and_in_turn(
    ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings
) -> None:
    epoch = ledger.takeover().epoch
    assert lane.apply(group(batch(1, position=10), epoch=epoch, seq=1)) == Applied(rows=1)
    assert lane.apply(group(batch(2, position=20), batch(3, position=30), epoch=epoch, seq=2)) == Applied(rows=2)
    assert lane.lane_row() == LaneRow(epoch, 3, 30)
    for seq, ids_, verdict in ((1, [9], Fenced.STALE), (3, [9], Fenced.STALE), (5, [9], Fenced.GAP)):
        assert lane.apply(group(batch(*ids_, position=40), epoch=epoch, seq=seq)).fenced is verdict
    # A group whose first unit is there already is not admitted in part.
    assert lane.apply(group(batch(3, position=30), batch(9, position=40), epoch=epoch, seq=3)).fenced is Fenced.STALE
    assert lane.apply(group(batch(9, position=40), epoch=epoch + 1, seq=4)).fenced is Fenced.AHEAD
    assert lane.lane_row() == LaneRow(epoch, 3, 30)
    assert ids(settings) == [1, 2, 3]


@pytest.mark.parametrize("rows", [1, 100])
def test_units_of_an_older_epoch_are_refused(
    ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings, rows: int
) -> None:
    old = ledger.takeover().epoch
    lane.apply(group(batch(*range(rows), position=10), epoch=old, seq=1))
    restart = ledger.takeover()
    assert restart.epoch > old > 1_000_000_000, "the seconds since 1970: no history uses an epoch again"
    assert restart.applied == {1: frozenset({10})}
    late = batch(*range(1000, 1000 + rows), position=20)
    assert lane.apply(group(late, epoch=old, seq=2)).fenced is Fenced.STALE
    assert lane.apply(group(late, epoch=old, seq=2, serial=True)).fenced is Fenced.STALE
    assert lane.apply(group(late, epoch=restart.epoch, seq=1)).fenced is None
    assert ids(settings) == [*range(rows), *range(1000, 1000 + rows)]


@pytest.mark.parametrize("serial", [False, True])
@pytest.mark.parametrize("rows", [2, 100, 1000])
def test_the_fence_is_judged_before_what_the_target_refuses(
    ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings, rows: int, serial: bool
) -> None:
    epoch = ledger.takeover().epoch
    whole = batch(*range(rows), position=10)
    assert lane.apply(group(whole, epoch=epoch, seq=1)).fenced is None
    # Its rows are there, which would be an error: it must be dropped, not reported.
    assert lane.apply(group(whole, epoch=epoch, seq=1, serial=serial)).fenced is Fenced.STALE
    assert lane.apply(group(whole, epoch=epoch, seq=3, serial=serial)).fenced is Fenced.GAP
    with pytest.raises(RefusedError, match="duplicate key"):
        lane.apply(group(whole, epoch=epoch, seq=2, serial=serial))


def test_a_refused_unit_leaves_nothing_behind(
    ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings
) -> None:
    epoch = ledger.takeover().epoch
    bad = batch(1, 1_000_001, position=10)
    with pytest.raises(RefusedError, match="violates check constraint"):
        lane.apply(group(bad, epoch=epoch, seq=1))
    with pytest.raises(RefusedError, match="violates check constraint"):
        lane.apply(group(batch(*range(100), 1_000_001, position=10), epoch=epoch, seq=1))
    assert lane.lane_row() == LaneRow(epoch, 0, 0)
    assert ids(settings) == []
    assert lane.apply(group(batch(1, position=10), epoch=epoch, seq=1)).fenced is None


def test_a_takeover_waits_for_a_unit_in_flight(
    ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings
) -> None:
    epoch = ledger.takeover().epoch
    with psycopg.connect(settings.dsn) as blocker:
        blocker.execute("INSERT INTO t VALUES (5)")  # the unit's INSERT of the same key waits for this one's end
        unit = group(batch(1, 5, position=10), epoch=epoch, seq=1)
        applied: list[object] = []
        taken: list[object] = []
        applying = threading.Thread(target=_collect, args=(applied, lambda: lane.apply(unit)))
        applying.start()
        taking = threading.Thread(target=_collect, args=(taken, ledger.takeover))
        with psycopg.connect(settings.dsn, autocommit=True) as conn:
            _until(conn, "headrace fenced lane 0")
            taking.start()
            _until(conn, "headrace fenced ledger")
        assert not applied
        assert not taken
        blocker.rollback()
    applying.join()
    taking.join()
    assert applied == [Applied(rows=2)]
    (restart,) = taken
    assert restart.applied == {1: frozenset({10})}  # type: ignore[attr-defined]
    assert ids(settings) == [1, 5]


def _collect(results: list[object], call: Callable[[], object]) -> None:
    results.append(call())


def _until(conn: psycopg.Connection[tuple[object, ...]], name: str, event: str = "Lock") -> None:
    """Wait until the session of that name, in a transaction, waits for a lock or for its client."""
    query = (
        "SELECT FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = %s AND xact_start IS NOT NULL"
    )
    while conn.execute(query, [name, event]).fetchone() is None:
        pass


def parts(epoch: int, *, first_id: int = 1) -> list[UnitGroup]:
    """One transaction in three parts, as the units from seq 1 on."""
    made = []
    for part in range(3):
        piece = replace(batch(first_id + part, position=10), part=part, last_part=part == 2, run=7)
        made.append(replace(group(piece, epoch=epoch, seq=1 + part), first_seq=1))
    return made


def test_parts_are_one_transaction(ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings) -> None:
    first, second, last = parts(ledger.takeover().epoch)
    lane.apply_part(first, first=True)
    lane.apply_part(second, first=False)
    assert ids(settings) == []
    assert lane.apply_last(last) == Applied(rows=3)
    assert ids(settings) == [1, 2, 3]
    assert lane.lane_row().seq == 3


def test_parts_do_not_hold_up_a_takeover(ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings) -> None:
    old = parts(ledger.takeover().epoch)
    lane.apply_part(old[0], first=True)
    lane.apply_part(old[1], first=False)
    new = parts(ledger.takeover().epoch)  # does not wait for parts that may never come
    assert lane.apply_last(old[2]).fenced is Fenced.STALE
    assert ids(settings) == []
    lane.apply_part(new[0], first=True)
    newer = parts(ledger.takeover().epoch)
    assert lane.apply_part(new[1], first=False).fenced is Fenced.STALE
    # A capture that was started again begins the transaction anew in the middle of it.
    lane.apply_part(newer[0], first=True)
    lane.apply_part(newer[1], first=False)
    lane.apply_part(newer[0], first=True)
    lane.apply_part(newer[1], first=False)
    assert lane.apply_last(newer[2]) == Applied(rows=3)
    assert ids(settings) == [1, 2, 3]


@pytest.fixture
def transactions(ledger: PostgresLedger, settings: TargetSettings) -> Iterator[LaneTransactions]:
    """The ledger's lane 0, as a lane's thread uses it."""
    target = TargetConnection(lambda: ParkingLane(STREAM, 0, settings), lambda _: True)
    yield LaneTransactions(STREAM, 0, target, lambda row, text: None)
    target.drop()


def queued(batch: ChangeBatch, *, epoch: int, seq: int) -> QueuedUnit:
    return QueuedUnit(ApplyUnit(STREAM, 1, 0, epoch, seq, NORMAL, 0, {}, 0, b""), batch, 10 * seq - 1, 1)


def test_a_unit_that_is_missing_between_parts_is_a_gap(
    ledger: PostgresLedger, transactions: LaneTransactions, settings: TargetSettings
) -> None:
    epoch = ledger.takeover().epoch
    first, _, last = (part.batches[0] for part in parts(epoch))
    transactions.commit([queued(first, epoch=epoch, seq=1)], serial=False)
    # The ledger's row tells nothing of it: seq 1 to 3 are what it waits for.
    assert transactions.commit([queued(last, epoch=epoch, seq=3)], serial=False).fenced is Fenced.GAP
    assert ids(settings) == []
    assert transactions.done_offset == -1


def test_a_late_unit_between_parts_is_passed_over(
    ledger: PostgresLedger, transactions: LaneTransactions, settings: TargetSettings
) -> None:
    old, epoch = ledger.takeover().epoch, ledger.takeover().epoch
    for seq, part in enumerate(parts(epoch), 1):
        transactions.commit([queued(part.batches[0], epoch=epoch, seq=seq)], serial=False)
        if seq < 3:
            assert transactions.drop_old(queued(batch(9, position=20), epoch=old, seq=seq + 7))
            assert transactions.done_offset == -1, "the parts before it have to be read again"
    assert ids(settings) == [1, 2, 3]
    assert transactions.done_offset == 30


def test_a_refused_part_is_tried_in_order_within_its_transaction(
    ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings
) -> None:
    first, second, last = parts(ledger.takeover().epoch)
    lane.apply_part(first, first=True)
    bad = replace(second, batches=[replace(batch(1_000_001, position=10), part=1, last_part=False, run=7)])
    with pytest.raises(RefusedError, match="violates check constraint"):
        lane.apply_part(bad, first=False)
    # The transaction is gone with all its parts: what follows must not run outside of one.
    with pytest.raises(RetriableError, match="the transaction of the earlier parts is gone"):
        lane.apply_part(second, first=False)
    with pytest.raises(RetriableError, match="the transaction of the earlier parts is gone"):
        lane.apply_last(last)
    assert ids(settings) == []


def test_a_frozen_session_of_the_same_lane_is_ended(
    ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = ledger.takeover().epoch
    monkeypatch.setattr("connectors.postgres.lane_session.STUCK_S", 0.0)
    frozen = psycopg.connect(settings.dsn, application_name="headrace fenced lane 0")
    try:
        frozen.execute("INSERT INTO t VALUES (77)")
        frozen.pgconn.exec_(b"COPY t FROM STDIN")
        frozen.pgconn.put_copy_data(b"78\n")
        frozen.pgconn.flush()
        with psycopg.connect(settings.dsn, autocommit=True) as conn:
            _until(conn, "headrace fenced lane 0", "Client")
        successor = PostgresLane(STREAM, 0, settings)
        try:
            assert successor.apply(group(batch(77, position=10), epoch=epoch, seq=1)) == Applied(rows=1)
        finally:
            successor.close()
    finally:
        frozen.close()
    assert ids(settings) == [77]


def test_the_watermark_moves_forward_in_its_epoch_only(
    ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings
) -> None:
    epoch = ledger.takeover().epoch
    for seq, position in enumerate((10, 20, 30), start=1):
        lane.apply(group(batch(position, position=position), epoch=epoch, seq=seq))
    assert ledger.advance(epoch, 1, 20, 0, 2)
    assert not ledger.advance(epoch, 1, 10, 0, 1), "backward"
    assert not ledger.advance(epoch - 1, 1, 30, 0, 3), "of another epoch"
    restart = ledger.takeover()
    assert (restart.generation, restart.watermark, restart.applied) == (1, 20, {1: frozenset({30})})
    assert not ledger.advance(epoch, 1, 30, 0, 3), "superseded"


def test_positions_of_merged_units_are_all_there(ledger: PostgresLedger, lane: PostgresLane) -> None:
    epoch = ledger.takeover().epoch
    many = batch(1, position=10)
    many.positions = array(INT64, [10])
    lane.apply(group(many, *(batch(n, position=10 * n) for n in range(2, 150)), epoch=epoch, seq=1))
    assert ledger.takeover().applied == {1: frozenset(range(10, 1500, 10))}


def test_a_crash_of_the_target_ends_the_epoch(target_pg: EmbeddedPostgres, settings: TargetSettings) -> None:
    # What crash recovery does to an unlogged table, without a crash of the server that all tests share.
    ledger, lane = PostgresLedger(STREAM, settings), None
    try:
        ledger.ensure()
        epoch = ledger.takeover().epoch
        assert ledger.is_current(epoch)
        lane = PostgresLane(STREAM, 0, settings)
        lane.apply(group(batch(1, position=10), epoch=epoch, seq=1))
        with psycopg.connect(settings.dsn) as conn:
            kind = conn.execute("SELECT relpersistence FROM pg_class WHERE oid = 'headrace.incarnation'::regclass")
            assert kind.fetchone() == ("u",)
            conn.execute("TRUNCATE headrace.incarnation")
        assert not ledger.is_current(epoch)
        assert lane.apply(group(batch(2, position=20), epoch=epoch, seq=2)).fenced is Fenced.UNCHANGED
        assert not ledger.advance(epoch, 1, 10, 0, 1)
        epoch = ledger.takeover().epoch
        assert lane.apply(group(batch(2, position=20), epoch=epoch, seq=1)).fenced is None
        assert ledger.advance(epoch, 1, 20, 0, 2)
        assert ids(settings) == [1, 2]
    finally:
        if lane is not None:
            lane.close()
        ledger.close()


def test_a_copy_that_is_asked_for_closes_the_epoch_and_says_so(
    ledger: PostgresLedger, lane: PostgresLane, settings: TargetSettings
) -> None:
    epoch, name = ledger.takeover().epoch, ("public", "t")
    lane.apply(group(batch(1, position=10), epoch=epoch, seq=1))
    assert ledger.advance(epoch, 1, 10, 0, 1)
    assert (ledger.closed_by(epoch), ledger.table_copies()) == (None, [])
    ledger.request_copies([name])
    assert ledger.table_copies() == [TableCopy(name, sent=False, position=None)]
    assert lane.apply(group(batch(2, position=20), epoch=epoch, seq=2)).fenced is Fenced.UNCHANGED
    assert ledger.closed_by(epoch) == lane.closed_by(epoch) == "tables are to be copied anew: public.t"
    ledger.copies_sent([name])
    assert [copy.state for copy in ledger.table_copies()] == ["in Kafka"]
    following = ledger.takeover().epoch
    assert (ledger.closed_by(epoch), lane.closed_by(following)) == (None, None)
    with psycopg.connect(settings.dsn) as conn:
        note_copied(conn, STREAM, name, 30)
    assert [(copy.state, copy.position) for copy in ledger.table_copies()] == [("applied", 30)]
    assert ledger.advance(following, 1, 30, 0, 2)
    assert ledger.table_copies() == []


def test_a_ledger_of_an_earlier_version_is_completed(ledger: PostgresLedger, settings: TargetSettings) -> None:
    with psycopg.connect(settings.dsn) as conn:
        conn.execute("ALTER TABLE headrace.incarnation DROP COLUMN closed_by")
    ledger.ensure()
    assert ledger.closed_by(ledger.takeover().epoch) is None

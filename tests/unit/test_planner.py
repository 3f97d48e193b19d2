"""The planner case by case; whole histories are in tests/properties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline import planner as planning
from pipeline.builder import BatchBuilder
from pipeline.conflicts import KeyRules
from pipeline.dispatch import BACKLOG_TRANSACTIONS
from pipeline.errors import StreamGapError
from pipeline.planner import WINDOWS_MAX, Planner
from pipeline.priorities import Priorities
from pipeline.relations import Shapes, shape_of
from pipeline.window import Restart
from schemas.apply_unit import NORMAL, SERIAL, ApplyUnit
from schemas.change_batch import INSERT, TRUNCATE, UPDATE, ChangeBatch
from schemas.change_batch_codec import decode_batch, encode_batch
from tests.properties.model import Change, Table, Transaction, catalogue, pack_batch, pack_change, table

ACCOUNT = table("account", [("id", "int8"), ("n", "int8")], ("id",))
WIDER = table("account", [("id", "int8"), ("n", "int8"), ("m", "int8")], ("id",))


def planner(
    *, lanes: int = 4, watermark: int = 0, applied: Sequence[int] = (), epoch: int = 1, order: str = "dependent"
) -> Planner:
    start = Restart(epoch, 1, watermark, {1: frozenset(applied)} if applied else {})
    return Planner("s", start, KeyRules(catalogue([ACCOUNT])), lanes=lanes, order=order)


def write(key: int, of: Table = ACCOUNT) -> Change:
    row = (key, 0, 0) if of is WIDER else (key, 0)
    return Change(of, UPDATE, row, row)


def batch(previous: int, *keys: int, generation: int = 1, of: Table = ACCOUNT) -> ChangeBatch:
    """Transactions right after `previous`, each writing one key."""
    window = [Transaction(previous + n, (write(key, of),)) for n, key in enumerate(keys, start=1)]
    return pack_batch(window, previous, generation=generation)


def parts(previous: int, count: int, *, run: int = 1) -> list[ChangeBatch]:
    builder = BatchBuilder("s", 1, previous)
    found = []
    for n in range(count):
        pack_change(builder, builder.begin(previous + 1, 0, 0), Change(ACCOUNT, INSERT, new=(n, n)))
        found.append(builder.close("live", 0, run, last_part=n == count - 1))
    return found


def snapshot(number: int, generation: int = 1, *, op: int = INSERT) -> ChangeBatch:
    builder = BatchBuilder("s", generation, number - 1)
    change = Change(ACCOUNT, op, new=(number, 0) if op == INSERT else None)
    pack_change(builder, builder.begin(number, 0, 0), change)
    return builder.close("snapshot", 0, 0)


def offer(to: Planner, what: ChangeBatch, offset: int = 0) -> list[ApplyUnit]:
    record = encode_batch(what)
    return to.offer(decode_batch(record), record, offset + 1, f"token {offset}", 7)


def positions(unit: ApplyUnit) -> list[int]:
    return list(decode_batch(unit.batch).positions)


def test_one_lane_forwards_the_record_as_it_is() -> None:
    one = planner(lanes=1)
    what = batch(0, 1, 2, 3)
    (unit,) = offer(one, what)
    assert unit == ApplyUnit("s", 1, 0, 1, 1, NORMAL, 0, {}, 7, encode_batch(what))


def test_commit_order_means_one_lane_whatever_else_is_set() -> None:
    one = planner(lanes=8, order="commit")
    for n in range(5):
        (unit,) = offer(one, batch(200 * n, *range(200 * n, 200 * n + 200)))
        assert (unit.lane, unit.seq, unit.waits) == (0, n + 1, {})


def test_seqs_count_up_in_each_lane_and_windows_remember_their_units() -> None:
    wide = planner(lanes=2)
    for n in range(3):
        units = offer(wide, batch(200 * n, *range(200 * n, 200 * n + 200)), n)
        assert [(unit.lane, unit.seq) for unit in units] == [(0, n + 1), (1, n + 1)]
        assert wide.windows[-1].units == {0: n + 1, 1: n + 1}
        assert sorted(p for unit in units for p in positions(unit)) == list(range(200 * n + 1, 200 * n + 201))
    assert wide.queued_transactions()[:3] == [300, 300, 0]
    wide.progress(0, 1, 2)
    assert wide.queued_transactions()[:2] == [100, 300]


def test_news_of_other_epochs_and_old_news_change_nothing() -> None:
    one = planner(epoch=5)
    offer(one, batch(0, 1))
    one.progress(0, 4, 1)
    one.progress(0, 6, 1)
    assert one.retire() == []
    one.progress(0, 5, 1)
    one.progress(0, 5, 0)
    assert len(one.retire()) == 1


def test_windows_retire_in_order_with_their_tokens() -> None:
    wide = planner(lanes=2)
    offer(wide, batch(0, 1), 10)
    offer(wide, batch(1, 1), 11)
    offer(wide, batch(2), 12)
    offer(wide, batch(2, *range(5, 300)), 13)
    wide.progress(1, 1, 9)
    assert wide.retire() == []
    wide.progress(0, 1, 2)
    done = wide.retire()
    assert [(w.token, w.previous_position, w.last_position, w.end_offset) for w in done] == [
        ("token 10", 0, 1, 11), ("token 11", 1, 2, 12), ("token 12", 2, 2, 13),
    ]  # fmt: skip
    assert len(wide.windows) == 1


def test_a_new_planner_leaves_out_what_is_applied() -> None:
    again = planner(watermark=2, applied=[4, 5])
    (unit,) = offer(again, batch(0, 1, 2, 3, 4, 5, 6))
    assert positions(unit) == [3, 6]
    assert unit.previous_position == 2
    assert offer(planner(watermark=2, applied=[3, 4]), batch(2, 3, 4)) == []
    assert offer(planner(watermark=9), batch(2, 3, 4)) == []


def test_applied_positions_of_another_generation_do_not_count() -> None:
    start = Restart(1, 1, 0, {2: frozenset([1])})
    one = Planner("s", start, KeyRules(catalogue([ACCOUNT])), lanes=1)
    assert len(offer(one, batch(0, 7))) == 1
    assert offer(one, batch(0, 7, generation=2)) == []


def test_a_gap_is_an_error() -> None:
    with pytest.raises(StreamGapError):
        offer(planner(watermark=2), batch(3, 1))


def test_planning_pauses_when_enough_windows_are_in_flight() -> None:
    one = planner()
    for n in range(WINDOWS_MAX):
        assert not one.full
        offer(one, batch(n, 1))
    assert one.full
    one.progress(0, 1, 1)
    one.retire()
    assert not one.full


def test_a_single_lane_is_not_used_blindly_while_others_are_busy() -> None:
    wide = planner(lanes=2)
    offer(wide, batch(0, *range(200)))
    wide.active.count = 1
    units = offer(wide, batch(200, *range(200)))
    joined = {unit.lane for unit in units} | {lane for unit in units for lane in unit.waits}
    assert joined == {0, 1}
    wide.progress(0, 1, wide.windows[-1].units[0])
    wide.progress(1, 1, 2)
    (unit,) = offer(wide, batch(400, 1000))
    assert (unit.lane, unit.waits) == (0, {})


# -- large transactions ------------------------------------------------------------------------------


def test_parts_follow_each_other_in_one_lane_behind_everything_and_retire_together() -> None:
    wide = planner(lanes=2)
    offer(wide, batch(0, *range(200)), 0)
    units = [unit for n, part in enumerate(parts(200, 3)) for unit in offer(wide, part, n + 1)]
    assert [(unit.lane, unit.seq, unit.waits) for unit in units] == [(0, n, {1: 1}) for n in (2, 3, 4)]
    (after,) = offer(wide, batch(201, 500), 4)
    assert (after.lane, after.seq) == (0, 5)
    wide.progress(0, 1, 3)
    wide.progress(1, 1, 1)
    assert [w.last_part for w in wide.retire()] == [True]
    wide.progress(0, 1, 4)
    assert [w.token for w in wide.retire()] == ["token 1", "token 2", "token 3"]


def test_an_open_transaction_is_never_held_up_by_the_limit() -> None:
    one = planner()
    for part in parts(0, 2 * WINDOWS_MAX)[:-1]:
        offer(one, part)
        assert not one.full


def test_a_large_transaction_that_is_read_again_does_not_fill_the_limit() -> None:
    """Its parts give no units, whether the watermark has passed it or it is applied above the watermark."""
    for one in (planner(watermark=1), planner(applied=[1])):
        for n, part in enumerate(parts(0, 2 * WINDOWS_MAX)):
            assert not one.full
            assert offer(one, part, n) == []
            one.retire()
        assert not one.windows
        assert len(offer(one, batch(1, 7))) == 1


def test_a_transaction_begun_in_parts_and_sent_whole_ends_in_the_lane_of_its_parts() -> None:
    """The lane commits the parts with the unit that follows them; in another lane it would wait for ever."""
    wide = planner(lanes=2)
    offer(wide, batch(0, *range(300)))
    wide.progress(0, 1, 1)
    (part,) = offer(wide, parts(300, 2)[0])
    assert (part.lane, part.seq) == (0, 2)
    (whole,) = offer(wide, batch(300, 1, 2, *range(150, 300)))
    assert (whole.lane, whole.seq) == (0, 3)
    (after,) = offer(wide, batch(452, 1))
    assert (after.lane, after.seq) == (0, 4)


def test_late_parts_of_a_replaced_capture_are_not_acknowledged_before_the_transaction_ends() -> None:
    """Otherwise a new planner would begin within it."""
    one = planner(applied=[1])
    old, new = parts(0, 2, run=1), parts(0, 2, run=2)
    offer(one, old[0])
    offer(one, new[0])
    offer(one, old[1])
    assert one.retire() == []
    offer(one, new[1])
    assert len(one.retire()) == 4


# -- generations -------------------------------------------------------------------------------------


def test_records_of_an_older_generation_do_not_take_the_watermark_back() -> None:
    start = Restart(1, 2, 5, {})
    one = Planner("s", start, KeyRules(catalogue([ACCOUNT])), lanes=1)
    assert offer(one, batch(90, 1, 2)) == []
    (window,) = one.retire()
    assert (window.generation, window.last_position) == (2, 5)


def test_a_new_generation_begins_behind_everything_of_the_old_one() -> None:
    wide = planner(lanes=2)
    offer(wide, batch(0, *range(200)))
    (unit,) = offer(wide, snapshot(1, 2, op=TRUNCATE))
    assert (unit.lane, unit.seq, unit.waits, unit.generation, unit.previous_position) == (0, 2, {1: 1}, 2, 0)


def test_parts_of_a_snapshot_wait_for_the_emptied_tables_alone_and_live_changes_for_all_of_it() -> None:
    wide = planner(lanes=3)
    (empty,) = offer(wide, snapshot(1, op=TRUNCATE))
    loaded = [unit for n in range(2, 8) for unit in offer(wide, snapshot(n))]
    assert {unit.lane for unit in loaded} == {0, 1, 2}
    assert all(unit.waits == ({} if unit.lane == 0 else {0: empty.seq}) for unit in loaded)
    last = {unit.lane: unit.seq for unit in loaded}
    for unit in offer(wide, batch(7, 1)):
        assert unit.waits == {lane: seq for lane, seq in last.items() if lane != unit.lane}


# -- barriers ----------------------------------------------------------------------------------------


def test_a_truncate_waits_for_everything_and_everything_for_it() -> None:
    wide = planner(lanes=2)
    offer(wide, batch(0, *range(200)))
    (unit,) = offer(wide, pack_batch([Transaction(201, (Change(ACCOUNT, TRUNCATE),))], 200))
    assert (unit.lane, unit.waits) == (0, {1: 1})
    later = offer(wide, batch(201, *range(1000, 1200)))
    assert {unit.lane: unit.waits for unit in later} == {0: {}, 1: {0: 2}}


def test_a_table_with_new_columns_waits_like_a_truncate() -> None:
    wide = planner(lanes=2)
    offer(wide, batch(0, *range(200)))
    (unit,) = offer(wide, batch(200, *range(1000, 1200), of=WIDER))
    assert (unit.lane, unit.waits, len(positions(unit))) == (0, {1: 1}, 200)
    wide.progress(0, 1, 2)
    wide.progress(1, 1, 1)
    assert len(offer(wide, batch(400, *range(2000, 2200), of=WIDER))) == 2


def test_a_serial_window_is_one_unit_though_its_last_transaction_is_applied() -> None:
    again = planner(applied=[3, 5], lanes=2)
    again.plan_serially(5)
    (unit,) = offer(again, batch(0, 1, 2, 3, 4, 5))
    assert (unit.mode, positions(unit)) == (SERIAL, [1, 2, 4])
    (after,) = offer(again, batch(5, 9))
    assert after.mode == NORMAL


def test_waits_of_a_unit_reach_back_to_the_position_before_its_window() -> None:
    """A batch may begin with what is known; everything up to the chain's end comes before the rest."""
    one = planner()
    offer(one, batch(0, 1, 2, 3))
    (unit,) = offer(one, batch(1, 2, 3, 4, 5))
    assert unit.previous_position == 3
    assert positions(unit) == [4, 5]


# -- what the controllers see ------------------------------------------------------------------------


def test_lanes_are_not_judged_while_everything_has_to_stay_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = planner(lanes=2)
    seen: list[tuple[int, bool]] = []
    monkeypatch.setattr(wide.active, "measure", lambda _, applied, *, backlog: seen.append((applied, backlog)))
    wide.measure(1)
    wide.active.count = 1
    offer(wide, batch(0, *range(BACKLOG_TRANSACTIONS)))
    wide.measure(2)
    wide.active.count = 2
    wide.measure(3)
    offer(wide, batch(BACKLOG_TRANSACTIONS, *range(5000, 5000 + BACKLOG_TRANSACTIONS)))
    wide.progress(0, 1, 1)
    wide.measure(4)
    assert seen == [(0, False), (0, True), (0, False), (BACKLOG_TRANSACTIONS, True)]


def test_planning_pauses_at_its_limits_of_transactions_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRANSACTIONS_MAX", "BYTES_MAX"):
        with monkeypatch.context() as patch:
            patch.setattr(planning, name, 500)
            one, n = planner(lanes=1), 0
            while not one.full:
                offer(one, batch(100 * n, *range(100)))
                n += 1
            used = {"TRANSACTIONS_MAX": sum(one.queued_transactions()), "BYTES_MAX": one.bytes}[name]
            assert used >= 500
            one.progress(0, 1, n)
            one.retire()
            assert not one.full
            assert one.bytes == 0


def spread(units: list[ApplyUnit]) -> dict[int, dict[int, int]]:
    """Lane -> waits, of a window's units; none of them is serial."""
    assert all(unit.mode == NORMAL for unit in units)
    return {unit.lane: unit.waits for unit in units}


def test_the_catalogue_read_again_is_a_barrier_only_to_keys_of_other_rules() -> None:
    free: dict[int, dict[int, int]] = {0: {}, 1: {}}
    wide = planner(lanes=2)
    offer(wide, batch(0, *range(200)))
    wide.renew(KeyRules(catalogue([ACCOUNT])))
    assert spread(offer(wide, batch(200, *range(1000, 1200)))) == free, "the same rules"
    wide.renew(KeyRules(catalogue([WIDER])))
    assert spread(offer(wide, batch(400, *range(2000, 2200)))) == {0: {1: 2}}
    for lane, seq in ((0, 3), (1, 2)):
        wide.progress(lane, 1, seq)
    wide.retire()
    wide.renew(KeyRules(catalogue([ACCOUNT])))
    assert spread(offer(wide, batch(600, *range(3000, 3200)))) == free, "nothing is in flight"


def test_behind_a_snapshot_the_first_changes_wait_in_every_lane() -> None:
    wide = Planner("s", Restart(1, 1, 0, {}, shapes=Shapes()), KeyRules(catalogue([])), lanes=2)
    for number in (1, 2, 3):
        offer(wide, snapshot(number, op=TRUNCATE if number == 1 else INSERT), number)
    assert wide.windows[0].new_schema, "its tables may have been created"
    wide.renew(KeyRules(catalogue([ACCOUNT])))
    assert spread(offer(wide, batch(3, *range(200)))) == {0: {1: 1}, 1: {0: 2}}


def test_a_table_that_only_the_ledger_does_not_know_is_no_barrier() -> None:
    def first(shapes: Shapes, *tables: Table, target: Table = WIDER) -> set[str]:
        wide = Planner("s", Restart(1, 1, 0, {}, shapes=shapes), KeyRules(catalogue([target])), lanes=2)
        window = [Transaction(n, (write(n, tables[n * len(tables) // 200]),)) for n in range(1, 200)]
        units = offer(wide, pack_batch(window, 0))
        assert wide.windows[-1].new_schema is (units[0].mode == SERIAL)
        assert [unit.mode for unit in offer(wide, batch(199, 1, of=tables[-1]), 1)] == [NORMAL], "it is known now"
        return {unit.mode for unit in units}

    renamed = Shapes({("public", "old"): shape_of(ACCOUNT.relation)})
    assert first(Shapes(), ACCOUNT) == {NORMAL}
    assert first(Shapes(), WIDER, target=ACCOUNT) == {SERIAL}, "the target lacks a column"
    assert first(Shapes(), ACCOUNT, WIDER) == {SERIAL}, "its columns change within the window"
    assert first(renamed, ACCOUNT) == {SERIAL}, "it had another name"


def test_urgent_sets_behind_a_barrier_go_to_their_express_lane() -> None:
    urgent = table("urgent", [("id", "int8"), ("n", "int8")], ("id",))
    rules, priorities = KeyRules(catalogue([ACCOUNT, urgent])), Priorities({"critical": ["public.urgent"]}, 3)
    one = Planner("s", Restart(1, 1, 0, {}), rules, lanes=3, priorities=priorities)
    offer(one, pack_batch([Transaction(1, (Change(ACCOUNT, TRUNCATE),))], 0))
    offer(one, batch(1, *range(200)))
    assert spread(offer(one, batch(201, 500, of=urgent))) == {2: {0: 1}}


def test_other_columns_are_a_barrier_in_source_order() -> None:
    shapes = Shapes({ACCOUNT.relation.name: shape_of(ACCOUNT.relation)})
    start = Restart(1, 1, 0, {}, shapes=shapes)
    one = Planner("s", start, KeyRules(catalogue([ACCOUNT])), lanes=4)
    (single,) = offer(one, batch(0, 1, 2))
    assert (single.mode, one.windows[-1].new_schema) == (NORMAL, False)
    (changed,) = offer(one, batch(2, 3, 4, of=WIDER), 1)
    assert (changed.mode, changed.lane, one.windows[-1].new_schema) == (SERIAL, 0, True)
    (after,) = offer(one, batch(4, 5, of=WIDER), 2)
    assert (after.mode, one.windows[-1].new_schema) == (NORMAL, False), "it is known now"
    one.renew(KeyRules(catalogue([WIDER])))
    (renewed,) = offer(one, batch(5, 6, of=WIDER), 3)
    assert renewed.lane == 0, "one unit behind all, since keys of other rules can't be compared"

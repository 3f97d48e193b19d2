"""Records: what is written is read again; what is damaged is refused or still a valid record."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.apply_unit import LANES_MAX, NORMAL, SERIAL, ApplyUnit, decode_unit, encode_unit
from schemas.change_batch import ChangeBatch, iter_order
from schemas.change_batch_codec import decode_batch, encode_batch
from schemas.dead_letter import DeadLetter, decode_dead_letter, encode_dead_letter
from schemas.errors import SchemaError
from schemas.lag import Lag, LagWindow, decode_lag, encode_lag
from schemas.progress import Failure, Progress, decode_progress, encode_progress
from schemas.role_report import Buffer, Control, RoleReport, decode_report, encode_report
from schemas.rows import key_fields, pack_fields, pack_row, row_fields
from tests.properties.strategies import batches, int64s, names, times_us

lanes = st.integers(0, LANES_MAX - 1)
counts = st.integers(0, (1 << 31) - 1)
seqs = st.integers(1, (1 << 63) - 1)


@st.composite
def units(draw: st.DrawFn) -> ApplyUnit:
    lane = draw(lanes)
    waits = draw(st.dictionaries(lanes.filter(lambda other: other != lane), seqs))
    mode = draw(st.sampled_from([NORMAL, SERIAL]))
    return ApplyUnit(
        draw(names), draw(int64s), lane, draw(seqs), draw(seqs), mode, draw(int64s), waits, draw(times_us),
        draw(st.binary() | batches().map(encode_batch)),
    )  # fmt: skip


failures = st.builds(Failure, position=int64s, sqlstate=names, error=st.text(), poison=st.booleans())
progresses = st.builds(
    Progress, stream=names, generation=int64s, lane=lanes, epoch=int64s, seq=int64s, position=int64s,
    commit_time_us=times_us, applied_us=times_us, transactions=int64s, rows=int64s, queued=counts,
    lag_buckets=st.dictionaries(names, st.binary(max_size=16), max_size=3), failure=st.none() | failures,
)  # fmt: skip
letters = st.builds(
    DeadLetter, stream=names, generation=int64s, position=int64s, source_id=times_us, commit_time_us=times_us,
    parked_us=times_us, sqlstate=names, error=st.text(), behind=st.lists(int64s), batch=st.binary(),
)  # fmt: skip
seconds = st.none() | st.floats(0, 1e6)
lags = st.builds(
    Lag, stream=names, time_us=times_us, commit_time_us=times_us, age_s=seconds, level=names, level_us=times_us,
    level_reason=names, queued=counts, lanes=counts,
    windows=st.lists(
        st.builds(
            LagWindow, seconds=counts, stage=names, transactions=int64s, rows=int64s, p50_s=seconds, p95_s=seconds,
            p99_s=seconds, mean_s=seconds, variance_s2=seconds,
        ),
        max_size=3,
    ),
)  # fmt: skip
reports = st.builds(
    RoleReport, stream=names, role=names, time_us=times_us, generation=int64s, position=int64s, commit_time_us=times_us,
    oldest_us=times_us, lag_buckets=st.dictionaries(names, st.binary(max_size=16), max_size=3),
    controls=st.lists(
        st.builds(Control, name=names, value=st.floats(-1e9, 1e9), unit=names, changed_us=times_us, reason=names),
        max_size=3,
    ),
    buffers=st.lists(st.builds(Buffer, name=names, used=int64s, limit=int64s, unit=names), max_size=3),
)  # fmt: skip
CODECS = [
    pytest.param(batches(), encode_batch, decode_batch, id="change_batch"),
    pytest.param(units(), encode_unit, decode_unit, id="apply_unit"),
    pytest.param(progresses, encode_progress, decode_progress, id="progress"),
    pytest.param(letters, encode_dead_letter, decode_dead_letter, id="dead_letter"),
    pytest.param(lags, encode_lag, decode_lag, id="lag"),
    pytest.param(reports, encode_report, decode_report, id="role_report"),
]


@pytest.mark.parametrize(("records", "encode", "decode"), CODECS)
@given(data=st.data())
def test_round_trip(records: st.SearchStrategy[Any], encode: Any, decode: Any, data: st.DataObject) -> None:
    record = data.draw(records)
    assert decode(encode(record)) == record


@pytest.mark.parametrize(("records", "encode", "decode"), CODECS)
@given(data=st.data())
def test_damage_is_refused_or_leaves_a_valid_record(
    records: st.SearchStrategy[Any], encode: Any, decode: Any, data: st.DataObject
) -> None:
    whole = encode(data.draw(records))
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(whole) - 1))
    more = data.draw(st.binary(min_size=1, max_size=20))
    for changed in (whole[:cut], whole + more):
        with pytest.raises(SchemaError):
            decode(changed)
    try:
        found = decode(bytes(damaged))
    except SchemaError:
        return
    again = encode(found)
    assert len(again) <= len(whole)
    assert repr(decode(again)) == repr(found)  # repr: a damaged double may be NaN


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for decode in (decode_batch, decode_unit, decode_progress, decode_dead_letter, decode_lag, decode_report):
        with pytest.raises(SchemaError):
            decode(noise)


@given(batches())
def test_changes_are_told_in_the_order_of_their_ranks(batch: ChangeBatch) -> None:
    told = list(iter_order(batch))
    assert [rank for rank, _, _ in told] == sorted(rank for section in batch.sections for rank in section.order)
    assert {(number, row) for _, number, row in told} == {
        (number, row) for number, section in enumerate(batch.sections) for row in range(len(section.ops))
    }


fields = st.lists(st.none() | st.binary(max_size=20), max_size=12)


@given(fields)
def test_fields_of_a_row_and_a_key(found: list[bytes | None]) -> None:
    assert row_fields(pack_row(found), len(found)) == found
    assert key_fields(pack_fields(found), len(found)) == found


@given(fields, st.data())
def test_damaged_rows_are_refused_or_hold_as_many_fields(found: list[bytes | None], data: st.DataObject) -> None:
    row = pack_row(found)
    with pytest.raises(SchemaError):
        row_fields(row, len(found) + 1)
    for changed in (row[: data.draw(st.integers(0, len(row) - 1))], row + b"\0"):
        with pytest.raises(SchemaError):
            row_fields(changed, len(found))
    damaged = bytearray(row)
    damaged[data.draw(st.integers(0, len(row) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = row_fields(bytes(damaged), len(found))
    except SchemaError:
        return
    assert len(read) == len(found)
    assert pack_row(read) == damaged

"""Rows and transactions that are too large for something; memory stays below the limit of every rig."""

from __future__ import annotations

import pytest

from tests.support.fixtures import MakeRig
from tests.support.rig import EX_OPERATOR, ROLES
from tests.support.writing import commit_each

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(280)]


@pytest.mark.parametrize(("rows", "row_bytes"), [(100_000, 1000), (12, 8_000_000), (1_000_000, 40)])
def test_one_large_transaction_among_small_ones(make_rig: MakeRig, rows: int, row_bytes: int) -> None:
    rig = make_rig()
    rig.both("CREATE TABLE large (id int PRIMARY KEY, filler text)", "CREATE TABLE small (id int PRIMARY KEY, n int)")
    rig.source("INSERT INTO small SELECT n, 0 FROM generate_series(1, 100) n")
    rig.start()
    rig.wait_until_equal()
    few = [f"UPDATE small SET n = n + 1 WHERE id = {n}" for n in range(1, 101)]
    commit_each(rig, *few)
    filler = f"rpad(md5(n::text), {row_bytes}, 'x')"
    commit_each(rig, f"INSERT INTO large SELECT n, {filler} FROM generate_series(1, {rows}) n", *few)
    rig.wait_until_equal(timeout_s=200)


def test_a_row_too_large_for_a_record_stops_the_stream_until_it_is_left_out(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.both(*(f"CREATE TABLE {name} (id int PRIMARY KEY, blob text)" for name in ("t", "u", "other")))
    rig.source("INSERT INTO t VALUES (1, 'small')", "INSERT INTO u VALUES (1, 'small')")
    rig.start()
    rig.wait_until_equal()
    too_large = f"repeat('x', {17 * 1024 * 1024})"
    commit_each(rig, "INSERT INTO other VALUES (1)", f"INSERT INTO t VALUES (2, {too_large})")
    commit_each(rig, f"INSERT INTO u VALUES (2, {too_large})", "INSERT INTO other VALUES (2)")
    rig.faults["row over 16 MiB"] += 2
    assert rig.wait_for_end("capture") == EX_OPERATOR
    assert "a row of public.t is too large for a record. Leave the column out" in rig.log("capture")
    rig.rewrite_config("[streams.source]", '[streams.mapping]\nexclude_columns = ["public.t.blob"]\n[streams.source]')
    rig.start("capture")
    # The target's table has a column more than the stream now: that is asked about once.
    assert {rig.wait_for_end(name) for name in ROLES} == {EX_OPERATOR}
    assert "a row of public.u is too large for a record" in rig.log("capture")
    rig.rewrite_config("[streams.source]", '[streams.source]\nexclude = ["public.u"]')
    rig.start()
    rig.wait_until_equal("other")
    assert rig.target_rows("SELECT * FROM t ORDER BY id") == [(1, "small"), (2, None)]
    assert rig.target_rows("SELECT * FROM u") == [(1, "small")]

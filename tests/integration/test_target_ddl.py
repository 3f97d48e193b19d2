"""Somebody changes the target's tables while a stream runs into them."""

from __future__ import annotations

import pytest

from connectors.errors import RefusedError
from connectors.postgres.ordered import RowWriter
from connectors.settings import SourceSettings, TargetSettings
from pipeline.errors import RetriableError
from tests.support.direct import DirectStream, on_both

pytestmark = pytest.mark.integration
MANY = "INSERT INTO t SELECT n, n, n, 'on' FROM generate_series({0}, {0} + 499) n"


@pytest.mark.parametrize("wrote_before", [True, False])
def test_a_type_that_changes_on_the_target_is_read_again(source_db: str, target_db: str, wrote_before: bool) -> None:
    """An int4 and a float4 have four bytes, so rows copied by bytes would be others, and nothing would refuse them."""
    tables = "CREATE DOMAIN flag AS bool; CREATE TABLE t (id int PRIMARY KEY, v int, w int8, f flag)"
    on_both([source_db, target_db], tables)
    with DirectStream(SourceSettings(source_db, ("public.*",)), TargetSettings(target_db)) as stream:
        stream.replicate(MANY.format(1))
        stream.new_lane()  # it has read the catalogue, and knows of the table
        if wrote_before:
            stream.replicate(MANY.format(501))
        batch = stream.write(MANY.format(2001))
        stream.there.execute("ALTER TABLE t ALTER v TYPE real, ALTER w TYPE timestamp USING NULL")
        with pytest.raises(RetriableError, match=r"columns of public\.t have changed on the target"):
            stream.apply(batch)
        stream.there.execute("ALTER TABLE t ALTER w TYPE numeric USING id")
        stream.new_lane()
        stream.apply(batch)
        assert stream.rows("SELECT v, w FROM t WHERE id = 2002") == [(2002.0, 2002)]
        assert not stream.differing(["public.*"])


@pytest.mark.parametrize("rows", [1, 500])
def test_a_table_that_is_missing_on_the_target_is_named(source_db: str, target_db: str, rows: int) -> None:
    on_both([source_db, target_db], "CREATE TABLE t (id int PRIMARY KEY, v int, w int8, f text)")
    with DirectStream(SourceSettings(source_db, ("public.*",)), TargetSettings(target_db)) as stream:
        stream.there.execute("ALTER TABLE t RENAME TO away")
        batch = stream.write(f"INSERT INTO t SELECT n, n, n, '' FROM generate_series(1, {rows}) n")
        with pytest.raises(RefusedError, match=r"table public\.t does not exist on the target; create it there"):
            stream.apply(batch)
        stream.there.execute("ALTER TABLE away RENAME TO t")
        stream.new_lane()
        stream.apply(batch)
        assert not stream.differing(["public.*"])


KEEPS_OUT = """
CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER keep_out BEFORE INSERT OR UPDATE ON t FOR EACH ROW WHEN (NEW.id % 10 = 7) EXECUTE FUNCTION keep_out();
"""


@pytest.mark.parametrize("target_type", ["int", "bigint"])  # the source's type, or a cast
@pytest.mark.parametrize("policy", ["error", "update"])
def test_a_trigger_that_keeps_rows_out_is_found(
    source_db: str, target_db: str, target_type: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_both([source_db], "CREATE TABLE t (id int PRIMARY KEY, v int)")
    on_both([target_db], f"CREATE TABLE t (id int PRIMARY KEY, v {target_type})")
    target = TargetSettings(target_db, session_replication_role="origin", on_existing_row=policy)
    with DirectStream(SourceSettings(source_db, ("public.*",)), target) as stream:
        stream.replicate("INSERT INTO t SELECT n, n FROM generate_series(1, 6) n")
        stream.there.execute(KEEPS_OUT.encode())
        batches = [
            stream.write(f"INSERT INTO t SELECT n, n FROM generate_series({count}, {2 * count}) n")
            for count in (10, 200, 6000)  # for row by row, for arrays, for COPY
        ]
        for batch in batches:
            with pytest.raises(RefusedError, match=r"table public\.t: INSERT at position \d+: the target has not"):
                stream.apply(batch)
            assert stream.rows("SELECT count(*) FROM t") == [(6,)], "nothing of the transaction is there"
        stream.there.execute("ALTER TABLE t DISABLE TRIGGER keep_out")
        monkeypatch.delattr(RowWriter, "changes")  # the bulk is not refused when all rows are taken
        stream.apply(batches[-1])
        assert stream.rows("SELECT count(*) FROM t") == [(6007,)]

"""Several lanes at once: what they must not do to each other, and how dependences that nobody logs are found."""

from __future__ import annotations

import itertools

import psycopg
import pytest

from tests.support.fixtures import MakeRig
from tests.support.rig import Rig
from tests.support.writing import commit_each, commit_in_one_window

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TABLES = (
    "CREATE TABLE hot (id int PRIMARY KEY, version int NOT NULL)",
    "CREATE TABLE seat (id int PRIMARY KEY, place int UNIQUE, version int NOT NULL DEFAULT 0)",
)


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A stream of its own for each test: the number of active lanes follows what a stream has carried."""
    rig = make_rig(source={"linger_ms": 500}, target={"lanes": 4})
    rig.both(*TABLES)
    rig.start()
    return rig


def test_many_lanes_keep_the_order_of_each_row(rig: Rig) -> None:
    keys, rounds = 60, 15
    rig.source(f"INSERT INTO hot SELECT n, 0 FROM generate_series(1, {keys}) n")
    rig.wait_until_equal("hot")
    with psycopg.connect(rig.target_dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE FUNCTION forward() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.version <= OLD.version THEN RAISE EXCEPTION 'row % goes back', NEW.id; END IF;"
            " RETURN NEW; END $$"
        )
        conn.execute("CREATE TRIGGER forward BEFORE UPDATE ON hot FOR EACH ROW EXECUTE FUNCTION forward()")
        conn.execute("ALTER TABLE hot ENABLE ALWAYS TRIGGER forward")
    version = itertools.count(1)
    statements = []
    for step in range(rounds):
        for key in range(1, keys + 1):
            other = 1 + (key * 7 + step) % keys  # ties two rows together, other ones in each round
            statements.append(f"UPDATE hot SET version = {next(version)} WHERE id IN ({key}, {other})")
    commit_in_one_window(rig, *statements)
    rig.wait_until_equal("hot")
    lanes = rig.target_rows("SELECT lane FROM headrace.lane WHERE transactions > 0")
    assert len(lanes) > 1, "only one lane was used"


def test_unique_values_change_rows_across_transactions(rig: Rig) -> None:
    # The source does not log the value that an update frees: these dependences only show at the target.
    first, pairs = 5_000_000, 150
    rig.source(f"INSERT INTO seat SELECT {first} + n, {first} + n FROM generate_series(1, {2 * pairs}) n")
    rig.wait_until_equal("seat")
    moves = []
    for n in range(pairs):
        left, right = first + 2 * n + 1, first + 2 * n + 2
        moves += [(left, -left), (right, left), (left, right)]
    # The first moves of all pairs, then the second, then the third: the window is wide, and its lanes need
    # each other's changes. The planner has to make one unit of it.
    order = [*moves[0::3], *moves[1::3], *moves[2::3]]
    commit_in_one_window(rig, *(f"UPDATE seat SET place = {place} WHERE id = {row}" for row, place in order))
    rig.wait_until_equal("seat")
    assert "planning again" in rig.log("plan")
    # And with rows that are deleted and whose seats are taken by new ones.
    gone = []
    for left in range(first + 1, first + 41, 2):
        gone += [
            f"DELETE FROM seat WHERE id = {left}",
            f"INSERT INTO seat VALUES ({left + 1_000_000}, {left + 1}) ON CONFLICT (place) DO UPDATE SET version = 7",
        ]
    commit_each(rig, *gone)
    rig.wait_until_equal("seat")

"""A cache node beside dead letters: it is killed before and after they are settled, and never shows what they left."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from headrace.cache import CachedRow
from headrace.cli import app
from tests.support.fixtures import MakeRig
from tests.support.nodes import Nodes
from tests.support.rig import Rig
from tests.support.writing import commit_each

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.timeout(150)]

TABLE = "CREATE TABLE t (id int PRIMARY KEY, value int NOT NULL, note text)"
ROWS = 20
BAD = "WITH w AS (UPDATE t SET value = 13 WHERE id = 1) INSERT INTO t VALUES (101, 1)"  # refused by the target


def rows(rig: Rig, nodes: Nodes, *keys: int) -> dict[int, CachedRow]:
    """What the node answers, once it answers: its cache begins anew when letters are settled."""
    at, found = nodes.mark(), dict[int, CachedRow]()

    def answered() -> bool:
        with nodes.client("a") as client:
            found.update({key: client.row(rig.stream, "t", key, min_position=at) for key in keys})
        return True

    rig.until(answered, "the node answers")
    return found


def check(rig: Rig, nodes: Nodes) -> None:
    """The node answers what the target has, row by row."""
    rig.wait_until_applied()
    there = {row[0]: row[1] for row in rig.target_rows("SELECT id, (value, note)::text FROM t")}
    for key, found in rows(rig, nodes, *range(1, ROWS + 2), 101).items():
        shown = found.values and f"({found.values['value']},{found.values['note'] or ''})"
        assert shown == there.get(key), (key, found)


def settle(rig: Rig, *words: str) -> None:
    result = CliRunner().invoke(app, ["dead-letters", *words, "-c", str(rig.config_path)])
    assert result.exit_code == 0, result.output


def start(make_rig: MakeRig) -> tuple[Rig, Nodes]:
    """A stream whose cache node has followed the snapshot."""
    rig = make_rig(target={"on_error": "park"}, stream={"cache": ["public.t"]})
    nodes = Nodes(rig, ["a"], buckets=4)
    rig.both(TABLE)
    rig.source(f"INSERT INTO t SELECT n, 0 FROM generate_series(1, {ROWS}) n")
    with rig.target_connection() as conn:
        conn.execute("ALTER TABLE t ADD CONSTRAINT unlucky CHECK (value <> 13)")
    rig.start("capture", "plan", "fusion", "cache-a")
    rig.wait_for_log("cache-a", "the cache begins at position 0")
    rig.start("apply")  # now, so that the node sees the rows of the snapshot come
    rig.wait_until_equal()
    nodes.wait_until_there("a")
    return rig, nodes


def test_nothing_of_a_discarded_letter_is_read(make_rig: MakeRig) -> None:
    rig, nodes = start(make_rig)
    answers = rows(rig, nodes, *range(1, ROWS + 2))
    assert {answer.origin for answer in answers.values()} == {"cache"}, nodes.status("a")
    assert nodes.status("a")["streams"][rig.stream]["not_cached"] == {}
    commit_each(rig, BAD, "UPDATE t SET note = 'behind' WHERE id = 1", "UPDATE t SET value = 2 WHERE id = 2")
    check(rig, nodes)
    assert rows(rig, nodes, 1)[1].origin == "target"
    rig.kill("cache-a", again=False)
    settle(rig, "discard", "--all")
    commit_each(rig, "UPDATE t SET value = 3 WHERE id = 3")
    rig.start("cache-a")  # the log still has the letters
    nodes.wait_until_there("a")
    check(rig, nodes)
    commit_each(rig, "UPDATE t SET value = 4 WHERE id = 1")
    check(rig, nodes)


@pytest.mark.long
def test_a_letter_that_was_replayed_meanwhile_is_read(make_rig: MakeRig) -> None:
    rig, nodes = start(make_rig)
    commit_each(rig, BAD, "UPDATE t SET value = 6 WHERE id = 6")
    check(rig, nodes)
    rig.kill("cache-a")  # it begins again beside the letter
    nodes.wait_until_there("a")
    check(rig, nodes)
    rig.kill("cache-a", again=False)
    with rig.target_connection() as conn:
        conn.execute("ALTER TABLE t DROP CONSTRAINT unlucky")
    settle(rig, "replay")
    rig.start("cache-a")
    nodes.wait_until_there("a")
    check(rig, nodes)
    assert rows(rig, nodes, 1)[1].values == {"id": 1, "value": 13, "note": None}
    rig.wait_until_equal()

"""The row cache of a running stream: what a reader gets is what the target has, at the position asked for."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from headrace.cache import CacheClient
from pipeline.cache.conflict import Conflict
from pipeline.cache.records import block_of
from pipeline.errors import ConfigError, RetriableError
from schemas.fusion_block import FusionBlock
from schemas.rows import pack_fields
from tests.support.fixtures import SharedRig
from tests.support.nodes import Nodes
from tests.support.rig import ROLES, Rig
from topologies.cache_journal import read_blocks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TABLES = (
    "CREATE TABLE thing (id int8 PRIMARY KEY, name text, price numeric(8,2), made timestamptz, big text)",
    "CREATE TABLE pair (a text, b int4, c uuid, PRIMARY KEY (a, b))",
    "CREATE TABLE altered (a text, b int4, c uuid, PRIMARY KEY (a, b))",
    "CREATE TABLE dropped (id int PRIMARY KEY)",
    "CREATE TABLE day (on_day date PRIMARY KEY, words text[], data jsonb, span interval, until timestamptz)",
    "CREATE TABLE amount (id numeric PRIMARY KEY, n int)",
    "CREATE TABLE hidden (id int PRIMARY KEY)",
)
BIG = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 300) n)"


@pytest.fixture(scope="module")
def rig(shared_rig: SharedRig) -> Rig:
    cached = [f"public.{name}" for name in ("thing", "pair", "altered", "dropped", "day", "amount")]
    made = shared_rig(*TABLES, stream={"cache": cached})
    made.source("INSERT INTO thing SELECT n, 'before ' || n FROM generate_series(1, 300) n")
    return made


@pytest.fixture(scope="module")
def nodes(rig: Rig) -> Nodes:
    nodes = Nodes(rig, ["a"])
    rig.start(*ROLES, "fusion", "cache-a")
    rig.wait_until_equal("thing")
    nodes.wait_until_there("a")
    return nodes


@pytest.fixture
def client(nodes: Nodes) -> Iterator[CacheClient]:
    with nodes.client("a") as client:
        yield client


def test_a_reader_sees_its_own_writes(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    for n in range(5):
        rig.source(f"UPDATE thing SET name = 'round {n}' WHERE id = 7")
        answer = client.row(rig.stream, "thing", 7, min_position=nodes.mark())
        assert answer.values is not None
        assert answer.values["name"] == f"round {n}"


def test_values_and_keys_of_many_types(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    rig.source(
        "INSERT INTO thing VALUES (1001, 'köln', 12.50, '2026-01-02 03:04:05+00', 'x')",
        "INSERT INTO pair VALUES ('a/b c', -5, '7d444840-9dc0-11d1-b245-5ffdce74fad2')",
        "INSERT INTO day VALUES ('2026-11-24', '{one,two}', '{\"k\": [1, null]}', '1 month -2 days 4.5 s', 'infinity')",
    )
    at = nodes.mark()
    assert client.row(rig.stream, "public.thing", 1001, min_position=at).values == {
        "id": 1001, "name": "köln", "price": "12.50", "made": "2026-01-02T03:04:05+00:00", "big": "x",
    }  # fmt: skip
    assert client.row(rig.stream, "pair", "a/b c", -5, min_position=at).values == {
        "a": "a/b c", "b": -5, "c": "7d444840-9dc0-11d1-b245-5ffdce74fad2",
    }  # fmt: skip
    for text in ("2026-11-24", "24 November 2026"):
        found = client.row(rig.stream, "day", text, min_position=at)
        assert found.values == {
            "on_day": "2026-11-24", "words": ["one", "two"], "data": {"k": [1, None]}, "span": "P1M-2DT4.5S",
            "until": "infinity",
        }  # fmt: skip
        assert found.origin == "cache"
    assert rig.target_rows("SELECT span = 'P1M-2DT4.5S' FROM day") == [(True,)]


def test_deleted_moved_and_toasted_rows(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    rig.source(f"INSERT INTO thing SELECT n, 'toast', 1, now(), {BIG} FROM generate_series(2001, 2003) n")
    rig.source("UPDATE thing SET name = 'small change' WHERE id = 2001")
    rig.source("UPDATE thing SET id = 3002, name = 'moved' WHERE id = 2002")
    rig.source("DELETE FROM thing WHERE id = 2003")
    at = nodes.mark()
    kept, gone, moved, deleted = (
        client.row(rig.stream, "thing", key, min_position=at) for key in (2001, 2002, 3002, 2003)
    )
    assert (gone.values, deleted.values) == (None, None)
    for row, key, name in ((kept, 2001, "small change"), (moved, 3002, "moved")):
        assert row.values is not None
        assert (row.values["id"], row.values["name"]) == (key, name)
        assert len(str(row.values["big"])) == 32 * 300
        assert row.origin == "cache"


def test_every_row_equals_the_target(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    rig.source("UPDATE thing SET price = id WHERE id <= 100", "DELETE FROM thing WHERE id BETWEEN 101 AND 120")
    rig.wait_until_equal("thing")
    at = nodes.mark()  # behind it nothing moves: a row that is read from the target may be kept
    there = {row[0]: row[1] for row in rig.target_rows("SELECT id, name FROM thing WHERE id <= 300")}
    for origins in ({"cache", "target"}, {"cache"}):  # what was not in the log since the start is read once
        for key in range(1, 301):
            found = client.row(rig.stream, "thing", key, min_position=at)
            assert there.get(key) == (found.values["name"] if found.values is not None else None)
            assert found.origin in origins


def test_truncate(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    rig.source("INSERT INTO pair VALUES ('t', 1)")
    rig.source("TRUNCATE pair")
    rig.source("INSERT INTO pair VALUES ('t', 2)")
    at = nodes.mark()
    found = [client.row(rig.stream, "pair", "t", n, min_position=at) for n in (1, 2, 3)]
    assert [row.values is None for row in found] == [True, False, True]
    assert {row.origin for row in found} == {"cache"}


def test_a_new_column(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    rig.source("INSERT INTO altered VALUES ('old', 1), ('old', 2)")
    rig.wait_until_equal("altered")
    rig.both("ALTER TABLE altered ADD COLUMN d int DEFAULT 5")
    rig.source("INSERT INTO altered VALUES ('new', 1)")
    at = nodes.mark()
    rig.wait_until_equal("altered")
    rig.kill("cache-a")  # the target's columns are read at start
    nodes.wait_until_there("a")
    for key in (("old", 1), ("new", 1)):
        row = client.row(rig.stream, "altered", *key, min_position=at)
        assert row.values is not None
        assert row.values["d"] == 5


def test_keys_whose_bytes_say_nothing_are_read_from_the_target(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    rig.source("INSERT INTO amount VALUES (1.50, 3)")
    at = nodes.mark()
    for text in ("1.5", "1.500"):
        row = client.row(rig.stream, "amount", text, min_position=at)
        assert row.origin == "target"
        assert row.values == {"id": "1.50", "n": 3}
    assert "numeric" in client.status()["streams"][rig.stream]["not_cached"]["public.amount"]


def test_what_cannot_be_answered_is_refused(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    with pytest.raises(RetriableError, match="is not visible after"):
        client.row(rig.stream, "thing", 1, min_position=nodes.mark() + (1 << 40), wait_s=0.2)
    for stream, table, key in (
        (rig.stream, "hidden", (1,)), ("nowhere", "thing", (1,)), (rig.stream, "thing", ("x",)),
        (rig.stream, "thing", (1, 2)), (rig.stream, "day", ("no date",)), (rig.stream, "amount", ("?",)),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            client.row(stream, table, *key)
    assert client.row(rig.stream, "thing", 99_999_999).values is None


def test_without_the_token_nothing_is_said(rig: Rig, nodes: Nodes) -> None:
    with CacheClient(f"http://{nodes.http['a']}", "a wrong one") as client, pytest.raises(ConfigError, match="token"):
        client.row(rig.stream, "thing", 1)
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"http://{nodes.http['a']}/v1/status")


def test_rows_are_checked_for_conflicts_without_a_read_of_the_target(
    rig: Rig, nodes: Nodes, client: CacheClient
) -> None:
    """Each row alone against what was seen, the same as a look at the target's rows says."""
    rig.source(
        "INSERT INTO thing (id, name) SELECT n, 'seen' FROM generate_series(5001, 5006) n",
        "INSERT INTO pair VALUES ('seen', 1), ('seen', 2)", "DELETE FROM pair WHERE b = 2 AND a = 'seen'",
    )  # fmt: skip
    at = nodes.mark()
    seen = [client.row(rig.stream, "thing", key, min_position=at) for key in range(5001, 5007)]
    seen += [client.row(rig.stream, "pair", "seen", n, min_position=at) for n in (1, 2)]
    read = client.status()["counts"].get("target_reads", 0)
    checked = client.check(rig.stream, seen)
    assert (checked.conflicts, checked.position >= at) == ([], True)
    rig.source(
        "UPDATE thing SET price = 1 WHERE id = 5001", "DELETE FROM thing WHERE id = 5002",
        "UPDATE thing SET id = 5007 WHERE id = 5003", "UPDATE thing SET name = 'seen' WHERE id = 5004",
        "UPDATE thing SET name = 'else' WHERE id = 5005", "UPDATE thing SET name = 'seen' WHERE id = 5005",
        "INSERT INTO pair VALUES ('seen', 2)",
    )  # fmt: skip
    checked = client.check(rig.stream, seen, min_position=nodes.mark())
    found = {(*conflict.seen.key,): (conflict.kind, conflict.now.values is None) for conflict in checked.conflicts}
    assert found == {
        (5001,): (Conflict.UPDATED, False), (5002,): (Conflict.DELETED, True), (5003,): (Conflict.DELETED, True),
        ("seen", 2): (Conflict.INSERTED, False),
    }  # fmt: skip
    counts = client.status()["counts"]
    assert counts.get("target_reads", 0) == read, counts
    with pytest.raises(RetriableError, match="is not visible after"):
        client.check(rig.stream, seen, min_position=nodes.mark() + (1 << 40), wait_s=0.2)
    with pytest.raises(ConfigError, match="is not cached"):
        client.check("nowhere", seen)


def journal(rig: Rig, table: str) -> list[FusionBlock]:
    """The blocks of a table in the journal."""
    return read_blocks(rig.settings, lambda block: (block.stream, block.table) == (rig.stream, table), 1 << 30)


def test_a_node_warms_from_the_journal(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    """After a kill the blocks come from Kafka, with the changes since, and nothing from the target."""
    rig.source("UPDATE thing SET price = 1")
    end = nodes.mark()
    rig.until(lambda: client.status()["streams"][rig.stream]["visible"] >= end, "the cache is at the end")
    keys = {id_: pack_fields([id_.to_bytes(8, "big")]) for id_ in (5, 7, 40)}

    def kept() -> bool:
        blocks = [block_of(found)[1] for found in journal(rig, "thing")]
        return len(blocks) > 100 and {*keys.values()} <= {key for block in blocks for key, _ in block.items()}

    rig.until(kept, "the journal has the blocks")
    client.close()
    rig.kill("cache-a", again=False)
    rig.source("UPDATE thing SET name = 'while away' WHERE id = 5")
    at = nodes.mark()
    rig.start("cache-a")
    nodes.wait_until_there("a")
    rows = {key: client.row(rig.stream, "thing", key, min_position=at) for key in keys}
    assert rows[5].values is not None
    assert rows[5].values["name"] == "while away"
    status = client.status()
    assert status["streams"][rig.stream]["warmed_blocks"] > 100, status
    assert {row.origin for row in rows.values()} == {"cache"}, status


def test_a_table_that_is_dropped_leaves_the_journal(rig: Rig, nodes: Nodes, client: CacheClient) -> None:
    rig.source("INSERT INTO dropped VALUES (1)", "UPDATE thing SET price = 2 WHERE id < 50")
    rig.until(lambda: len(journal(rig, "dropped")) > 0, "the journal has blocks of the table")
    others = len(journal(rig, "thing"))
    rig.source("DROP TABLE dropped")
    rig.wait_until_equal("thing")
    assert len(journal(rig, "dropped")) > 0  # the target still has its rows
    rig.wait_until_applied()
    with rig.target_connection() as conn:
        conn.execute("DROP TABLE dropped")
    rig.until(lambda: len(journal(rig, "dropped")) == 0, "its blocks became tombstones")
    assert len(journal(rig, "thing")) >= others > 0
    assert client.row(rig.stream, "thing", 7, min_position=nodes.mark()).values is not None

"""The HTTP interface of a cache node: what each request is answered with, before any row is looked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from connectors.errors import KeyTextError
from pipeline.cache.conflict import NO_ROW
from pipeline.errors import RetriableError
from topologies.cache_checks import KEY_PARTS_MAX, ROWS_MAX
from topologies.cache_http import make_app
from topologies.cache_node import CacheNode, RowAnswer
from topologies.cache_reader import NotYetError
from topologies.settings_file import load_settings

CONFIG = """
[kafka]
bootstrap_servers = "127.0.0.1:9"
[cache]
token = "secret"
wait_s = 2.0
[[streams]]
name = "s"
cache = ["public.item"]
[streams.source]
dsn = "postgresql://localhost/a"
[streams.target]
dsn = "postgresql://localhost/b"
"""
Asked = tuple[str, tuple[str, str], Sequence[str], int, float]


class Node(CacheNode):
    """Notes what it is asked for, and answers as it is told."""

    def __init__(self, directory: Path, answer: RowAnswer | Exception) -> None:
        path = directory / "headrace.toml"
        path.write_text(CONFIG)
        super().__init__(load_settings(path))
        self.asked: list[Asked] = []
        self._answer = answer

    async def read(
        self, stream: str, table: tuple[str, str], key: Sequence[str], position: int, wait_s: float
    ) -> RowAnswer:
        """The answer."""
        self.asked.append((stream, table, list(key), position, wait_s))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@asynccontextmanager
async def served(node: Node) -> AsyncIterator[str]:
    runner = web.AppRunner(make_app(node))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def get(node: Node, path: str, token: str = "secret") -> tuple[int, dict[str, object], str]:
    """Status, body and Retry-After of a GET."""
    return ask(node, "GET", path, token)


def ask(
    node: Node, method: str, path: str, token: str = "secret", *, body: str | None = None
) -> tuple[int, dict[str, object], str]:
    """Status, body and Retry-After of a request."""

    async def exchange() -> tuple[int, dict[str, object], str]:
        async with served(node) as address, ClientSession() as session:
            headers = {"Authorization": f"Bearer {token}"}
            async with session.request(method, address + path, headers=headers, data=body) as answer:
                said: dict[str, object] = json.loads(await answer.text())
                return answer.status, said, answer.headers.get("Retry-After", "")

    return asyncio.run(exchange())


CHECK = '{"rows": [{"table": "item", "key": ["7"], "tag": "t1"}], "min_position": 100}'
FOUND = RowAnswer(120, {"id": 7, "n": "x"}, "cache", "t1")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/rows/s/item/7?min_position=100&wait_s=0.5", ("s", ("public", "item"), ["7"], 100, 0.5)),
        ("/v1/rows/s/other.item/7", ("s", ("other", "item"), ["7"], 0, 2.0)),
        ("/v1/rows/s/item/a%2Fb%20c/%C3%B6?wait_s=99", ("s", ("public", "item"), ["a/b c", "ö"], 0, 2.0)),
        ("/v1/rows/s/item/7?wait_s=-1", ("s", ("public", "item"), ["7"], 0, 0.0)),
    ],
)
def test_a_row_is_asked_for_by_its_key(tmp_path: Path, path: str, asked: Asked) -> None:
    node = Node(tmp_path, FOUND)
    assert get(node, path) == (200, {"position": 120, "row": {"id": 7, "n": "x"}, "from": "cache", "tag": "t1"}, "")
    assert node.asked == [asked]


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [
        (KeyTextError("no such column"), 404, ""),
        (NotYetError("position 9 is not visible"), 503, "1"),
        (RetriableError("the target is away"), 503, "1"),
    ],
)
def test_what_cannot_be_answered_is_refused(tmp_path: Path, error: Exception, status: int, again: str) -> None:
    assert get(Node(tmp_path, error), "/v1/rows/s/item/7") == (status, {"error": str(error)}, again)


@pytest.mark.parametrize("query", ["min_position=x", "min_position=1.5", "wait_s=soon", "wait_s=nan"])
def test_a_query_that_is_no_number_is_refused(tmp_path: Path, query: str) -> None:
    node = Node(tmp_path, FOUND)
    status, body, _ = get(node, f"/v1/rows/s/item/7?{query}")
    assert (status, node.asked) == (400, [])
    assert "min_position is an integer" in str(body["error"])


def test_a_key_of_too_many_columns_is_refused(tmp_path: Path) -> None:
    node = Node(tmp_path, FOUND)
    assert get(node, "/v1/rows/s/item/" + "/".join(["1"] * (KEY_PARTS_MAX + 1)))[0] == 400
    assert node.asked == []


def test_without_the_token_nothing_is_looked_for(tmp_path: Path) -> None:
    node = Node(tmp_path, FOUND)
    assert get(node, "/v1/rows/s/item/7", token="guess")[0] == 401
    assert get(node, "/v1/status", token="")[0] == 401
    assert ask(node, "POST", "/v1/checks/s", token="", body=CHECK)[0] == 401
    assert node.asked == []


def test_a_check_names_the_rows_that_are_others(tmp_path: Path) -> None:
    node = Node(tmp_path, FOUND)
    assert ask(node, "POST", "/v1/checks/s", body=CHECK) == (200, {"position": 120, "conflicts": []}, "")
    assert node.asked == [("s", ("public", "item"), ["7"], 100, 2.0)]
    rows = [{"table": "other.item", "key": ["a/b", "8"], "tag": tag} for tag in ("t0", "t1", NO_ROW)]
    _, said, _ = ask(node, "POST", "/v1/checks/s", body=json.dumps({"rows": rows, "wait_s": 0.5}))
    now = {"position": 120, "row": {"id": 7, "n": "x"}, "from": "cache", "tag": "t1"}
    assert said["conflicts"] == [
        {"number": 0, "conflict": "updated", **now}, {"number": 2, "conflict": "inserted", **now},
    ]  # fmt: skip
    assert node.asked[1:] == [("s", ("other", "item"), ["a/b", "8"], 0, 0.5)] * 3
    assert (node.counts["checks"], node.counts["conflicts"]) == (4, 2)


def test_a_check_that_cannot_be_answered_is_refused_whole(tmp_path: Path) -> None:
    node = Node(tmp_path, NotYetError("position 100 is not visible"))
    assert ask(node, "POST", "/v1/checks/s", body=CHECK) == (503, {"error": "position 100 is not visible"}, "1")


@pytest.mark.parametrize(
    "body",
    [
        "", "no JSON", "[]", "{}", '{"rows": []}', '{"rows": [{"table": "item", "key": ["7"]}]}',
        '{"rows": [{"table": "item", "key": [7], "tag": "t1"}]}', CHECK.replace("100", '"100"'),
        CHECK.replace("min_position", "min_positoin"), CHECK.replace("100", '1, "wait_s": NaN'),
        json.dumps({"rows": [{"table": "item", "key": ["7"], "tag": "t1"}] * (ROWS_MAX + 1)}),
        json.dumps({"rows": [{"table": "item", "key": ["7"] * (KEY_PARTS_MAX + 1), "tag": "t1"}]}),
    ],
)  # fmt: skip
def test_a_check_that_makes_no_sense_is_refused(tmp_path: Path, body: str) -> None:
    node = Node(tmp_path, FOUND)
    status, said, _ = ask(node, "POST", "/v1/checks/s", body=body)
    assert (status, node.asked) == (400, [])
    assert "docs/cache.md tells what a check is" in str(said["error"])

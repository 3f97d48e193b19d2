"""Three cache nodes and the directory: a block comes from who has it, in two steps or three; nothing is stale."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product

import pytest
from typer.testing import CliRunner

from headrace.cli import app as cli
from tests.support.fixtures import MakeRig
from tests.support.nodes import Nodes
from tests.support.rig import ROLES, Rig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
NAMES = ("a", "b", "c")
ROWS = 3000
ROUND = 20  # keys


@pytest.fixture
def rig(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setenv("HEADRACE_DIRECTORY__ENABLED", "true")
    made = make_rig(stream={"cache": ["public.item"]})
    made.both("CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL)")
    return made


def outcomes(nodes: Nodes) -> Counter[str]:
    """How blocks came to all nodes."""
    found: Counter[str] = Counter()
    for name in NAMES:
        found += Counter(nodes.status(name).get("transfers", {}).get("outcomes", {}))
    return found


def check(rig: Rig, nodes: Nodes, name: str, keys: range, n: int, at: int) -> Counter[str]:
    """Read keys through a node at a position; returns where the rows came from."""
    origins: Counter[str] = Counter()
    with nodes.client(name) as client:
        for key in keys:
            row = client.row(rig.stream, "item", key, min_position=at)
            assert row.values == {"id": key, "n": n}, (name, row)
            origins[row.origin] += 1
    return origins


def test_blocks_come_from_who_has_them(rig: Rig) -> None:
    nodes = Nodes(rig, NAMES, buckets=1024)
    rig.source(f"INSERT INTO item SELECT n, 0 FROM generate_series(1, {ROWS}) n")
    rig.start(*ROLES)
    rig.wait_until_equal("item")
    rig.start("affinity", *(f"cache-{name}" for name in NAMES))
    nodes.wait_until_there(*NAMES)
    rig.until(lambda: all(nodes.status(name).get("epoch", 0) > 1_000_000 for name in NAMES), "the nodes know")
    at, rounds = nodes.mark(), iter(range(1, ROWS, ROUND))
    read: list[range] = []

    def seen() -> bool:
        """The first to read a key gets it from the target and keeps it; the others get its block from there."""
        read.append(range(start := next(rounds), start + ROUND))
        for name in NAMES:
            check(rig, nodes, name, read[-1], 0, at)
        found = outcomes(nodes)
        return found["2-way"] > 0 and found["3-way"] > 0

    rig.until(seen, "blocks have come both ways")
    assert any(nodes.status(name)["counts"].get("passed_on") for name in NAMES)
    ways = [nodes.status(name)["transfers"]["way_us"] for name in NAMES]
    assert all(latency > 0 for way in ways for latency in way.values())
    rig.source(f"UPDATE item SET n = 1 WHERE id < {read[-1].stop}")
    at = nodes.mark()
    for keys, name in product(read, NAMES):
        check(rig, nodes, name, keys, 1, at)
    assert check(rig, nodes, "a", read[0], 1, at)["cache"], "copies follow the log"
    shown_by_the_command(rig)


def shown_by_the_command(rig: Rig) -> None:
    def shown() -> bool:
        result = CliRunner().invoke(cli, ["directory", "top", "--json", "-c", str(rig.config_path)])
        assert result.exit_code == 0, result.exception
        return any(node.get("3-way") for node in json.loads(result.stdout)["transfers"].values())

    rig.until(shown, "`headrace directory top` counts transfers")
    table = CliRunner().invoke(cli, ["directory", "top", "-c", str(rig.config_path)]).stdout
    assert "3-way" in table

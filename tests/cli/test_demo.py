"""`headrace demo` from its first server to its last file, small."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from headrace.console import EX_OK
from tests.cli.conftest import Role, Starter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
TRANSACTIONS = 400


def test_a_small_demonstration(tmp_path: Path, server_dir: Path, start: Starter) -> None:
    home = server_dir / "demo"
    result, page = tmp_path / "demo.json", tmp_path / "demo.html"
    numbers = ["--transactions", str(TRANSACTIONS), "--lanes", "2", "--seed", "7"]
    files = ["--json", str(result), "--html", str(page), "--data-dir", str(home)]
    role = start(Role(["demo", *numbers, *files]))
    assert role.end(150) == EX_OK, role.text()
    for said in ("killed the apply process", "verdict", "the target equals the source", f"Page with plots: {page}"):
        assert said in role.text()

    found = json.loads(result.read_text())
    assert (found["committed"], found["applied"], found["right"]) == (TRANSACTIONS, TRANSACTIONS, True)
    assert (found["seed"], found["lanes"], found["differences"]) == (7, 2, 0)
    rows = {table["table"]: table["target_rows"] for table in found["check"]["tables"]}
    assert rows["public.pgbench_history"] == TRANSACTIONS // 2
    assert found["kill"]["first_commit_s"] > 0

    text = page.read_text()
    assert "the target equals the source" in text
    plots = text.split("<svg")[1:]
    assert plots
    for plot in plots:
        ElementTree.fromstring(f"<svg{plot.partition('</svg>')[0]}</svg>")
    assert not home.exists()
    assert programs_of(home) == []


def programs_of(directory: Path) -> list[str]:
    """Command lines of live processes that name the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(directory) in (line := entry.read_text().replace("\0", " ")):
                found.append(line)
    return found

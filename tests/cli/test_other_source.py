"""A source connector that is no part of Headrace: found by its entry point, and run by every role and command."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from headrace.console import EX_OK
from tests.cli.conftest import Setup, Starter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "sqlite-source"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example as pip would leave it: a module, and a name for it."""
    about = tmp_path / "site" / "headrace_sqlite-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: headrace-sqlite\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text("[headrace.connectors]\nsqlite = headrace_sqlite:CONNECTOR\n")
    places = [str(EXAMPLE), str(about.parent)]
    for place in places:
        monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))


@pytest.mark.usefixtures("installed")
def test_a_sqlite_file_into_postgresql(setup: Setup, start: Starter, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
        with conn:
            conn.execute("INSERT INTO items VALUES (1, 'one'), (2, NULL)")
        setup.source = f"sqlite:///{path}"
        setup.more["source"] = 'connector = "sqlite"'
        checked = setup.run("check")
        assert checked.code == EX_OK, checked.out
        run = start(setup.start("run"))
        assert setup.run("wait").code == EX_OK
        with conn:
            conn.executemany("INSERT INTO items VALUES (?, 'many')", [(number,) for number in range(100, 300)])
            conn.execute("UPDATE items SET id = 20, name = 'two' WHERE id = 2")
        with conn:
            conn.execute("DELETE FROM items WHERE id > 101")
        waited = setup.run("wait")
        assert waited.code == EX_OK, waited.err
    with psycopg.connect(setup.target) as target:
        rows = target.execute("SELECT id, name FROM items ORDER BY id").fetchall()
    assert rows == [(1, "one"), (20, "two"), (100, "many"), (101, "many")]
    status = setup.run("status")
    assert status.code == EX_OK, status.err
    assert run.stop() == EX_OK

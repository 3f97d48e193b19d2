"""The journal's role between two readings: partitions that are taken away meanwhile, tables that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from faust.types import TP

from pipeline.cache.orphans import TargetTables
from pipeline.cache.records import Stamp
from pipeline.errors import RetriableError
from topologies import fusion
from topologies.fusion import FusionApp
from topologies.settings import Settings
from topologies.settings_file import load_settings

CONFIG = """
[kafka]
bootstrap_servers = "127.0.0.1:9"
[[streams]]
name = "s"
cache = ["public.*"]
[streams.source]
dsn = "postgresql://localhost/a"
[streams.target]
dsn = "postgresql://localhost/b"
"""
KEPT, GONE = b"s/public/kept/1", b"s/public/gone/2"
OLD, NEW = Stamp(1, 1, 10), Stamp(1, 1, 20)


class Journal(FusionApp):
    """Reads what it is told to, one reading after the other, and notes what it writes."""

    def __init__(self, settings: Settings, *readings: dict[bytes, Stamp]) -> None:
        super().__init__(settings)
        self._readings = [*readings]
        self.taken_away = False  # in the middle of the next reading
        self.written: list[tuple[int, bytes, bytes | None]] = []

    def _read_journal(self, partition: int) -> dict[bytes, Stamp]:
        if self.taken_away:
            self.taken_away = False
            asyncio.run(self._revoked({TP(self._updates, partition)}))
        if not self._readings:
            raise RetriableError("the broker is away")
        return self._readings.pop(0)

    def _write(self, partition: int, key: bytes, value: bytes | None) -> None:
        self.written.append((partition, key, value))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "headrace.toml"
    path.write_text(CONFIG)
    return load_settings(path)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Faust takes the thread's loop when an application is made."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


def test_a_partition_that_was_taken_away_while_it_was_read_is_read_again(
    loop: asyncio.AbstractEventLoop, settings: Settings
) -> None:
    """Another worker may have written meanwhile: what was read would let the journal go back."""
    journal = Journal(settings, {KEPT: OLD}, {KEPT: NEW})
    journal.taken_away = True
    assert loop.run_until_complete(journal._load(3)) == {KEPT: NEW}
    assert loop.run_until_complete(journal._load(3)) == {KEPT: NEW}  # from memory


def test_blocks_of_tables_that_are_gone_become_tombstones_once(
    loop: asyncio.AbstractEventLoop, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: dict[str, TargetTables] = {}
    monkeypatch.setattr(fusion, "target_tables", lambda _: targets)
    journal = Journal(settings, {KEPT: OLD, GONE: OLD}, {GONE: NEW})
    loop.run_until_complete(journal._sweep())
    assert not journal.written  # no partition is this worker's
    loop.run_until_complete(journal._given({TP(journal._updates, 5), TP("another", 1)}))
    loop.run_until_complete(journal._sweep())
    assert not journal.written  # the target is away
    targets["s"] = TargetTables(1, 15, {("public", "kept")})
    for _ in range(2):
        loop.run_until_complete(journal._sweep())
    assert journal.written == [(5, GONE, None)]
    loop.run_until_complete(journal._given({TP(journal._updates, 6)}))
    loop.run_until_complete(journal._sweep())
    assert len(journal.written) == 1  # the target has not reached that block's position
    loop.run_until_complete(journal._given({TP(journal._updates, 7)}))
    loop.run_until_complete(journal._sweep())  # the broker is away: no matter, the next sweep comes
    assert len(journal.written) == 1

"""A planner that takes over from itself, with the ledger and the units topic played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from connectors.ledger import Ledger
from pipeline.catalogue import Catalogue
from pipeline.window import Restart
from schemas.apply_unit import ApplyUnit
from schemas.change_batch_codec import encode_batch
from schemas.progress import Failure
from tests.properties.model import catalogue
from tests.unit.test_planner import ACCOUNT, batch
from topologies import stream_planner
from topologies.settings_file import load_settings
from topologies.stream_planner import StreamPlanner
from topologies.unit_sender import UnitSender

CONFIG = """
[[streams]]
name = "s"
[streams.source]
dsn = "postgresql://u@a/one"
[streams.target]
dsn = "postgresql://u@b/two"
"""


class PlayedLedger:
    """Keeps a watermark. While it is being moved for the first time, news of one more unit arrive."""

    def __init__(self) -> None:
        self.watermark, self.epoch = 0, 1
        self.meanwhile: list[asyncio.Future[None]] = []
        self.planner: StreamPlanner | None = None

    def ensure(self) -> None:
        pass

    def takeover(self) -> Restart:
        self.epoch += 1
        return Restart(self.epoch, 1, self.watermark, {})

    def catalogue(self) -> Catalogue:
        return catalogue([ACCOUNT])

    def advance(self, epoch: int, generation: int, watermark: int, time_us: int, changes_offset: int) -> bool:
        if self.planner is not None:
            played, self.planner = self.planner, None
            assert played._planner is not None
            played._planner.progress(0, epoch, 2)
            played._retire()
        self.watermark = watermark
        return True


class NoSender(UnitSender):
    """Sends nothing."""

    async def send(self, units: Sequence[ApplyUnit]) -> None:
        pass


async def play(directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    path = directory / "headrace.toml"
    path.write_text(CONFIG)
    settings = load_settings(path)

    async def stop() -> None:
        raise AssertionError("the planner stops")

    ledger = PlayedLedger()
    monkeypatch.setattr(stream_planner, "connect_ledger", lambda _: cast(Ledger, ledger))
    monkeypatch.setattr(stream_planner, "UnitSender", NoSender)
    played = StreamPlanner(settings, settings.streams[0], 0, stop)
    planner = await played._take_over()
    for position in range(3):
        what = batch(position, 7)
        planner.offer(what, encode_batch(what), position + 1, None, 0)
    planner.progress(0, planner.epoch, 1)
    played._retire()
    ledger.planner = played
    await played._plan_again(Failure(0, "", "dead letters have changed", poison=False), planner)
    assert played._planner is not None
    return played._planner.chain.position


def test_windows_that_are_applied_while_the_watermark_moves_leave_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asyncio.run(play(tmp_path, monkeypatch)) == 3

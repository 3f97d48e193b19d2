"""The planner role and the directory that it follows: what fails there is not passed over."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipeline.errors import RetriableError
from topologies.directory_follower import DirectoryFollower
from topologies.planner import PlannerApp
from topologies.settings import Settings
from topologies.settings_file import load_settings

CONFIG = """
[kafka]
bootstrap_servers = "127.0.0.1:1"
[directory]
enabled = true
[[streams]]
name = "s"
[streams.source]
dsn = "postgresql://u@a/one"
[streams.target]
dsn = "postgresql://u@b/two"
"""


def settings(directory: Path) -> Settings:
    path = directory / "headrace.toml"
    path.write_text(CONFIG)
    return load_settings(path)


async def ticked(made: Settings, error: Exception | None) -> tuple[PlannerApp, int]:
    """A planner whose directory has failed with `error`, after three ticks; and how often it was stopped."""
    planner, stops = PlannerApp(made), 0

    async def stop() -> None:
        nonlocal stops
        stops += 1

    setattr(planner.app, "stop", stop)  # noqa: B010 - mypy does not let a method be assigned
    assert planner.directory is not None
    planner.directory.fatal = error
    for _ in range(3):
        await planner._tick()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return planner, stops


def test_the_planner_ends_with_the_error_of_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DirectoryFollower, "start", lambda self: None)
    made = settings(tmp_path)
    planner, stops = asyncio.run(ticked(made, None))
    assert (planner.fatal, stops) == (None, 0)
    error = RetriableError("topic grd-affinity: not authorized")
    planner, stops = asyncio.run(ticked(made, error))
    assert (planner.fatal, stops) == (error, 1)
    assert "its directory can't be followed: topic grd-affinity: not authorized" in caplog.text


def test_a_follower_that_can_not_begin_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RetriableError("no consumer")

    monkeypatch.setattr("topologies.directory_follower.make_consumer", fails)
    follower = DirectoryFollower(settings(tmp_path), node="a")
    follower.run()
    assert str(follower.fatal) == "no consumer"

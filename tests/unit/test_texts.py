"""Lines for people: what the monitor logs of a quiet stream, which lanes a process has, differences and levels."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from connectors.base import TableCheck
from headrace.status_text import seconds_text
from headrace.verify import StreamCheck, advice
from schemas.lag import Lag, LagWindow
from topologies.lag import Monitor
from topologies.lane_workers import runs_text
from topologies.settings_file import load_settings

CONFIG = """
[[streams]]
name = "shop"
[streams.source]
dsn = "postgresql://u@a/one"
[streams.target]
dsn = "postgresql://u@b/two"
"""


def lag(transactions: int, age_s: float | None) -> Lag:
    spent = 0.1 if transactions else None
    window = LagWindow(10, "applied", transactions, transactions, spent, spent, spent, spent, spent)
    return Lag("shop", 1, 1, age_s, "ok", 0, "", 0, 1, [window])


def test_a_quiet_stream_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(CONFIG)
    monitor = Monitor(load_settings(path), lambda: True)
    caplog.set_level(logging.INFO)
    for now in (lag(0, None), lag(0, 0.0), lag(0, 0.0), lag(5, 0.0), lag(0, 0.0), lag(0, 7.5), lag(0, 8.5)):
        monitor._say(now)
    quiet = "stream shop: nothing applied in the last 10 s; "
    told = [record.getMessage() for record in caplog.records if record.name == Monitor.__module__]
    assert told[:2] == [f"{quiet}the lag is not known yet", f"{quiet}target behind by 0.0 s"]
    assert told[2].startswith("stream shop: lag p50 100 ms")
    assert told[3:] == [f"{quiet}target behind by {age_s} s" for age_s in (0.0, 7.5, 8.5)]


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 10, 12, 13], "0-2, 10, 12-13"), (list(range(16)), "0-15")]
)
def test_lanes_are_told_as_runs(numbers: list[int], text: str) -> None:
    assert runs_text(numbers) == text


def test_differences_come_with_the_commands_that_heal_them(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(f"{CONFIG}[streams.mapping]\nrename = {{public = 'copy'}}\n")
    [stream] = load_settings(path).streams
    equal, other = TableCheck("public.a", 3, 3, 0), TableCheck("public.B c", 3, 2, 1)
    assert advice(stream, StreamCheck("shop", (equal,)), path) == []
    _, command = advice(stream, StreamCheck("shop", (equal, other)), path)
    assert command == f"headrace resync -c {path} --stream shop --table 'copy.B c' --yes"


def test_durations_have_units() -> None:
    shown = [seconds_text(seconds) for seconds in (None, 0.0, 2e-6, 0.25, 90.0, 9000.0)]
    assert shown == ["-", "0 s", "2 µs", "250 ms", "90.0 s", "2.5 h"]

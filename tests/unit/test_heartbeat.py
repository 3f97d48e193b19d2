"""The file that says that a role's loop turns."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from headrace.stopping import StopFlag
from topologies.heartbeat import ENV_HEARTBEAT, Heartbeat


def test_a_loop_that_asks_whether_to_stop_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "heartbeat"
    monkeypatch.setenv(ENV_HEARTBEAT, str(path))
    stop = StopFlag()
    stop.wait(0)
    assert not path.exists(), "whatever waits from outside says nothing about the loop"
    assert not stop.is_set()
    assert path.exists()


def test_the_file_is_touched_once_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topologies.heartbeat.INTERVAL_S", 3600.0)
    path = tmp_path / "heartbeat"
    heartbeat = Heartbeat(path)
    heartbeat.beat()
    os.utime(path, (0, 0))
    heartbeat.beat()
    assert path.stat().st_mtime == 0
    Heartbeat(path).beat()
    assert path.stat().st_mtime > 0


def test_without_a_file_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_HEARTBEAT, raising=False)
    Heartbeat.from_environment().beat()


def test_a_file_that_cannot_be_touched_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heartbeat = Heartbeat(tmp_path / "absent" / "heartbeat")
    with caplog.at_level(logging.WARNING):
        heartbeat.beat()
        heartbeat.beat()
    assert caplog.text.count("cannot be touched") == 1

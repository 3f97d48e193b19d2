"""Lag of a running stream: stages, levels, alerts by webhook; an idle stream is fresh, a stuck one is not."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from headrace.console import EX_FAILURE
from headrace.embedded.ports import remembered_port
from headrace.recent import newest_lag, recent_reports
from pipeline.lag import STAGES
from schemas.lag import Lag
from tests.cli.conftest import invoke
from tests.support.fixtures import MakeRig
from tests.support.receiver import receiver
from tests.support.rig import Rig
from tests.support.scraping import scrape

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
WARNING_S = 5  # more than the roles of a busy machine are silent


def lag_of(rig: Rig) -> Lag:
    """The monitor's newest summary; waits for one."""
    found: list[Lag] = []

    def spoken() -> bool:
        lag = newest_lag(rig.settings, rig.stream)
        found.extend([lag] if lag is not None else [])
        return lag is not None

    rig.until(spoken, "the monitor speaks")
    return found[-1]


def test_a_stuck_target_is_told_and_an_idle_source_is_not(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with receiver(500) as server:
        monkeypatch.setenv("HEADRACE_MONITOR__WEBHOOK_URL", f"http://127.0.0.1:{server.port}/s3cret")
        for name, value in {"warning_s": WARNING_S, "alarm_s": 300, "critical_s": 600, "hold_s": 0}.items():
            monkeypatch.setenv(f"HEADRACE_STREAMS__0__LAG__{name.upper()}", str(value))
        port = remembered_port(tmp_path / "ports.json", "metrics", None)
        monkeypatch.setenv("HEADRACE_MONITOR__METRICS_LISTEN", f"127.0.0.1:{port}")
        rig = make_rig()
        rig.both("CREATE TABLE item (id int PRIMARY KEY)")
        rig.start("capture", "plan", "apply")
        rig.source("INSERT INTO item VALUES (1)")
        rig.wait_until_equal("item")
        rig.start("monitor")
        rig.until(lambda: lag_of(rig).age_s == 0, "the target is fresh")
        assert lag_of(rig).level == "ok"
        with psycopg.connect(rig.target_dsn) as conn:
            conn.execute("LOCK TABLE item IN EXCLUSIVE MODE")
            rig.source("INSERT INTO item VALUES (2)")
            rig.until(lambda: len(server.posts) == 2, "the alert is posted, and once more after a refusal")
            rig.until(lambda: lag_of(rig).level == "warning", "the summary says so")
            assert (lag_of(rig).age_s or 0) >= WARNING_S
            _check_explanation(rig)
            assert scrape(port)["headrace_lag_level", rig.stream] == 1
        rig.wait_until_equal("item")
        rig.until(lambda: lag_of(rig).age_s == 0, "the last commit is old, but nothing is left to apply")
    assert [body["level"] for _, body in server.posts] == ["warning", "warning"]
    assert server.posts[0] == server.posts[1]
    assert server.posts[0][1]["stream"] == rig.stream
    assert "lag level warning (was ok): the target is" in rig.log("monitor")
    assert "s3cret" not in rig.log("monitor")
    rig.until(lambda: len(_p99s(lag_of(rig))) == len(STAGES), "every stage was counted")
    p99s = _p99s(lag_of(rig))
    assert p99s == sorted(p99s), "stages follow each other"
    _check_status(rig)


def _check_explanation(rig: Rig) -> None:
    """While the target's table is locked; the waiting transaction is the newest window."""
    text = invoke("explain", "-c", str(rig.config_path)).out
    assert "1 transactions, 1 row changes; 0 are applied" in text
    position = text.partition("transaction ")[2].partition(":")[0]
    assert "is next: it is being applied, or the target makes it wait (a lock?)" in text
    assert "apply/0: merge limit = 4,000 transactions a commit" in text
    assert invoke("explain", "-c", str(rig.config_path), "--window", position).out.startswith(text[:100])
    assert "<svg" in invoke("explain", "-c", str(rig.config_path), "--format", "svg").out
    assert "digraph" in invoke("explain", "-c", str(rig.config_path), "--format", "dot").out
    absent = invoke("explain", "-c", str(rig.config_path), "--window", "FFFF/0")
    assert absent.code == EX_FAILURE
    assert "position FFFF/0 was not captured yet" in absent.err


def _p99s(lag: Lag) -> list[float]:
    """Of each stage that something has reached in the last minute."""
    minute = [lag.window(60, stage) for stage in STAGES]
    return [window.p99_s for window in minute if window is not None and window.p99_s is not None]


def _check_status(rig: Rig) -> None:
    outcome = invoke("status", "-c", str(rig.config_path), "--json")
    [found] = json.loads(outcome.out)
    assert (found["level"], found["dead_letters"]) == ("warning", 0)
    assert found["rows"] == 2, "the snapshot's row or insert of each of the two"
    high, low = (int(part, 16) for part in found["watermark_text"].split("/"))
    assert (high << 32 | low) == found["watermark"]
    assert {"capture", "plan"} <= {role["role"] for role in found["roles"]}
    assert found["watermark_text"] in invoke("status", "-c", str(rig.config_path)).out
    for report in recent_reports(rig.settings, 0):
        assert all(0 <= buffer.used <= buffer.limit for buffer in report.buffers)

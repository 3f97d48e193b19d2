"""Errors of the configuration: the text names the key and never shows a secret."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from headrace.console import EX_CONFIG, EX_FAILURE
from tests.cli.conftest import Setup, Starter, invoke

SECRET = "hunter2-very-secret"
PRIORITIES = "[streams.target.priorities]\ncritical = ['public.a']"
DSN = f"postgresql://app:{SECRET}@127.0.0.1:1/shop"


def broken(tmp_path: Path, **more: str) -> Setup:
    """A configuration without servers, with the lines in `more`."""
    return Setup(tmp_path / "headrace.toml", DSN, DSN, "127.0.0.1:1", more=more)


@pytest.mark.parametrize(
    ("section", "line", "key", "text"),
    [
        ("kafka", "bootstrap = 'x'", "kafka.bootstrap", "unknown key"),
        ("target", "lane = 4", "streams.0.target.lane", "unknown key"),
        ("target", "lanes = 17", "streams.0.target.lanes", "less than or equal to 16"),
        ("target", "lanes = 'many'", "streams.0.target.lanes", "integer"),
        ("target", "order = 'any'", "streams.0.target.order", "'dependent' or 'commit'"),
        ("source", "linger_ms = -1", "streams.0.source.linger_ms", "greater than or equal to 0"),
        ("source", "snapshot = 'always'", "streams.0.source.snapshot", "'initial' or 'never'"),
        ("target", f"order = 'commit'\n{PRIORITIES}", "streams.0.target", 'priorities need order = "dependent"'),
        ("target", f"lanes = 1\n{PRIORITIES}", "streams.0.target", "priorities need 2 lanes"),
        ("target", "[streams.target.priorities]\nurgent = []", "streams.0.target.priorities.urgent", "unknown key"),
        ("stream", "[streams.lag]\nwarning_s = 50", "streams.0.lag", "thresholds must rise"),
        ("kafka", f"[monitor]\nwebhook_url = 'ftp://host/{SECRET}'", "monitor.webhook_url", "is no URL"),
        ("kafka", "[monitor]\nmetrics_listen = 'nowhere'", "monitor.metrics_listen", "pattern"),
        ("kafka", "retention_hours = 0", "kafka.retention_hours", "greater than or equal to 1"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, section: str, line: str, key: str, text: str) -> None:
    outcome = broken(tmp_path, **{section: line}).run("status")
    assert outcome.code == EX_FAILURE
    assert f"  {key}: " in outcome.err
    assert text in outcome.err
    assert "Traceback" not in outcome.err
    assert "at least 1 item" not in outcome.err, "a stream with an error is no missing stream"
    assert SECRET not in outcome.err + outcome.out


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        (f"mysql//app:{SECRET}@host", "is no connection string"),
        (f"host=127.0.0.1 password={SECRET}", "names no database"),
        ("", "names no database"),
        (f"postgresql://app:{SECRET}/x@127.0.0.1:1/shop", "has a host or port that can't be"),
        (f"postgresql://app:1/{SECRET}@127.0.0.1:1/shop", "has a host or port that can't be"),
        (f"postgresql://app:x@{SECRET}@127.0.0.1:1/shop", "has a host or port that can't be"),
        (f"host=127.0.0.1 port={SECRET} dbname=shop", "has a host or port that can't be"),
    ],
)
def test_a_wrong_dsn_is_named_but_not_shown(tmp_path: Path, dsn: str, text: str) -> None:
    setup = broken(tmp_path)
    setup.source = dsn
    outcome = setup.run("check")
    assert outcome.code == EX_FAILURE
    assert f"  streams.0.source.dsn: {text}" in outcome.err
    assert SECRET not in outcome.err + outcome.out


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    outcome = broken(tmp_path, kafka="x = 1", target="lanes = 0").run("verify")
    assert "kafka.x" in outcome.err
    assert "streams.0.target.lanes" in outcome.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[streams]\nname = 'shop'", "  streams: is a list: write [[streams]]"),
        ("[[streams]]\nname = 'Shop-1'", "  streams.0.name: begins with a lower-case letter"),
        ("[[streams]]\nname = 'shop'", "  streams.0.source: is missing"),
    ],
)
def test_a_wrong_stream_is_told_how_it_is_written(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(text)
    assert told in invoke("check", "-c", str(path)).err


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    for command, code in (("status", EX_FAILURE), ("run", EX_FAILURE)):
        outcome = invoke(command, "-c", str(path))
        assert outcome.code == code
        assert f"no configuration file {path}" in outcome.err


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text("streams = [")
    outcome = invoke("status", "-c", str(path))
    assert outcome.code == EX_FAILURE
    assert f"cannot read {path}" in outcome.err


def test_an_unknown_stream_is_named_with_those_that_exist(tmp_path: Path) -> None:
    setup = broken(tmp_path)
    outcome = setup.run("wait", "--stream", "nobody")
    assert outcome.code == EX_FAILURE
    assert f"no stream is named 'nobody'; there are: {setup.stream}" in outcome.err


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STREAMS__0__TARGET__LANES", "99")
    assert "streams.0.target.lanes" in broken(tmp_path).run("status").err


def test_an_embedded_broker_that_does_not_run_is_asked_for(tmp_path: Path) -> None:
    setup = broken(tmp_path)
    setup.servers = "embedded"
    outcome = setup.run("explain")
    assert outcome.code == EX_FAILURE
    assert "no embedded broker runs in" in outcome.err
    assert "headrace run" in outcome.err


def test_a_role_says_by_its_exit_code_that_a_restart_is_useless(tmp_path: Path, start: Starter) -> None:
    role = start(broken(tmp_path, kafka="x = 1").start("capture"))
    assert role.end() == EX_CONFIG
    assert "kafka.x: unknown key" in role.text()


def test_the_version_needs_no_configuration() -> None:
    outcome = invoke("--version")
    assert (outcome.code, outcome.out) == (0, f"headrace {version('headrace')}\n")

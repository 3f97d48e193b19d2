"""Servers that are away when a role or a command starts: said clearly, and tried again where that may help."""

from __future__ import annotations

import pytest

from headrace.console import EX_FAILURE, EX_OK, EX_TEMPFAIL
from tests.cli.conftest import Setup, Starter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
CLOSED = "127.0.0.1:1"
AWAY_S = 50.0  # Kafka's client takes 15 s to give up
AWAY = "postgresql://postgres:hunter2@127.0.0.1:1/shop"


def test_kafka_is_away_for_roles(setup: Setup, start: Starter) -> None:
    setup.servers = CLOSED
    roles = {name: start(setup.start(name)) for name in ("capture", "apply", "plan")}
    roles["capture"].await_text("trying again in", AWAY_S)
    roles["capture"].terminate()
    assert f"stream {setup.stream}: Kafka at {CLOSED}" in roles["capture"].text()
    for name in ("apply", "plan"):
        assert roles[name].end() == EX_TEMPFAIL, name
        assert f"headrace {name}: Kafka at {CLOSED}" in roles[name].text()
    assert roles["capture"].end() == EX_OK
    for role in roles.values():
        assert "Traceback" not in role.text()


def test_kafka_is_away_for_commands(setup: Setup, start: Starter) -> None:
    setup.servers = CLOSED
    roles = {name: start(setup.start(name)) for name in ("status", "check")}
    assert roles["status"].end() == EX_TEMPFAIL
    assert roles["check"].end() == EX_FAILURE
    why = f"Kafka at {CLOSED} has not answered in 5 s: Connect to ipv4#{CLOSED} failed: Connection refused\n"
    assert roles["status"].text() == f"headrace: {why}"
    assert roles["check"].text().startswith(f"blocker Kafka: {why}    remedy: start the broker, or correct")


def test_the_source_is_away(setup: Setup, start: Starter) -> None:
    setup.source = AWAY
    capture = start(setup.start("capture"))
    capture.await_text("trying again in")
    assert "connecting to 127.0.0.1:1/shop" in capture.text()
    assert capture.stop() == EX_OK
    assert "hunter2" not in capture.text()
    assert "Traceback" not in capture.text()
    checked = setup.run("check")
    assert checked.code == EX_FAILURE
    assert f"blocker stream {setup.stream}, source: connecting to 127.0.0.1:1/shop" in checked.out
    assert "hunter2" not in checked.out


def test_the_target_is_away(setup: Setup, start: Starter) -> None:
    setup.target = AWAY
    plan = start(setup.start("plan"))
    for command in ("wait", "status"):
        outcome = setup.run(command)
        assert outcome.code == EX_TEMPFAIL, command
        assert outcome.err.startswith("headrace: connecting to 127.0.0.1:1/shop: ")
        assert outcome.err.count("\n") == 1
    assert plan.end() == EX_TEMPFAIL
    assert "headrace plan: connecting to 127.0.0.1:1/shop" in plan.text()
    assert "hunter2" not in plan.text()

"""The webhook against a real HTTP server: order, retries with an end, and a secret that stays one."""

from __future__ import annotations

import logging

import pytest

from tests.support.receiver import receiver
from tests.support.waiting import until
from topologies.webhook import Webhook

RETRY_S = (0.01, 0.01, 0.01)


def alert(text: str) -> dict[str, object]:
    return {"text": text, "level": "alarm"}


def test_alerts_arrive_in_order_after_retries() -> None:
    with receiver(500, 503, 204) as server:
        hook = Webhook(f"http://user:p%40ss@127.0.0.1:{server.port}/hook?token=s3cret", RETRY_S)
        hook.send(alert("one"))
        hook.send(alert("two"))
        until(lambda: len(server.posts) == 4)
        hook.close()
    assert [body["text"] for _, body in server.posts] == ["one", "one", "one", "two"]
    assert {path for path, _ in server.posts} == {"/hook?token=s3cret"}
    assert set(server.authorization) == {"Basic dXNlcjpwQHNz"}


def test_an_alert_that_nobody_takes_is_dropped_after_the_last_try(caplog: pytest.LogCaptureFixture) -> None:
    with receiver(*[500] * 4) as server, caplog.at_level(logging.DEBUG):
        hook = Webhook(f"http://user:p%40ss@127.0.0.1:{server.port}/s3cret", RETRY_S)
        hook.send(alert("lost"))
        hook.send(alert("kept"))
        until(lambda: len(server.posts) == 5)
        hook.close()
    assert [body["text"] for _, body in server.posts] == ["lost"] * 4 + ["kept"]
    assert f"webhook http://127.0.0.1:{server.port}: not delivered (HTTP status 500): lost" in caplog.text
    assert "s3cret" not in caplog.text
    assert "p@ss" not in caplog.text
    assert "user" not in caplog.text


def test_a_server_that_is_away_is_no_reason_to_wait(caplog: pytest.LogCaptureFixture) -> None:
    with receiver() as server:
        port = server.port
    hook = Webhook(f"http://127.0.0.1:{port}/s3cret", (0.01,))
    hook.send(alert("lost"))
    until(lambda: "not delivered (ConnectionRefusedError): lost" in caplog.text)
    hook.close()
    assert "s3cret" not in caplog.text

"""Two streams in one configuration: one that needs an operator does not stop the other."""

from __future__ import annotations

import json

import pytest

from headrace.console import EX_FAILURE, EX_OK
from tests.cli.conftest import Setup, Starter, execute

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]


def test_a_stream_that_stops_leaves_the_other_running(setup: Setup, start: Starter) -> None:
    other = f"{setup.stream}_other"
    for dsn in (setup.source, setup.target):
        execute(dsn, "CREATE TABLE others (id int PRIMARY KEY)")
    execute(setup.target, "ALTER TABLE others ADD CHECK (id <> 13)")
    setup.more["source"] = 'tables = ["public.items"]'
    setup.more["target"] = (
        f'[[streams]]\nname = "{other}"\n[streams.source]\ndsn = "{setup.source}"\ntables = ["public.others"]\n'
        f'[streams.target]\ndsn = "{setup.target}"\n'
    )
    run = start(setup.start("run"))
    assert setup.run("wait", "--timeout", "50").code == EX_OK
    execute(setup.source, "INSERT INTO others VALUES (13)")
    run.await_text(f"stream {other} stops here, the others go on")
    execute(setup.source, "INSERT INTO items VALUES (4, 'four')")
    assert setup.run("wait", "--timeout", "40", "--stream", setup.stream).code == EX_OK
    status = setup.run("status", "--json")
    assert status.code == EX_FAILURE
    assert {found["stream"]: found["state"] for found in json.loads(status.out)}[other] == "stopped"
    assert " cannot go on" not in run.text()
    assert run.stop() == EX_FAILURE

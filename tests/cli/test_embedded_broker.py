"""Commands beside an embedded broker that does not run yet, or no longer."""

from __future__ import annotations

import json

import pytest

from headrace.console import EX_FAILURE, EX_OK
from tests.cli.conftest import Setup, Starter, execute

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]


def test_from_before_the_broker_to_after_it(setup: Setup, start: Starter) -> None:
    setup.servers = "embedded"
    missing = f"no embedded broker runs in {setup.path.parent / '.headrace'}: start it with `headrace run -c"
    late = setup.run("wait", "--timeout", "0.1")
    assert late.code == EX_FAILURE
    assert late.err.startswith(f"headrace: waiting for the broker: {missing}")
    assert f"headrace: stream {setup.stream}: not caught up after 0.1 s: " in late.err
    assert late.err.count(missing) == 2
    wait = start(setup.start("wait", "--timeout", "50"))
    wait.await_text(missing)
    run = start(setup.start("run"))
    assert wait.end(60) == EX_OK, run.text()

    execute(setup.target, "ALTER TABLE items ADD CHECK (id <> 13) NOT VALID")
    execute(setup.source, "INSERT INTO items VALUES (13, 'unlucky')")
    assert run.end(60) == EX_FAILURE, run.text()
    status = setup.run("status", "--json")
    assert status.code == EX_FAILURE
    [found] = json.loads(status.out)
    assert (found["state"], found["rows"]) == ("stopped", 3)
    assert "[SQLSTATE 23514]" in found["last_error"]
    assert status.err.startswith(f"headrace: {missing}")
    assert "[SQLSTATE 23514]" in setup.run("wait").err, "a stream that is stopped is not waited for"
    execute(setup.target, "UPDATE headrace.stream SET stopped = ''")
    assert json.loads(setup.run("status", "--json").out)[0]["state"] == "no broker"

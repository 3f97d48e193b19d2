"""Two streams of one planner: one is full because its target stands still, and the other goes on."""

from __future__ import annotations

import json
import time

import psycopg
import pytest

from headrace.console import EX_OK
from tests.cli.conftest import Setup, Starter, execute, setup, start

__all__ = ["setup", "start"]

pytestmark = [pytest.mark.faults, pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(250)]

BACKLOG = 80_000  # transactions, more than a planner takes before it waits
FULL_S = 90.0


def test_a_full_stream_holds_up_no_other(setup: Setup, start: Starter) -> None:
    other = f"{setup.stream}_other"
    for dsn in (setup.source, setup.target):
        execute(dsn, "CREATE TABLE others (id int PRIMARY KEY)")
    setup.more["source"] = 'tables = ["public.items"]'
    setup.more["target"] = (
        f'[[streams]]\nname = "{other}"\n[streams.source]\ndsn = "{setup.source}"\ntables = ["public.others"]\n'
        f'[streams.target]\ndsn = "{setup.target}"\n'
    )
    run = start(setup.start("run"))
    run.await_text("monitor started")
    assert setup.run("wait", "--timeout", "60").code == EX_OK
    with psycopg.connect(setup.target) as lock:
        lock.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
        each = f"FOR n IN 11..{BACKLOG + 10} LOOP INSERT INTO items VALUES (n, ''); COMMIT; END LOOP"
        execute(setup.source, f"DO $$ BEGIN {each}; END $$")
        end_s = time.monotonic() + FULL_S
        while not is_full(setup):
            assert time.monotonic() < end_s, setup.run("status").out
            time.sleep(0.5)
        execute(setup.source, "INSERT INTO others VALUES (1)")
        assert setup.run("wait", "--stream", other, "--timeout", "40").code == EX_OK
        assert is_full(setup)
    assert setup.run("wait", "--timeout", "60").code == EX_OK
    assert setup.run("verify").code == EX_OK
    assert run.stop() == EX_OK


def is_full(setup: Setup) -> bool:
    """Whether the planner takes nothing more of the first stream."""
    [found] = json.loads(setup.run("status", "--json", "--stream", setup.stream).out)
    buffers = [buffer for role in found["roles"] if role["role"] == "plan" for buffer in role["buffers"]]
    return any(buffer["used"] >= buffer["limit"] for buffer in buffers)

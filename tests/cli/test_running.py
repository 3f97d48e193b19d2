"""`headrace run` and the commands beside it."""

from __future__ import annotations

import json
import os
import re
import signal

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.console import EX_FAILURE, EX_OK
from headrace.embedded import ProcessId
from headrace.streams import open_ledger
from tests.cli.conftest import Role, Setup, Starter, create_topic, execute
from tests.support.waiting import until
from topologies.settings_file import load_settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]


def children(run: Role) -> dict[str, int]:
    """Role -> pid, as last started."""
    return {name: int(pid) for name, pid in re.findall(r"INFO (\S+) started, pid (\d+)", run.text())}


def test_from_the_first_row_to_the_last_trace(setup: Setup, start: Starter) -> None:
    run = start(setup.start("run", "--apply", "2"))
    run.await_text("monitor started")
    assert set(children(run)) == {"capture", "plan", "apply-1", "apply-2", "monitor"}
    assert setup.run("wait").code == EX_OK
    execute(setup.source, "UPDATE items SET name = 'new' WHERE id = 2", "INSERT INTO items VALUES (4, 'four')")
    await_row(setup.target, 4)  # a marker that shared a record with it would count as a transaction

    verified = setup.run("verify", "--json")
    assert verified.code == EX_OK
    [stream] = json.loads(verified.out)
    assert stream["tables"] == [{"table": "public.items", "source_rows": 4, "target_rows": 4, "differences": 0}]

    status = setup.run("status", "--json")
    assert status.code == EX_OK
    [found] = json.loads(status.out)
    assert (found["state"], found["dead_letters"], found["last_error"]) == ("running", 0, "")
    # The rows of the snapshot count as rows; its parts are no transactions of the source.
    assert (found["transactions"], found["transactions_last_minute"], found["rows"]) == (2, 2, 5)
    assert 0 < found["lag_p50_s"] <= found["lag_p95_s"] <= found["lag_p99_s"] < 30
    assert 0 < found["generation"] < found["watermark"] <= found["source_position"]
    assert found["lanes"]
    for lane in found["lanes"]:
        assert (lane["seq"] > 0, lane["queued"], lane["epoch"] > 0) == (True, 0, True)
    assert "lag p50 / p95 / p99" in setup.run("status").out
    watch = start(setup.start("status", "--watch"))
    watch.await_text("by stage, p50 / p99")
    os.kill(watch.pid, signal.SIGINT)
    assert watch.end() == EX_OK

    execute(setup.target, "UPDATE items SET name = 'somebody else' WHERE id = 3")
    differs = setup.run("verify")
    assert differs.code == EX_FAILURE
    assert re.search(r"public\.items +│ +4 │ +4 │ +2 │", differs.out)
    assert f"headrace resync -c {setup.path} --stream {setup.stream} --table public.items --yes\n" in differs.out

    assert "stop `headrace run`" in setup.run("drop", "--yes").err
    assert run.stop() == EX_OK
    for name in ("capture", "plan", "apply-1", "apply-2", "monitor"):
        assert re.search(rf"{name} *\| .* stopped", run.text()), name
    dropped(setup)


def await_row(dsn: str, key: int) -> None:
    """Wait until `items` has a row."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        until(lambda: conn.execute("SELECT FROM items WHERE id = %s", [key]).rowcount > 0)


def dropped(setup: Setup) -> None:
    """`drop` first says what, then does it, and may be repeated."""
    said = setup.run("drop")
    assert said.code == EX_FAILURE
    assert f"would remove ledger of stream {setup.stream}" in said.out
    done = setup.run("drop", "--yes")
    assert done.code == EX_OK
    slot, ledger = f"replication slot headrace_{setup.stream}", f"ledger of stream {setup.stream}"
    for what in (slot, ledger, f"topic {setup.prefix}.units", f"consumer group {setup.prefix}-plan"):
        assert f"removed {what}" in done.out
    assert setup.run("drop", "--yes").out == ""
    assert not [name for name in AdminClient({"bootstrap.servers": setup.servers}).list_topics().topics
                if name.startswith(setup.prefix)]  # fmt: skip


def test_no_child_outlives_a_supervisor_that_is_killed(setup: Setup, start: Starter) -> None:
    run = start(setup.start("run"))
    run.await_text("monitor started")
    processes = [ProcessId.of(pid) for pid in children(run).values()]
    run.kill()
    until(lambda: not any(process is not None and process.alive() for process in processes))


def test_a_killed_role_is_started_again(setup: Setup, start: Starter) -> None:
    run = start(setup.start("run"))
    run.await_text("monitor started")
    before = children(run)["apply"]
    os.kill(before, signal.SIGKILL)
    run.await_text("apply ended (signal SIGKILL); starting it again in 0.2 s")
    until(lambda: children(run)["apply"] != before)
    assert run.stop() == EX_OK


def test_a_role_that_needs_an_operator_stops_everything(setup: Setup, start: Starter) -> None:
    name = f"{setup.prefix}.units"
    create_topic(setup.servers, name, 7)
    run = start(setup.start("run"))
    assert run.end() == EX_FAILURE
    assert re.search(rf"ERROR \S+ cannot go on: topic {name} has 7 partitions, 16 are needed", run.text())


def test_dropping_one_stream_of_two(setup: Setup, start: Starter) -> None:
    other = f"{setup.stream}_other"
    setup.more["target"] = (
        f'[[streams]]\nname = "{other}"\n[streams.source]\ndsn = "{setup.source}"\n'
        f'[streams.target]\ndsn = "{setup.target}"\n'
    )
    capture = start(setup.start("capture"))
    for stream in (setup.stream, other):
        capture.await_text(f"stream {stream}: capture starts anew")
    until(lambda: min(held(setup).values()) > 0, capture.text)
    assert capture.stop() == EX_OK
    before = held(setup)
    done = setup.run("drop", "--yes", "--stream", setup.stream)
    assert done.code == EX_OK, done.err
    assert f"removed records of stream {setup.stream} in topic {setup.prefix}.changes" in done.out
    assert held(setup) == {0: 0, 1: before[1]}


def held(setup: Setup) -> dict[int, int]:
    """Records in each partition of `changes`."""
    consumer = Consumer({"bootstrap.servers": setup.servers, "group.id": "counting"})
    try:
        counts = {}
        for number in range(2):
            low, high = consumer.get_watermark_offsets(TopicPartition(f"{setup.prefix}.changes", number), timeout=10)
            counts[number] = high - low
        return counts
    finally:
        consumer.close()


def test_waiting_for_a_stream_that_nobody_runs(setup: Setup) -> None:
    outcome = setup.run("wait", "--timeout", "0.3")
    assert outcome.code == EX_FAILURE
    assert f"stream {setup.stream}: not caught up after 0.3 s: the source is at position" in outcome.err
    assert "is `headrace run` running?" in outcome.err
    [found] = json.loads(setup.run("status", "--json").out)
    assert (found["state"], found["watermark"]) == ("not started", 0)


def test_a_stopped_stream_is_told_at_once(setup: Setup) -> None:
    [stream] = load_settings(setup.write()).streams
    with open_ledger(stream) as ledger:
        ledger.ensure()
    execute(setup.target, "UPDATE headrace.stream SET stopped = 'the target refuses position 7'")
    for command in ("wait", "verify"):
        outcome = setup.run(command)
        assert outcome.code == EX_FAILURE
        assert outcome.err == f"headrace: stream {setup.stream} is stopped: the target refuses position 7\n"
    status = setup.run("status", "--json")
    assert status.code == EX_FAILURE
    [found] = json.loads(status.out)
    assert (found["state"], found["last_error"]) == ("stopped", "the target refuses position 7")

"""The commands that end by themselves: what they do with the command line's arguments, and their exit codes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.live import Live
from rich.markup import escape

from headrace.configuration import located, missing_broker, reachable_settings, read_settings, with_servers
from headrace.console import EX_FAILURE, EX_OK
from headrace.embedded import embedded_kafka
from headrace.options import console as _console
from headrace.preflight import check_all
from headrace.removal import drop_streams, planned_removal
from headrace.resync import planned_resync, resync_streams
from headrace.status import StreamStatus, stream_status
from headrace.status_text import seconds_text, status_table
from headrace.streams import chosen_streams, source_admin, target_admin
from headrace.table_resync import planned_table_resync, resync_tables
from headrace.verify import advice, as_json, as_table, verify_stream
from headrace.wait import NotCaughtUpError, wait_for_target
from pipeline.errors import ConfigError
from schemas.packed import COMPILED
from topologies.settings import EMBEDDED, Settings

WATCH_S = 2.0


def wait(config: Path, stream: str | None, timeout_s: float) -> int:
    """`headrace wait`. Raises NotCaughtUpError, StreamStoppedError, ConfigError, RetriableError."""
    settings = read_settings(config)
    for each in chosen_streams(settings, stream):
        with _broker_awaited(settings, config):
            done = wait_for_target(each, timeout_s)
        _console().print(
            f"stream {done.stream}: everything up to position {done.position} is applied "
            f"(watermark {done.watermark}, after {seconds_text(done.seconds)})"
        )
    return EX_OK


@contextmanager
def _broker_awaited(settings: Settings, config: Path) -> Iterator[None]:
    """Wait in the block, which needs no broker itself, also for an embedded one that does not run yet; say so."""
    if missing := missing_broker(located(settings), config):
        sys.stderr.write(f"headrace: waiting for the broker: {missing}\n")
        sys.stderr.flush()
    try:
        yield
    except NotCaughtUpError as error:
        missing = missing_broker(located(settings), config)
        raise NotCaughtUpError(f"{error}; {missing}" if missing else str(error)) from None


def verify(config: Path, stream: str | None, timeout_s: float, *, as_json_text: bool) -> int:
    """`headrace verify`; 1 when anything differs. Raises as `wait`."""
    settings = read_settings(config)
    streams = chosen_streams(settings, stream)
    with _broker_awaited(settings, config):
        checks = [verify_stream(each, timeout_s) for each in streams]
    console = _console()
    if as_json_text:
        console.print_json(json.dumps(as_json(checks)))
    else:
        console.print(as_table(checks))
        for each, check in zip(streams, checks, strict=True):
            for line in advice(each, check, config):
                console.print(escape(line), soft_wrap=True)
    return EX_FAILURE if any(check.differences for check in checks) else EX_OK


def watch(config: Path, stream: str | None) -> int:
    """`headrace status --watch`: again and again until interrupted. Raises as `status`."""
    settings, console = read_settings(config), _console()
    try:
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                table = status_table(_statuses(located(settings), stream))  # the broker may come and go
                if console.is_terminal:
                    live.update(table, refresh=True)
                else:
                    console.print(table)
                time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return EX_OK


def status(config: Path, stream: str | None, *, as_json_text: bool) -> int:
    """`headrace status`; 1 when a stream is stopped or there is no broker.

    Raises ConfigError, RetriableError, KafkaException.
    """
    settings = located(read_settings(config))
    if missing := missing_broker(settings, config):
        sys.stderr.write(f"headrace: {missing}\n")
    statuses = _statuses(settings, stream)
    if as_json_text:
        _console().print_json(json.dumps([asdict(each) for each in statuses]))
    else:
        _console().print(status_table(statuses))
    return EX_FAILURE if missing or any(each.state == "stopped" for each in statuses) else EX_OK


def _statuses(settings: Settings, stream: str | None) -> list[StreamStatus]:
    return [stream_status(settings, each) for each in chosen_streams(settings, stream)]


def explain_window(config: Path, stream: str | None, position: str | None, form: str) -> int:
    """`headrace explain`. Raises ConfigError, RetriableError, SchemaError, KafkaException."""
    from headrace.explain import explain  # networkx is slow to import, and the other commands do without
    from headrace.explain_text import explanation

    settings = reachable_settings(config)
    for each in chosen_streams(settings, stream):
        sys.stdout.write(explanation(explain(settings, each, position), form))
    return EX_OK


def check(config: Path) -> int:
    """`headrace check`; 1 when something would keep a stream from running. Raises ConfigError."""
    console, findings = _console(), check_all(config)
    for finding in findings:
        kind = "[red]blocker[/red]" if finding.blocker else "[yellow]note[/yellow]"
        console.print(f"{kind} {escape(finding.subject)}: {escape(finding.text)}", soft_wrap=True)
        console.print(f"    remedy: {escape(finding.remedy)}", soft_wrap=True)
    blockers = sum(finding.blocker for finding in findings)
    loops = "compiled" if COMPILED else "pure Python, no C compiler was there at installation"
    console.print(f"{blockers} blockers, {len(findings) - blockers} notes; hot loops: {loops}", soft_wrap=True)
    return EX_FAILURE if blockers else EX_OK


def sync_sequences(config: Path, stream: str | None) -> int:
    """`headrace sync-sequences`; 1 when the target lacks one. Raises ConfigError, RetriableError."""
    lines: list[str] = []
    for each in chosen_streams(read_settings(config), stream):
        lines += target_admin(each).set_sequences(source_admin(each).sequences())
    for line in lines:
        _console().print(line, soft_wrap=True)
    return EX_FAILURE if any("MISSING" in line for line in lines) else EX_OK


def drop(config: Path, stream: str | None, *, sure: bool) -> int:
    """`headrace drop`; without `sure` only says what it would remove, and returns 1."""
    settings = read_settings(config)
    if not sure:
        for line in planned_removal(settings, chosen_streams(settings, stream)):
            _console().print(f"would remove {line}", soft_wrap=True)
        _console().print("nothing was removed: say --yes to do it. Replicated tables and their rows stay in any case.")
        return EX_FAILURE
    with brokered(settings) as reachable:
        return _drop(reachable, stream)


@contextmanager
def brokered(settings: Settings) -> Iterator[Settings]:
    """Settings whose broker can be reached: an embedded one that does not run is started for the time being."""
    if settings.kafka.bootstrap_servers != EMBEDDED:
        yield settings
        return
    with embedded_kafka(settings.kafka.data_dir) as broker:
        yield with_servers(settings, broker.bootstrap_servers)


def resync(config: Path, stream: str | None, tables: Sequence[str], *, sure: bool) -> int:
    """`headrace resync`; without `sure` only says what it would do, and returns 1. Without `tables` it means all."""
    settings = read_settings(config)
    console, streams = _console(), chosen_streams(settings, stream)
    if tables and len(streams) > 1:
        raise ConfigError("say which stream the tables are of: --stream")
    if not sure:
        for each in streams:
            for line in planned_table_resync(each, tables) if tables else planned_resync(each):
                console.print(f"would {line}", soft_wrap=True)
        console.print("nothing was done: say --yes to do it")
        return EX_FAILURE
    if tables:
        for line in resync_tables(streams[0], tables):
            console.print(line, soft_wrap=True)
        return EX_OK
    with brokered(settings) as reachable:
        for line in resync_streams(reachable, streams):
            console.print(line, soft_wrap=True)
    return EX_OK


def _drop(settings: Settings, stream: str | None) -> int:
    for line in drop_streams(settings, chosen_streams(settings, stream)):
        _console().print(f"removed {line}", soft_wrap=True)
    return EX_OK

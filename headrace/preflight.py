"""`headrace check`: everything that would keep a stream from running, each with its remedy."""

from __future__ import annotations

from pathlib import Path

from connectors.admin import Finding
from connectors.errors import RefusedError
from headrace.configuration import read_settings, running_broker, with_servers
from headrace.streams import source_admin, target_admin
from pipeline.definitions import TableDefinition
from pipeline.errors import HeadraceError
from topologies.apart import require_apart
from topologies.kafka import existing_topics, make_admin
from topologies.settings import EMBEDDED, Settings
from topologies.stream_settings import StreamConfig
from topologies.topics import ensure_topics


def check_all(config: Path) -> list[Finding]:
    """Check configuration, broker, topics (missing ones are created), sources and targets.

    Raises ConfigError when the configuration itself can't be read; anything else becomes a finding.
    """
    settings = read_settings(config)
    findings = _check_kafka(settings)
    for stream in settings.streams:
        findings += _check_stream(stream)
    return findings


def _check_kafka(settings: Settings) -> list[Finding]:
    if settings.kafka.bootstrap_servers == EMBEDDED:
        servers = running_broker(settings)
        if servers is None:
            text = f"the embedded broker of {settings.kafka.data_dir} is not running"
            return [Finding(False, "Kafka", text, "nothing to do: `headrace run` starts it")]
        settings = with_servers(settings, servers)
    try:
        existing_topics(settings)
    except HeadraceError as error:
        remedy = "start the broker, or correct kafka.bootstrap_servers (for TLS and SASL also kafka.options)"
        return [Finding(True, "Kafka", str(error), remedy)]
    try:
        ensure_topics(make_admin(settings), settings)
    except HeadraceError as error:
        return [Finding(True, "Kafka", str(error), "correct the topic, then check again")]
    return []


def _check_stream(stream: StreamConfig) -> list[Finding]:
    findings: list[Finding] = []
    tables: list[TableDefinition] = []
    fresh = False
    try:
        admin = source_admin(stream)
        findings += admin.check()
        tables = admin.definitions()
        fresh = stream.source.snapshot == "initial" and not admin.slot_exists()
    except (HeadraceError, RefusedError) as error:
        if all(finding.text != str(error) for finding in findings):
            findings.append(_failed(stream, "source", error))
    try:
        target = target_admin(stream)
        findings += target.check(tables, fresh=fresh)
        if tables:
            require_apart(stream.name, stream.source_settings(), source_admin(stream), target)
    except (HeadraceError, RefusedError) as error:
        findings.append(_failed(stream, "target", error))
    return findings


def _failed(stream: StreamConfig, side: str, error: Exception) -> Finding:
    remedy = f"correct streams.{side}.dsn, start the server, or grant what is missing"
    return Finding(True, f"stream {stream.name}, {side}", str(error), remedy)

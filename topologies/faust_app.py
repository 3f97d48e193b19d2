"""The Faust application of a role, with the settings that its consumer needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import faust
from faust.types import TopicT

from pipeline.errors import ConfigError
from topologies.faust_auth import faust_credentials
from topologies.kafka import client_id
from topologies.settings import EMBEDDED, Settings
from topologies.settings_file import ENV_CONFIG, load_settings

BUFFERED_RECORDS_MAX = 32  # of up to 1 MiB each


def make_app(settings: Settings, role: str) -> faust.App:
    """An application in the role's consumer group. Raises ConfigError while no broker is named."""
    servers = settings.kafka.bootstrap_servers
    if servers == EMBEDDED:
        raise ConfigError(
            'kafka.bootstrap_servers is "embedded": start the broker with `headrace run` or `headrace kafka`, and give '
            "its address in HEADRACE_KAFKA__BOOTSTRAP_SERVERS"
        )
    return faust.App(
        settings.group(role),
        broker=";".join(f"kafka://{server}" for server in servers.split(",")),
        broker_credentials=faust_credentials(settings.kafka.options), broker_client_id=client_id(),
        datadir=Path(tempfile.gettempdir()) / "headrace-faust",  # stays empty: there are no tables
        autodiscover=False, web_enabled=False, topic_allow_declare=False, topic_disable_leader=True,
        broker_session_timeout=6.0, broker_heartbeat_interval=1.0, broker_commit_interval=1.0,
        broker_max_poll_records=BUFFERED_RECORDS_MAX, stream_buffer_maxsize=BUFFERED_RECORDS_MAX,
        consumer_max_fetch_size=16 * 1024 * 1024, consumer_auto_offset_reset="earliest",
        stream_wait_empty=False, worker_redirect_stdouts=False,
    )  # fmt: skip


def raw_topic(app: faust.App, name: str) -> TopicT:
    """A topic whose keys and values stay bytes."""
    return app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


class HasApp(Protocol):
    """A role around its Faust application."""

    @property
    def app(self) -> faust.App:
        """The application."""


def app_on_demand(module: str, create: Callable[[Settings], HasApp]) -> Callable[[str], faust.App]:
    """A `__getattr__` for `module` (PEP 562) that makes its `app` on first use, so that importing has no effect.

    For `faust -A MODULE worker`, with the configuration that the environment names. Raises ConfigError without one.
    """

    def attribute(name: str) -> faust.App:
        if name != "app":
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        path = os.environ.get(ENV_CONFIG)
        if path is None:
            raise ConfigError(f"set {ENV_CONFIG} to the configuration file")
        return create(load_settings(Path(path))).app

    return attribute

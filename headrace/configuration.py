"""From the configuration file to settings whose broker can be reached."""

from __future__ import annotations

from pathlib import Path

from headrace.embedded.ownership import Running
from headrace.embedded.ports import LOOPBACK
from pipeline.errors import ConfigError
from topologies.settings import EMBEDDED, Settings
from topologies.settings_file import load_settings


def read_settings(path: Path) -> Settings:
    """Read the file; a relative `kafka.data_dir` is taken from the file's directory. Raises ConfigError."""
    settings = load_settings(path)
    kafka = settings.kafka.model_copy(update={"data_dir": path.absolute().parent / settings.kafka.data_dir})
    return settings.model_copy(update={"kafka": kafka})


def with_servers(settings: Settings, bootstrap_servers: str) -> Settings:
    """`settings` with another broker."""
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": bootstrap_servers})
    return settings.model_copy(update={"kafka": kafka})


def running_broker(settings: Settings) -> str | None:
    """Address of the embedded broker that runs in `kafka.data_dir`; None when there is none."""
    running = Running.read(settings.kafka.data_dir / "kafka" / "server.json")
    return f"{LOOPBACK}:{running.port}" if running is not None and running.server.alive() else None


def located(settings: Settings) -> Settings:
    """`settings` with the address of the embedded broker that runs; as they are when none does, or none is wanted."""
    servers = running_broker(settings) if settings.kafka.bootstrap_servers == EMBEDDED else None
    return settings if servers is None else with_servers(settings, servers)


def missing_broker(settings: Settings, path: Path) -> str:
    """What to tell of the embedded broker that `located` has not found; empty otherwise. `path`: of their file."""
    if settings.kafka.bootstrap_servers != EMBEDDED:
        return ""
    return (
        f"no embedded broker runs in {settings.kafka.data_dir}: start it with `headrace run -c {path}` (or "
        f"`headrace kafka -c {path}`), or name a broker in kafka.bootstrap_servers"
    )


def reachable_settings(path: Path) -> Settings:
    """Read the file; with an embedded broker, find the one that runs. Raises ConfigError."""
    settings = located(read_settings(path))
    if missing := missing_broker(settings, path):
        raise ConfigError(missing)
    return settings

"""The configuration as a model.

It lives beside the stages because `faust -A topologies.planner worker` starts one without the command line.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from pipeline.errors import ConfigError
from topologies.node_settings import CacheSettings, DirectorySettings
from topologies.settings_parts import MonitorSettings, Section
from topologies.stream_settings import StreamConfig

EMBEDDED = "embedded"
Scalar = str | int | float | bool


class KafkaSettings(Section):
    """`[kafka]`: the broker between the stages."""

    bootstrap_servers: str = Field(
        default="embedded",
        min_length=1,
        description='`host:port,...`, or `"embedded"`: a broker started by `headrace run` (extra `embedded`)',
    )
    data_dir: Path = Field(
        default=Path(".headrace"), description="directory of the embedded broker's log; unused with an outside broker"
    )
    topic_prefix: str = Field(
        default="headrace",
        pattern=r"^[a-zA-Z0-9._-]{1,100}$",
        description="first part of every topic's and consumer group's name",
    )
    replication_factor: int = Field(default=1, ge=1, le=32, description="replicas of the topics Headrace creates")
    retention_hours: int = Field(
        default=168,
        ge=1,
        description="how long `changes` and `units` are kept; longer than any outage of the target",
    )
    options: dict[str, Scalar] = Field(
        default_factory=dict, description="any librdkafka option, for every client (TLS, SASL, timeouts)"
    )


class Settings(Section):
    """The whole configuration."""

    kafka: KafkaSettings = KafkaSettings()
    monitor: MonitorSettings = MonitorSettings()
    cache: CacheSettings = CacheSettings()
    directory: DirectorySettings = DirectorySettings()
    streams: tuple[StreamConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Settings:
        for what, values in (("name", [s.name for s in self.streams]), ("number", list(self.numbers().values()))):
            if len(set(values)) != len(values):
                raise ValueError(f"streams: two streams share a {what}: {values}")
        return self

    def numbers(self) -> dict[str, int]:
        """Stream name -> number."""
        return {s.name: i if s.number is None else s.number for i, s in enumerate(self.streams)}

    def cached_streams(self) -> list[StreamConfig]:
        """The streams that have cached tables."""
        return [stream for stream in self.streams if stream.cache]

    def stream(self, name: str) -> StreamConfig:
        """The stream of that name. Raises ConfigError."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise ConfigError(f"no stream is named {name!r}; there are: {', '.join(s.name for s in self.streams)}")

    def topic(self, kind: str) -> str:
        """Full name of a topic."""
        return f"{self.kafka.topic_prefix}.{kind}"

    def group(self, role: str) -> str:
        """Full name of a consumer group."""
        return f"{self.kafka.topic_prefix}-{role}"

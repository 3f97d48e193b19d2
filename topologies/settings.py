"""The configuration file as a model: TOML, with environment overrides.

It lives beside the stages because `faust -A topologies.planner worker` starts one without the command
line. Any value can be overridden by `HEADRACE_` and its path, e.g. `HEADRACE_KAFKA__BOOTSTRAP_SERVERS`;
a stream by its number, e.g. `HEADRACE_STREAMS__0__SOURCE__DSN`.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, model_validator

from connectors.settings import SourceSettings, TargetSettings
from pipeline.directory.verdicts import Policy
from pipeline.errors import ConfigError
from pipeline.priorities import CLASSES, Priorities, lanes_needed
from pipeline.schema_change import Policy as SchemaPolicy
from schemas.apply_unit import LANES_MAX
from topologies.mapping_settings import MappingConfig
from topologies.settings_parts import Dsn, LagConfig, MonitorSettings, PriorityConfig, Section

ENV_CONFIG = "HEADRACE_CONFIG"
ENV_PREFIX = "HEADRACE_"
EMBEDDED = "embedded"
_NAME = r"^[a-z][a-z0-9_]{0,39}$"
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
# Comma-separated in the environment.
_LISTS = ("tables", "exclude", "cache", "exclude_columns", "hash_columns", *CLASSES)
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


class SourceConfig(Section):
    """`[streams.source]`: where changes come from."""

    connector: str = Field("postgres", description="name of an installed connector")
    dsn: Dsn = Field(
        description="connection string; the role needs REPLICATION, SELECT, and ownership of the tables (publication)"
    )
    tables: tuple[str, ...] = Field(("public.*",), min_length=1, description="shell-style patterns on `schema.table`")
    exclude: tuple[str, ...] = Field((), description="patterns of tables to leave out")
    snapshot: Literal["initial", "never"] = Field(
        "initial", description="`initial` copies the tables first; `never` replicates changes only"
    )
    linger_ms: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="how long a change batch may wait for more transactions; default: 1 to 20, by their rate",
    )
    batch_transactions_max: int = Field(4000, ge=1, le=10_000, description="transactions in one change batch")
    batch_bytes_max: int = Field(1024 * 1024, ge=1024, le=8 * 1024 * 1024, description="row bytes in one change batch")
    ahead_mb_max: int = Field(
        default=65_536,
        ge=1,
        description="MiB in `changes` that the target has not applied, beyond which capture pauses; the source's log "
        "keeps the rest",
    )


class TargetConfig(Section):
    """`[streams.target]`: where changes go."""

    connector: str = Field("postgres", description="name of an installed connector")
    dsn: Dsn = Field(description="connection string; the role writes the tables and owns the schema `headrace`")
    lanes: int = Field(4, ge=1, le=LANES_MAX, description="parallel apply lanes")
    order: Literal["dependent", "commit"] = Field(
        "dependent",
        description="`dependent`: dependents after what they depend on; `commit`: source order, one lane",
    )
    synchronous_commit: Literal["off", "on"] = Field(
        "off", description="`on` flushes each target commit; `off` is safe too while `changes` is kept"
    )
    session_replication_role: Literal["replica", "origin"] = Field(
        "replica", description="`origin` keeps the target's foreign keys and triggers in force"
    )
    on_missing_row: Literal["error", "insert", "ignore"] = Field(
        "error",
        description="an UPDATE or DELETE that finds no row: `error` refuses the transaction (see `on_error`), `insert` "
        "writes the row, `ignore` passes it over; counted in `status`",
    )
    on_existing_row: Literal["error", "update", "ignore"] = Field(
        "error", description="an INSERT whose primary key is there already: refuse, overwrite the row, or leave it"
    )
    on_error: Literal["stop", "park"] = Field(
        "stop",
        description="what happens to a transaction that the target refuses: `stop` the stream, or `park` it as a dead "
        "letter together with later ones that depend on it",
    )
    create_tables: Literal["never", "missing"] = Field(
        "never",
        description="`missing`: tables that the target lacks are created when the capture starts, with columns, keys, "
        "foreign keys and simple types",
    )
    schema_changes: SchemaPolicy = Field(
        "stop",
        description="what to do when a source table changes its columns: `stop` with the SQL to run; `additive`: new "
        "tables, new columns and wider types follow by themselves; `evolve`: dropped and renamed columns and renamed "
        "tables too",
    )
    merge_transactions_max: int = Field(
        4000, ge=1, le=100_000, description="most source transactions merged into one target transaction"
    )
    commit_ms_max: int = Field(
        default=500, ge=1, le=60_000, description="target transactions that take longer are made smaller, if that helps"
    )
    priorities: PriorityConfig = PriorityConfig()

    @model_validator(mode="after")
    def _check_priorities(self) -> TargetConfig:
        needed = lanes_needed(self.priorities.patterns())
        if needed > 1 and self.order == "commit":
            raise ValueError('priorities need order = "dependent": in commit order no transaction overtakes another')
        if needed > self.lanes:
            raise ValueError(
                f"priorities need {needed} lanes, one for each class with tables and one for the rest; there are "
                f"{self.lanes}: raise `lanes`"
            )
        return self

    def table_priorities(self) -> Priorities:
        """The planner's and the lanes' view of `priorities`."""
        return Priorities(self.priorities.patterns(), self.lanes)


class DirectorySettings(Section):
    """`[directory]`: which node masters which rows. Nodes and blocks are those of `[cache]`."""

    enabled: bool = Field(default=False, description="start the role `affinity`, count accesses, prefer lanes by node")
    moves_per_s: float = Field(
        default=100.0, gt=0, le=10_000, description="blocks that may change their master a second, a partition"
    )
    residency_s: float = Field(default=5.0, ge=0, le=3600, description="how long a block stays after a move, at least")
    move_cost_ms: float = Field(
        default=2.0, gt=0, description="what a move costs, in time of remote accesses; higher: fewer moves"
    )

    def policy(self) -> Policy:
        """The decider's view."""
        return Policy(
            moves_per_s=self.moves_per_s, residency_us=round(self.residency_s * 1e6), move_us=self.move_cost_ms * 1000
        )


class StreamConfig(Section):
    """`[[streams]]`: one source database into one target."""

    name: str = Field(
        pattern=_NAME, description="lower-case letters, digits and `_`; names slot, publication and ledger rows"
    )
    number: int | None = Field(
        None, ge=0, le=999, description="partition number in the shared topics; default: place in this file"
    )
    cache: tuple[str, ...] = Field(
        (), description="patterns on `schema.table` of the tables whose rows are cached (see `[cache]`)"
    )
    source: SourceConfig
    target: TargetConfig
    lag: LagConfig = LagConfig()
    mapping: MappingConfig = Field(default_factory=lambda: MappingConfig.model_validate({}))

    def source_settings(self) -> SourceSettings:
        """The connector's view of the source."""
        source = self.source
        settings = SourceSettings(
            source.dsn.get_secret_value(), source.tables, source.exclude, source.snapshot,
            batch_transactions_max=source.batch_transactions_max, batch_bytes_max=source.batch_bytes_max,
            mapping=self.mapping.table_mapping(),
        )  # fmt: skip
        return settings if source.linger_ms is None else replace(settings, linger_ms=source.linger_ms)

    def target_settings(self) -> TargetSettings:
        """The connector's view of the target."""
        target = self.target
        return TargetSettings(
            target.dsn.get_secret_value(), target.synchronous_commit, target.session_replication_role,
            target.schema_changes, target.create_tables,
            target.on_missing_row, target.on_existing_row,
        )  # fmt: skip


_ADDRESS = r"^[^:\s]+:\d{1,5}$"


class CacheSettings(Section):
    """`[cache]`: the row cache of this node, its HTTP address and its peers."""

    node: str = Field(default="local", pattern=_NAME, description="this node's name, another one on every node")
    http: str = Field(default="127.0.0.1:8642", pattern=_ADDRESS, description="where rows are served over HTTP")
    listen: str = Field(default="127.0.0.1:8643", pattern=_ADDRESS, description="where other nodes connect to")
    peers: dict[str, str] = Field(
        default_factory=dict, description='the other nodes, `name = "host:port"` of their `listen`'
    )
    memory_bytes_max: int = Field(
        default=256 * 1024 * 1024,
        ge=1024 * 1024,
        description="row images in memory; what was not read goes first",
    )
    buckets: int = Field(default=1024, ge=1, le=65536, description="blocks a table; the same on every node")
    wait_s: float = Field(default=5.0, ge=0, le=60, description="longest wait of a read for the position it asks for")
    token: SecretStr | None = Field(
        default=None, description="shared secret of readers and nodes; needed for any address that is not loopback"
    )
    tls_cert: Path | None = Field(default=None, description="certificate of this node (PEM), for peers and HTTP")
    tls_key: Path | None = Field(default=None, description="its private key")
    tls_ca: Path | None = Field(default=None, description="authority that the certificates of peers must be signed by")

    @model_validator(mode="after")
    def _closed(self) -> CacheSettings:
        hosts = {address.rpartition(":")[0] for address in (self.http, self.listen)}
        if hosts - LOOPBACK_HOSTS and self.token is None:
            raise ValueError("cache: an address that is not loopback needs `token`")
        if len({self.tls_cert is None, self.tls_key is None, self.tls_ca is None}) > 1:
            raise ValueError("cache: tls_cert, tls_key and tls_ca go together")
        if self.node in self.peers:
            raise ValueError(f"cache: {self.node} is this node, not a peer")
        return self


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


def load_settings(path: Path) -> Settings:
    """Read the file and the environment. Raises ConfigError with a line a wrong key, values left out."""

    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; name one with -c FILE") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return parse_settings(data, str(path))


def parse_settings(data: dict[str, object], where: str) -> Settings:
    """Return the settings in `data`, environment applied. Raises ConfigError naming every wrong key."""
    merged = _with_environment(data, os.environ)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or 'file'}: {_plain(e['msg'])}" for e in error.errors()]
        raise ConfigError("\n".join([f"{where} is not a valid configuration:", *lines])) from None


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Extra inputs are not permitted", "unknown key")


def _with_environment(data: dict[str, object], environ: Mapping[str, str]) -> dict[str, object]:
    """Return a copy of `data` with `HEADRACE_A__B=...` set at a.b; a number in the path picks a list item."""
    merged = copy.deepcopy(data)
    for name, value in environ.items():
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        if name.startswith(ENV_PREFIX) and path[0] in Settings.model_fields and len(path) > 1:
            _set_path(merged, path, value, name)
    return merged


def _set_path(data: dict[str, object], path: list[str], value: str, name: str) -> None:
    node: object = data
    for step, key in enumerate(path):
        last = step == len(path) - 1
        if isinstance(node, list) and key.isdigit() and int(key) < len(node) and not last:
            node = node[int(key)]
        elif isinstance(node, dict) and last:
            node[key] = value.split(",") if key in _LISTS else value
        elif isinstance(node, dict):
            node = node.setdefault(key, {})
        else:
            raise ConfigError(f"environment variable {name}: the configuration has no {'.'.join(path[: step + 1])}")

"""`[[streams]]` of the configuration file: one source database into one target."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from connectors.settings import SourceSettings, TargetSettings
from pipeline.priorities import Priorities, lanes_needed
from pipeline.schema_change import Policy
from schemas.apply_unit import LANES_MAX
from topologies.mapping_settings import MappingConfig
from topologies.settings_parts import NAME, Dsn, LagConfig, PriorityConfig, Section


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
    schema_changes: Policy = Field(
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


class StreamConfig(Section):
    """`[[streams]]`: one source database into one target."""

    name: str = Field(
        pattern=NAME, description="lower-case letters, digits and `_`; names slot, publication and ledger rows"
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

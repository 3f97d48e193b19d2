"""The contestants of a drain: Headrace and native logical replication, reading one backlog of one source."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.loads import Load
from benchmarks.machine import cpu_seconds
from benchmarks.servers import Roles, Servers, wait_for
from connectors.postgres.replication import parse_lsn
from connectors.postgres.verify import verify_tables
from connectors.settings import SourceSettings, TargetSettings

CONFIG = """
[kafka]
bootstrap_servers = "{kafka}"
topic_prefix = "bench_{name}"
[[streams]]
name = "{name}"
[streams.source]
dsn = "{source}"
tables = ["{pattern}"]
snapshot = "never"
batch_transactions_max = {window}
[streams.target]
dsn = "{target}"
lanes = {lanes}
synchronous_commit = "{sync}"
session_replication_role = "{role}"
merge_transactions_max = {merge}
"""
MERGE, WINDOW = 4000, 4000  # the configuration's defaults
ASSIGNED_S = 6.0  # until the consumer groups of a new pipeline have settled


@dataclass(frozen=True, slots=True)
class Drained:
    """A drain: transactions a second, and microseconds of CPU a transaction by process."""

    tps: float
    cpu_us: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """As the metrics of a sample."""
        return {"tps": self.tps, **{f"cpu_us {who}": us for who, us in self.cpu_us.items()}}


@dataclass(slots=True)
class Backlog:
    """What a contestant has to apply: `transactions` commits that end at LSN `end`."""

    transactions: int = 0
    end: int = 0


class Contestant(ABC):
    """One target database and the slot that feeds it. `backlog` is filled in between `prepare` and `drain`."""

    title: ClassVar[str]

    def __init__(self, bench: Servers, load: Load, name: str, sync: str, backlog: Backlog) -> None:
        self.bench = bench
        self.load = load
        self.name = name
        self.sync = sync
        self.backlog = backlog
        bench.sql(bench.target, f"CREATE DATABASE {name} TEMPLATE bench_empty STRATEGY file_copy")

    def check(self) -> None:
        """Raise RuntimeError unless the target equals the source."""
        source = SourceSettings(self.bench.source.dsn(), (self.load.pattern,))
        for check in verify_tables(source, TargetSettings(self.bench.target.dsn(self.name))):
            if check.differences:
                raise RuntimeError(f"{self.name}: {check.table} differs in {check.differences} rows")

    def _time(self, done: Callable[[], int], roles: Roles | None) -> Drained:
        """Time from the first to the last applied transaction: start-up is left out."""
        total = self.backlog.transactions
        wait_for("first transaction", lambda: done() > 0, roles)
        pids = self.backends()
        first, start_s = done(), time.monotonic()
        before = {who: sum(map(cpu_seconds, found)) for who, found in pids.items()}
        wait_for(f"{total} transactions", lambda: done() >= total, roles)
        elapsed_s = time.monotonic() - start_s
        moved = total - first
        if not moved:
            raise RuntimeError(f"{self.name}: all {total} transactions were one commit; time more of them")
        cpu = {who: (sum(map(cpu_seconds, found)) - before[who]) * 1e6 / moved for who, found in pids.items()}
        return Drained(moved / elapsed_s, cpu)

    @abstractmethod
    def backends(self) -> dict[str, list[int]]:
        """Process ids by role."""

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time so far by role."""
        return {who: sum(map(cpu_seconds, found)) for who, found in self.backends().items()}

    def _pids(self, server_query: str, *, on_source: bool) -> list[int]:
        server = self.bench.source if on_source else self.bench.target
        return [
            int(str(row[0])) for row in self.bench.sql(server, server_query, "postgres" if on_source else self.name)
        ]


class Headrace(Contestant):
    """Every role as a process of its own, as an operator would run them."""

    title = "Headrace"

    def __init__(
        self, bench: Servers, load: Load, name: str, sync: str, backlog: Backlog, *, lanes: int = 1,
        merge: int = MERGE, window: int = WINDOW, target_dsn: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(bench, load, name, sync, backlog)
        config = bench.directory / f"{name}.toml"
        config.write_text(CONFIG.format(
            kafka=bench.kafka.bootstrap_servers, name=name, source=bench.source.dsn(),
            target=target_dsn or bench.target.dsn(name), lanes=lanes, sync=sync, pattern=load.pattern,
            role="origin" if load.enforced else "replica", merge=merge, window=window,
        ))  # fmt: skip
        self.roles = bench.roles(config)
        self.roles.start("capture")
        slot = f"SELECT FROM pg_replication_slots WHERE slot_name = 'headrace_{name}' AND active"
        wait_for("slot", lambda: bool(bench.sql(bench.source, slot)), self.roles, 60)
        time.sleep(2)
        self.roles.stop()

    def start_target_side(self, assigned_s: float = ASSIGNED_S) -> None:
        """Start planner and lanes and wait until they are ready."""
        self.roles.start("plan", "apply")
        exists = "SELECT to_regclass('headrace.lane') IS NOT NULL"
        wait_for("planner", lambda: bool(self.bench.sql(self.bench.target, exists, self.name)[0][0]), self.roles)
        time.sleep(assigned_s)

    def start(self) -> None:
        """Start all roles; the capture last, when the others are ready."""
        self.start_target_side()
        self.roles.start("capture")

    def wait(self) -> None:
        """Wait until the backlog is applied."""
        wait_for("the backlog", lambda: self.applied() >= self.backlog.transactions, self.roles)

    def stop(self) -> None:
        """Stop all roles."""
        self.roles.stop()

    def drain(self) -> Drained:
        """Drain the backlog, verify, stop."""
        self.start()
        result = self.time()
        self.stop()
        self.check()
        self.drop()
        return result

    def time(self) -> Drained:
        """Time the backlog from its first to its last applied transaction."""
        return self._time(self.applied, self.roles)

    def applied(self) -> int:
        """Source transactions that the target has committed."""
        total = "SELECT coalesce(sum(transactions), 0)::bigint FROM headrace.lane"
        return int(str(self.bench.sql(self.bench.target, total, self.name)[0][0]))

    def backends(self) -> dict[str, list[int]]:
        """Process ids by role."""
        walsender = f"SELECT pid FROM pg_stat_replication WHERE application_name = 'headrace {self.name} capture'"
        lanes = f"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'headrace {self.name} lane%'"
        return {
            "walsender": self._pids(walsender, on_source=True),
            **{role: [process.pid] for role, process in self.roles.processes.items()},
            "broker": [self.bench.kafka.pid or 0],
            "target": self._pids(lanes, on_source=False),
        }

    def drop(self) -> None:
        """Drop target, slot and publications."""
        self.bench.drop_slot(f"headrace_{self.name}")
        self.bench.sql(self.bench.source, f"DROP PUBLICATION IF EXISTS headrace_{self.name}")
        self.bench.sql(self.bench.source, f"DROP PUBLICATION IF EXISTS headrace_{self.name}_inserts")
        self.bench.sql(self.bench.target, f"DROP DATABASE {self.name} WITH (FORCE)")


class Native(Contestant):
    """A subscription with binary transfer and streaming = parallel."""

    title = "native"

    def __init__(self, bench: Servers, load: Load, name: str, sync: str, backlog: Backlog) -> None:
        super().__init__(bench, load, name, sync, backlog)
        publications = [name]
        bench.sql(bench.source, f"CREATE PUBLICATION {name} FOR TABLE {', '.join(load.keyed)}")
        if load.inserts:
            publications.append(f"{name}_inserts")
            tables = ", ".join(load.inserts)
            bench.sql(bench.source, f"CREATE PUBLICATION {name}_inserts FOR TABLE {tables} WITH (publish = 'insert')")
        bench.sql(bench.source, f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
        bench.sql(
            bench.target,
            f"CREATE SUBSCRIPTION {name} CONNECTION '{bench.source.dsn()}' PUBLICATION {', '.join(publications)} WITH "
            f"(create_slot = false, slot_name = '{name}', enabled = false, copy_data = false, binary = true,"
            f" synchronous_commit = '{sync}', streaming = parallel)",
            name,
        )
        self._publications = publications

    def start(self) -> None:
        """Enable the subscription."""
        self.bench.sql(self.bench.target, f"ALTER SUBSCRIPTION {self.name} ENABLE", self.name)

    def stop(self) -> None:
        """Disable the subscription."""
        self.bench.sql(self.bench.target, f"ALTER SUBSCRIPTION {self.name} DISABLE", self.name)

    def backends(self) -> dict[str, list[int]]:
        """Process ids by role."""
        walsender = f"SELECT pid FROM pg_stat_replication WHERE application_name = '{self.name}'"
        worker = f"SELECT pid FROM pg_stat_subscription WHERE subname = '{self.name}' AND pid IS NOT NULL"
        return {
            "walsender": self._pids(walsender, on_source=True), "target": self._pids(worker, on_source=False),
        }  # fmt: skip

    def drain(self) -> Drained:
        """Drain the backlog, verify, stop."""
        slot = f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{self.name}'"
        start = parse_lsn(str(self.bench.sql(self.bench.source, slot)[0][0]))
        query = (
            "SELECT coalesce(max(remote_lsn), '0/0') FROM pg_replication_origin_status o"
            f" JOIN pg_subscription s ON o.external_id = 'pg_' || s.oid WHERE s.subname = '{self.name}'"
        )

        def done() -> int:
            lsn = parse_lsn(str(self.bench.sql(self.bench.target, query, self.name)[0][0]))
            if lsn > self.backlog.end:
                return self.backlog.transactions
            return max(0, int((lsn - start) / (self.backlog.end - start) * (self.backlog.transactions - 1)))

        self.start()
        result = self._time(done, None)
        self.stop()
        self.check()
        self.drop()
        return result

    def drop(self) -> None:
        """Drop subscription, target, slot and publications."""
        self.bench.sql(self.bench.target, f"ALTER SUBSCRIPTION {self.name} SET (slot_name = NONE)", self.name)
        self.bench.sql(self.bench.target, f"DROP SUBSCRIPTION {self.name}", self.name)
        self.bench.drop_slot(self.name)
        for publication in self._publications:
            self.bench.sql(self.bench.source, f"DROP PUBLICATION {publication}")
        self.bench.sql(self.bench.target, f"DROP DATABASE {self.name} WITH (FORCE)")

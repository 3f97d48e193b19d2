"""Drain: a backlog of TPC-B transactions, source WAL to committed target, beside native logical replication.

Both read the same backlog from the same source into databases of one target server, one after the other,
with asynchronous and with durable target commits. Start-up is left out: the clock runs from the first to
the last applied transaction. Afterwards each target is compared with the source.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.machine import cpu_seconds
from benchmarks.servers import Roles, Servers, servers, wait_for
from connectors.base import SourceSettings, TargetSettings
from connectors.postgres.replication import parse_lsn
from connectors.postgres.verify import verify_tables

SCALE = 10
CLIENTS = 4
CONFIG = """
[kafka]
bootstrap_servers = "{kafka}"
topic_prefix = "bench_{name}"
[[streams]]
name = "{name}"
[streams.source]
dsn = "{source}"
tables = ["public.pgbench_*"]
snapshot = "never"
[streams.target]
dsn = "{target}"
lanes = {lanes}
synchronous_commit = "{sync}"
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One drain: transactions a second, and microseconds of CPU a transaction by process."""

    name: str
    tps: float
    cpu_us: dict[str, float] = field(default_factory=dict)


class DrainRun:
    """One backlog and the contestants that read it."""

    def __init__(self, bench: Servers, number: int, transactions: int, lanes: int) -> None:
        self.bench = bench
        self.transactions = transactions
        self._lanes = lanes
        self._number = number
        self._end = 0  # LSN after the backlog
        self._roles: dict[str, Roles] = {}

    def prepare(self) -> None:
        """Create targets and slots, then the backlog."""
        for sync in ("off", "on"):
            self._prepare_headrace(f"hr{self._number}_{sync}", sync)
            self._prepare_native(f"native{self._number}_{sync}", sync)
        self.bench.pgbench(
            self.bench.source, "-n", "-c", str(CLIENTS), "-j", "2", "-t", str(self.transactions // CLIENTS),
            "--random-seed", str(self._number),
        )  # fmt: skip
        flushed = self.bench.sql(self.bench.source, "SELECT pg_current_wal_flush_lsn()")
        self._end = parse_lsn(str(flushed[0][0]))
        self.bench.sql(self.bench.source, "CHECKPOINT")

    def _copy_tables(self, name: str) -> None:
        self.bench.sql(self.bench.target, f"CREATE DATABASE {name}")
        self.bench.pgbench(self.bench.target, "-i", "-q", "-s", str(SCALE), dbname=name)

    def _prepare_headrace(self, name: str, sync: str) -> None:
        self._copy_tables(name)
        config = self.bench.directory / f"{name}.toml"
        config.write_text(CONFIG.format(
            kafka=self.bench.kafka.bootstrap_servers, name=name, source=self.bench.source.dsn(),
            target=self.bench.target.dsn(name), lanes=self._lanes, sync=sync,
        ))  # fmt: skip
        roles = self._roles[name] = Roles(config, {})
        roles.start("capture")
        slot = f"SELECT FROM pg_replication_slots WHERE slot_name = 'headrace_{name}' AND active"
        wait_for("slot", lambda: bool(self.bench.sql(self.bench.source, slot)), roles, 60)
        time.sleep(2)
        roles.stop()

    def _prepare_native(self, name: str, sync: str) -> None:
        self._copy_tables(name)
        self.bench.sql(
            self.bench.source,
            f"CREATE PUBLICATION {name} FOR TABLE pgbench_accounts, pgbench_branches, pgbench_tellers",
        )
        self.bench.sql(
            self.bench.source, f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')"
        )
        self.bench.sql(
            self.bench.source, f"CREATE PUBLICATION {name}_h FOR TABLE pgbench_history WITH (publish = 'insert')"
        )
        self.bench.sql(self.bench.source, f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
        self.bench.sql(
            self.bench.target,
            f"CREATE SUBSCRIPTION {name} CONNECTION '{self.bench.source.dsn()}' PUBLICATION {name}, {name}_h WITH "
            f"(create_slot = false, slot_name = '{name}', enabled = false, copy_data = false, binary = true,"
            f" synchronous_commit = '{sync}', streaming = parallel)",
            name,
        )

    def headrace(self, sync: str) -> Result:
        """Drain the backlog through Headrace."""
        name = f"hr{self._number}_{sync}"
        roles = self._roles[name]
        total = "SELECT coalesce(sum(transactions), 0)::bigint FROM headrace.lane"
        exists = "SELECT to_regclass('headrace.lane') IS NOT NULL"
        roles.start("plan", "apply")
        wait_for("planner", lambda: bool(self.bench.sql(self.bench.target, exists, name)[0][0]), roles)
        time.sleep(6)  # group assignments; the backlog itself waits in the source until capture starts
        roles.start("capture")
        done = lambda: int(str(self.bench.sql(self.bench.target, total, name)[0][0]))  # noqa: E731
        pids = {
            **{role: [process.pid] for role, process in roles.processes.items()}, "broker": [self.bench.kafka.pid or 0],
        }  # fmt: skip

        def backends() -> dict[str, list[int]]:
            walsender = f"SELECT pid FROM pg_stat_replication WHERE application_name = 'headrace {name} capture'"
            lanes = f"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'headrace {name} lane%'"
            return {
                **pids,
                "walsender": [int(str(row[0])) for row in self.bench.sql(self.bench.source, walsender)],
                "target": [int(str(row[0])) for row in self.bench.sql(self.bench.target, lanes)],
            }

        result = self._time(f"Headrace, synchronous_commit={sync}", done, self.transactions, backends, roles)
        roles.stop()
        self._verify(name)
        return result

    def native(self, sync: str) -> Result:
        """Drain the backlog through a subscription."""
        name = f"native{self._number}_{sync}"
        slot = f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{name}'"
        start = parse_lsn(str(self.bench.sql(self.bench.source, slot)[0][0]))
        query = (
            "SELECT coalesce(max(remote_lsn), '0/0') FROM pg_replication_origin_status o"
            f" JOIN pg_subscription s ON o.external_id = 'pg_' || s.oid WHERE s.subname = '{name}'"
        )
        count = "SELECT count(*) FROM pgbench_history"

        def done() -> int:
            lsn = parse_lsn(str(self.bench.sql(self.bench.target, query, name)[0][0]))
            share = max(0.0, (lsn - start) / (self._end - start))
            if share > 0.999:
                return int(str(self.bench.sql(self.bench.target, count, name)[0][0]))
            return int(share * self.transactions)

        def backends() -> dict[str, list[int]]:
            walsender = f"SELECT pid FROM pg_stat_replication WHERE application_name = '{name}'"
            worker = f"SELECT pid FROM pg_stat_subscription WHERE subname = '{name}' AND pid IS NOT NULL"
            return {
                "walsender": [int(str(row[0])) for row in self.bench.sql(self.bench.source, walsender)],
                "target": [int(str(row[0])) for row in self.bench.sql(self.bench.target, worker, name)],
            }

        self.bench.sql(self.bench.target, f"ALTER SUBSCRIPTION {name} ENABLE", name)
        result = self._time(f"native, synchronous_commit={sync}", done, self.transactions, backends, None)
        self.bench.sql(self.bench.target, f"ALTER SUBSCRIPTION {name} DISABLE", name)
        self._verify(name)
        return result

    def _time(
        self, name: str, done: Callable[[], int], total: int, backends: Callable[[], dict[str, list[int]]],
        roles: Roles | None,
    ) -> Result:  # fmt: skip
        wait_for("first transaction", lambda: done() > 0, roles)
        pids = backends()
        first, start_s = done(), time.monotonic()
        before = {who: sum(map(cpu_seconds, found)) for who, found in pids.items()}
        wait_for(f"{total} transactions", lambda: done() >= total, roles)
        elapsed_s = time.monotonic() - start_s
        moved = total - first
        cpu = {who: (sum(map(cpu_seconds, found)) - before[who]) * 1e6 / moved for who, found in pids.items()}
        return Result(name, moved / elapsed_s, cpu)

    def _verify(self, name: str) -> None:
        source = SourceSettings(self.bench.source.dsn(), ("public.pgbench_*",))
        for check in verify_tables(source, TargetSettings(self.bench.target.dsn(name))):
            if check.differences:
                raise RuntimeError(f"{name}: {check.table} differs in {check.differences} rows")


def run(transactions: int, repetitions: int, lanes: int) -> list[Result]:
    """Run all contestants `repetitions` times; print and return every result."""
    results: list[Result] = []
    with servers() as bench:
        bench.pgbench(bench.source, "-i", "-q", "-s", str(SCALE))
        for number in range(repetitions):
            drain = DrainRun(bench, number, transactions, lanes)
            reset(bench)
            drain.prepare()
            for sync in ("off", "on"):
                for contestant in (drain.native, drain.headrace):
                    result = contestant(sync)
                    results.append(result)
                    print(line(result), flush=True)
    return results


def reset(bench: Servers) -> None:
    """Put the source's tables back to what `pgbench -i` makes, so that targets start equal."""
    bench.pgbench(bench.source, "-i", "-q", "-s", str(SCALE))


def line(result: Result) -> str:
    """One result as text."""
    cpu = ", ".join(f"{who} {us:.1f}" for who, us in result.cpu_us.items())
    total = sum(result.cpu_us.values())
    return f"{result.name:40s} {result.tps:9,.0f} TPS   CPU µs a transaction: {cpu}, total {total:.1f}"


def table(results: list[Result]) -> str:
    """Medians and ranges as a Markdown table, with the ratio to native."""
    names = list(dict.fromkeys(result.name for result in results))
    rates = {name: [result.tps for result in results if result.name == name] for name in names}
    lines = ["| contestant | TPS, median | range | ratio to native | CPU µs a transaction |", "|---|---|---|---|---|"]
    for name in names:
        native = rates["native, " + name.partition(", ")[2]]
        ratio = median(a / b for a, b in zip(rates[name], native, strict=True))
        last = [result for result in results if result.name == name][-1]
        cpu = ", ".join(f"{who} {us:.1f}" for who, us in last.cpu_us.items())
        low, high = min(rates[name]), max(rates[name])
        lines.append(f"| {name} | {median(rates[name]):,.0f} | {low:,.0f}-{high:,.0f} | {ratio:.2f} | {cpu} |")
    return "\n".join(lines)


RESULTS = Path(__file__).with_name("RESULTS.md")

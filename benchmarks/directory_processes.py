"""Nodes as processes over the real directory: cache nodes, peer connections, the journal, the role that decides.

All processes share the cores of one machine, so what counts is CPU an access and how many accesses need a peer, by
number of nodes, at a pace that leaves cores idle; not how many accesses are made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.directory_node import STREAM, Task
from benchmarks.machine import cpu_seconds
from benchmarks.servers import Roles, Servers, servers, wait_for
from benchmarks.store import Sample
from headrace.embedded.ports import LOOPBACK, remembered_port

PROCESSES = (3, 8)
BLOCKS_A_NODE = 40
PER_NODE = 40  # accesses a second
SECONDS, WARM_S, SHIFT_S = 26, 16, 8
MEMORY_BYTES = 18_400  # for 20 blocks of a row, half of those that a node uses most
CONFIG = """
[kafka]
bootstrap_servers = "{kafka}"
topic_prefix = "bench_{name}"
[directory]
enabled = {enabled}
[cache]
buckets = 65536
token = "a token of the benchmark"
[[streams]]
name = "{stream}"
cache = ["public.item"]
[streams.source]
dsn = "{source}"
tables = ["public.item"]
snapshot = "never"
[streams.target]
dsn = "{target}"
"""
_TABLE = "CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL, note text)"


def run_processes(seed: int) -> Iterator[Sample]:
    """Every number of nodes, with hash placement and with the directory, in turns the one or the other first."""
    with servers() as bench:
        for number, nodes in enumerate(PROCESSES):
            for directory in (True, False) if (seed + number) % 2 else (False, True):
                found = _Cluster(bench, nodes, seed, directory=directory).measured()
                yield Sample(f"processes, {nodes} nodes, {'directory' if directory else 'hash'}", seed, found)


class _Cluster:
    """A stream of its own, with nodes that cache its rows."""

    def __init__(self, bench: Servers, nodes: int, seed: int, *, directory: bool) -> None:
        self._bench = bench
        self._name = f"{'directory' if directory else 'hash'}_{nodes}_{seed}"
        self._directory = directory
        self._nodes = [f"node{n:02d}" for n in range(nodes)]
        self._task = Task(nodes, BLOCKS_A_NODE * nodes, PER_NODE, SECONDS, WARM_S, SHIFT_S, seed, MEMORY_BYTES)
        for server in (bench.source, bench.target):
            bench.sql(server, f"CREATE DATABASE {self._name}")
            bench.sql(server, _TABLE, self._name)
        config = bench.directory / f"{self._name}.toml"
        config.write_text(CONFIG.format(
            kafka=bench.kafka.bootstrap_servers, name=self._name, enabled=str(directory).lower(), stream=STREAM,
            source=bench.source.dsn(self._name), target=bench.target.dsn(self._name),
        ))  # fmt: skip
        self._roles = Roles(config, {})

    def measured(self) -> dict[str, float]:
        """Fill the table through the pipeline, start the nodes, let them read."""
        self._roles.start("capture", "plan", "apply", *(["affinity"] if self._directory else []))
        slot = f"SELECT FROM pg_replication_slots WHERE slot_name = 'headrace_{STREAM}' AND active"
        wait_for("slot", lambda: bool(self._bench.sql(self._bench.source, slot)), self._roles)
        rows = self._task.blocks
        insert = f"INSERT INTO item SELECT n, 0, repeat('x', 100) FROM generate_series(1, {rows}) n"
        self._bench.sql(self._bench.source, insert, self._name)
        count = "SELECT count(*) FROM item"
        wait_for("rows", lambda: self._bench.sql(self._bench.target, count, self._name) == [(rows,)], self._roles)
        processes = self._started()
        try:
            return self._driven(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
            self._roles.stop()
            self._bench.drop_slot(f"headrace_{STREAM}")

    def _started(self) -> list[subprocess.Popen[str]]:
        ports = {node: remembered_port(self._roles.config.with_suffix(".ports"), node, None) for node in self._nodes}
        command = [sys.executable, "-m", "benchmarks.directory_node", str(self._roles.config)]
        found = []
        for node in self._nodes:
            peers = {f"PEERS__{peer}": f"{LOOPBACK}:{ports[peer]}" for peer in self._nodes if peer != node}
            values = {"NODE": node, "LISTEN": f"{LOOPBACK}:{ports[node]}", **peers}
            environment = {**os.environ, **{f"HEADRACE_CACHE__{name}": value for name, value in values.items()}}
            with Path(self._roles.config.with_suffix(f".{node}.log")).open("ab") as log:
                found.append(subprocess.Popen(
                    [*command, json.dumps(asdict(self._task))], env=environment, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=log, text=True,
                ))  # fmt: skip
        return found

    def _driven(self, processes: list[subprocess.Popen[str]]) -> dict[str, float]:
        for process in processes:
            self._line(process)
        for process in processes:
            self._next(process)
        decider = self._roles.processes.get("affinity")
        before_s = cpu_seconds(decider.pid) if decider is not None else 0.0
        found: list[dict[str, float]] = [json.loads(self._line(process)) for process in processes]
        decider_s = (cpu_seconds(decider.pid) - before_s) * (SECONDS - WARM_S) / SECONDS if decider is not None else 0.0
        for process in processes:
            self._next(process)

        def total(name: str) -> float:
            return sum(each.get(name, 0.0) for each in found)

        accesses = total("cache") + total("peer") + total("target")
        return {
            "hit rate": total("cache") / accesses,
            "memory of all": (total("cache") + total("peer")) / accesses, "asked": total("asked") / accesses,
            "came": (total("2-way") + total("3-way")) / accesses, "3-way": total("3-way") / accesses,
            "from the target": total("target") / accesses, "lost": total("lost"),
            "cpu_us": total("cpu_s") * 1e6 / accesses, "cpu_us of the decider": decider_s * 1e6 / accesses,
            "late_s": median(each["late_s"] for each in found),
        }  # fmt: skip

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            logs = (self._roles.config.with_suffix(f".{node}.log").read_text()[-1500:] for node in self._nodes)
            raise RuntimeError(f"{self._name}: a node has ended\n" + "\n".join(logs))
        return line

    @staticmethod
    def _next(process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

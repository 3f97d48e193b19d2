"""The demonstration from the first server to the last comparison."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from headrace.configuration import read_settings, with_servers
from headrace.demo.cluster import STREAM, Pipeline, Servers, servers
from headrace.demo.live import Moment, Progress
from headrace.demo.load import Load
from headrace.demo.meter import STEP_S, Meter
from headrace.demo.outcome import gather
from headrace.demo.results import Kill, Result
from headrace.demo.schema import create_tables, fill_tables
from headrace.streams import open_ledger
from headrace.verify import verify_stream
from headrace.wait import wait_for_target
from pipeline.errors import ConfigError
from topologies.settings import Settings
from topologies.stream_settings import StreamConfig

START_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 120.0
TICK_S = 0.1
KILL_AT = 0.4  # share of the transactions
OUTAGE_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    transactions: int
    lanes: int
    seed: int
    keep: bool
    data_dir: Path | None


def run_demo(options: Options, console: Console) -> Result:
    """Run it; everything is removed afterwards unless it is to be kept.

    Raises EmbeddedError, HeadraceError, psycopg.Error.
    """
    started_s = time.monotonic()
    with _home(options, console) as home, Progress(console) as progress:
        progress.say("starting two PostgreSQL servers and a Kafka broker")
        with servers(home, options.lanes) as machines:
            create_tables(machines.source.dsn())
            create_tables(machines.target.dsn())
            fill_tables(machines.source.dsn())
            progress.say("starting `headrace run`: snapshot of the rows that are there, then the changes")
            pipeline = Pipeline(machines.config)
            try:
                run = _Run(options, machines, pipeline, progress)
                return run.to_end(started_s)
            finally:
                progress.say("stopping")
                pipeline.stop()


@contextmanager
def _home(options: Options, console: Console) -> Iterator[Path]:
    """The data directory: a new one, or an empty one that the user names."""
    home = options.data_dir
    if home is not None and home.exists() and any(home.iterdir()):
        raise ConfigError(f"{home} is not empty: the demonstration wants a directory of its own (--data-dir)")
    if home is None:
        home = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)  # as root, PostgreSQL runs as another user, who has to pass through
    try:
        yield home.absolute()
    finally:
        if options.keep:
            console.print(f"kept: {home} (configuration headrace.toml, log run.log)", soft_wrap=True)
        else:
            shutil.rmtree(home, ignore_errors=True)


class _Run:
    """One run: waits for the snapshot, drives the load, kills once, waits, compares."""

    def __init__(self, options: Options, machines: Servers, pipeline: Pipeline, progress: Progress) -> None:
        self._options = options
        self._pipeline = pipeline
        self._progress = progress
        self._settings: Settings = with_servers(read_settings(machines.config), machines.kafka.bootstrap_servers)
        self._stream: StreamConfig = self._settings.stream(STREAM)
        pgbench = machines.source.bin_dir / "pgbench"
        self._load = Load(machines.source.dsn(), pgbench, options.transactions, options.seed)
        self._kill: tuple[float, int] | None = None

    def to_end(self, started_s: float) -> Result:
        """All of it; see `run_demo`."""
        try:
            self._await_start()
            before = self._totals()
            meter = Meter(self._settings)
            meter.start()
            try:
                return self._measured(meter, before, started_s)
            finally:
                meter.close()
        finally:
            self._load.close()

    def _measured(self, meter: Meter, before: tuple[int, int], started_s: float) -> Result:
        self._progress.say(f"writing {self._options.transactions:,} transactions: orders, and pgbench's TPC-B")
        self._load.start()
        load_s = self._drive(meter)
        self._progress.say(f"all committed after {load_s:.1f} s; waiting for the target")
        after, drain_s = self._drained(before)
        self._progress.say("comparing every table")
        check = verify_stream(self._stream, DRAIN_TIMEOUT_S)
        time.sleep(STEP_S)  # the last progress records
        kill = None
        if self._kill is not None:
            at_s, pid = self._kill
            kill = Kill(at_s, pid, meter.recovered_s(at_s), None)
        counted = (self._load.committed(), after[0] - before[0], after[1] - before[1], before[1])
        times = (load_s, drain_s, time.monotonic() - started_s)
        return gather(meter, kill, counted, times, check, (self._options.seed, self._options.lanes))

    def _await_start(self) -> None:
        """Wait until the snapshot is applied."""
        end_s = time.monotonic() + START_TIMEOUT_S
        while True:
            self._pipeline.check()
            with open_ledger(self._stream) as ledger:
                row = ledger.stream_row()
            if row is not None and row.generation:
                break
            if time.monotonic() > end_s:
                raise ConfigError(f"no snapshot within {START_TIMEOUT_S:.0f} s: see {self._pipeline.log_path}")
            time.sleep(TICK_S)
        wait_for_target(self._stream, START_TIMEOUT_S)

    def _drained(self, before: tuple[int, int]) -> tuple[tuple[int, int], float]:
        """Wait until as many transactions are applied as were committed; returns the totals and the seconds.

        Not by a marker, which is a transaction too: after this, one more than committed would be an error.
        """
        started_s, wanted = time.monotonic(), before[0] + self._load.committed()
        while self._totals()[0] < wanted and time.monotonic() - started_s < DRAIN_TIMEOUT_S:
            self._pipeline.check()
            time.sleep(TICK_S)
        drain_s = time.monotonic() - started_s
        time.sleep(STEP_S)  # for what might be applied twice
        return self._totals(), drain_s

    def _totals(self) -> tuple[int, int]:
        with open_ledger(self._stream) as ledger:
            return ledger.totals()

    def _drive(self, meter: Meter) -> float:
        """Watch the load until it ends, with the crash on the way; returns its seconds."""
        started_s, running = time.monotonic(), True
        while running:
            running = self._load.running()
            committed = self._load.committed()
            meter.note_committed(committed)
            self._pipeline.check()
            if self._kill is None and committed >= KILL_AT * self._options.transactions:
                self._kill = (meter.note_kill(), self._pipeline.kill("apply"))
                self._progress.say(f"killed the apply process (pid {self._kill[1]}) with -9")
            self._progress.show(self._moment(meter, committed))
            time.sleep(TICK_S)
        return time.monotonic() - started_s

    def _moment(self, meter: Meter, committed: int) -> Moment:
        recent, applied = meter.recent(), meter.total().applied
        down = self._kill is not None and meter.recovered_s(self._kill[0]) is None
        return Moment(
            committed, applied, self._options.transactions, recent.applied / (4 * STEP_S),
            recent.lag.percentile_s(0.5), recent.lag.percentile_s(0.99), len(recent.lanes), self._options.lanes,
            "apply was killed; its lanes move to a new process" if down else "",
        )  # fmt: skip

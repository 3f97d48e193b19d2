"""The workload: order sessions in threads and pgbench as a program, together at a steady rate."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psycopg

from headrace.demo.orders import OrderSession
from headrace.demo.schema import TPCB_SCRIPT
from pipeline.errors import HeadraceError

RATE_PER_S = 1000.0  # transactions; what two shared cores carry beside everything else, with room to catch up
ORDER_SESSIONS = 2
PGBENCH_CLIENTS = 2
START_S = 10.0  # of pgbench
POLL_S = 0.1


class LoadError(HeadraceError):
    """The workload itself failed."""


class Load:
    """`transactions` in all, half orders and half TPC-B. Not restartable."""

    def __init__(self, dsn: str, pgbench: Path, transactions: int, seed: int) -> None:
        self.transactions = transactions
        self._dsn = dsn
        self._pgbench = pgbench
        self._seed = seed
        self._orders = [transactions // 2 // ORDER_SESSIONS] * ORDER_SESSIONS
        self._tpcb_each = (transactions - sum(self._orders)) // PGBENCH_CLIENTS
        self._orders[0] += transactions - sum(self._orders) - self._tpcb_each * PGBENCH_CLIENTS
        self._done = [0] * ORDER_SESSIONS
        self._errors: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._take_orders, args=(number,), name=f"orders-{number}", daemon=True)
            for number in range(ORDER_SESSIONS)
        ]
        self._program: subprocess.Popen[bytes] | None = None
        self._script = tempfile.NamedTemporaryFile(suffix=".sql")  # noqa: SIM115 - lives as long as pgbench
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - the same
        self._counter = psycopg.connect(dsn, autocommit=True, application_name="demo counter")

    def start(self) -> None:
        """Start all sessions."""
        self._script.write(TPCB_SCRIPT.encode())
        self._script.flush()
        argv = [
            str(self._pgbench), "-n", "-M", "prepared", "-f", self._script.name, "-c", str(PGBENCH_CLIENTS), "-j", "1",
            "-t", str(self._tpcb_each), "--rate", str(RATE_PER_S / 2), "--random-seed", str(self._seed), self._dsn,
        ]  # fmt: skip
        if self._tpcb_each:
            self._program = subprocess.Popen(
                argv, env={"PGOPTIONS": "-c synchronous_commit=off", "LC_ALL": "C"},
                stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said,
            )  # fmt: skip
        for thread in self._threads:
            thread.start()

    def committed(self) -> int:
        """Transactions committed so far. Raises LoadError when a session has failed."""
        if self._errors:
            raise LoadError(f"the workload failed: {self._errors[0]}") from self._errors[0]
        row = self._counter.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM pgbench_history_id_seq")
        return sum(self._done) + int((row.fetchone() or (0,))[0])

    def running(self) -> bool:
        """Whether any session is at work. Raises LoadError."""
        if self._program is not None and self._program.poll():
            self._said.seek(0)
            raise LoadError(f"pgbench failed: {self._said.read().decode(errors='replace').strip()}")
        program = self._program is not None and self._program.poll() is None
        return program or any(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End all sessions, wherever they are."""
        self._stop.set()
        if self._program is not None:
            self._program.kill()
            self._program.wait()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._counter.close()
        self._script.close()
        self._said.close()

    def _take_orders(self, number: int) -> None:
        pause_s = ORDER_SESSIONS / (RATE_PER_S / 2)
        try:
            session = OrderSession(self._dsn, number, ORDER_SESSIONS, self._seed)
            due_s = time.monotonic()
            while self._done[number] < self._orders[number] and not self._stop.is_set():
                session.step()
                self._done[number] += 1
                due_s += pause_s
                self._stop.wait(max(0.0, due_s - time.monotonic()))
            session.close()
        except psycopg.Error as error:
            self._errors.append(error)

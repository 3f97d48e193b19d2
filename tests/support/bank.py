"""Bank transfers: a load whose every torn, lost or repeated transaction shows.

The sum of all balances never changes. Each transfer also writes a `ledger_entry` with a number of its own; the
target has no unique constraint on it, so a transfer applied twice is two rows.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import psycopg

ACCOUNTS = 200
BALANCE = 1000
READ_EVERY_S = 0.05
PAUSE_S = 0.004  # between two transfers of a writer: a load that leaves the processor to the roles
AWAY_S = 0.1
TABLES = (
    "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, transfers int NOT NULL DEFAULT 0)",
    "CREATE TABLE ledger_entry (number bigint NOT NULL, giver int NOT NULL, taker int NOT NULL, amount int NOT NULL)",
)


class BankRig(Protocol):
    """What the bank needs of a stream: its two databases, and ways to wait."""

    @property
    def source_dsn(self) -> str: ...

    @property
    def target_dsn(self) -> str: ...

    def both(self, *statements: str) -> None: ...

    def source(self, *statements: str) -> None: ...

    def source_rows(self, query: str) -> list[tuple[object, ...]]: ...

    def target_rows(self, query: str) -> list[tuple[object, ...]]: ...

    def until(self, condition: Callable[[], object], what: str) -> None: ...

    def wait_until_settled(self) -> None: ...


def create_bank(rig: BankRig) -> None:
    """Create the tables on both sides and the accounts on the source."""
    rig.both(*TABLES)
    rig.source(f"INSERT INTO account SELECT n, {BALANCE} FROM generate_series(1, {ACCOUNTS}) n")


class BankLoad:
    """Writers that transfer money on the source, and a reader that adds up the target's balances.

    Writers survive a source that goes away. The reader begins to check when the target is whole.
    """

    def __init__(self, rig: BankRig, *, writers: int = 2, pause_s: float = PAUSE_S) -> None:
        self._rig = rig
        self._pause_s = pause_s
        self._numbers = itertools.count(time.time_ns())  # above those of an earlier load on the same tables
        self._stopping = threading.Event()
        self._reading = threading.Event()
        self.wrong: list[str] = []
        self.snapshots = 0
        self._writers = [threading.Thread(target=self._write, args=(seed,), daemon=True) for seed in range(writers)]
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        for thread in (*self._writers, self._reader):
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_writers()
        self._reading.set()
        self._reader.join()

    def _stop_writers(self) -> None:
        self._stopping.set()
        for writer in self._writers:
            writer.join()

    def wait_for_transfers(self, more: int) -> None:
        """Wait until the target has `more` transfers than now; from then on the reader checks."""
        self._rig.until(lambda: self.applied() >= 0, "the target answers")
        before = self.applied()
        self._rig.until(lambda: self.applied() >= before + more, f"{more} more transfers are applied")
        self._reading.set()

    def applied(self) -> int:
        """The number of transfers on the target; -1 while it is away."""
        with contextlib.suppress(psycopg.Error):
            return int(str(self._rig.target_rows("SELECT count(*) FROM ledger_entry")[0][0]))
        return -1

    def finish(self) -> None:
        """Stop writing and check all: equal, no lag left, no transfer missing or doubled, no torn snapshot seen."""
        self._rig.until(lambda: self.snapshots, "the reader reads")
        self._stop_writers()
        self._rig.wait_until_settled()
        rows = self._rig.target_rows("SELECT count(*), count(DISTINCT number) FROM ledger_entry")
        there, distinct = rows[0]
        assert there == distinct, f"{there} entries of {distinct} transfers"
        assert [(there,)] == self._rig.source_rows("SELECT count(*) FROM ledger_entry")
        assert not self.wrong, self.wrong[:5]

    def _write(self, seed: int) -> None:
        dice = random.Random(seed)
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._rig.source_dsn, autocommit=True, connect_timeout=2) as conn:
                    while not self._stopping.wait(self._pause_s):
                        self._transfer(conn, dice)
            except psycopg.Error:
                self._stopping.wait(AWAY_S)

    def _transfer(self, conn: psycopg.Connection[tuple[object, ...]], dice: random.Random) -> None:
        giver, taker = dice.sample(range(1, ACCOUNTS + 1), 2)
        amount = dice.randint(1, 50)
        first, second = sorted([(giver, -amount), (taker, amount)])  # in one order: no deadlocks at the source
        move = "UPDATE account SET balance = balance + %s, transfers = transfers + 1 WHERE id = %s"
        # The outcome of a commit may be unknown when the source dies, so a number is never used again.
        with conn.pipeline(), conn.transaction():
            conn.execute(move, [first[1], first[0]])
            conn.execute(move, [second[1], second[0]])
            conn.execute(
                "INSERT INTO ledger_entry VALUES (%s, %s, %s, %s)", [next(self._numbers), giver, taker, amount]
            )

    def _read(self) -> None:
        self._reading.wait()
        wanted = (ACCOUNTS * BALANCE, ACCOUNTS)
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._rig.target_dsn, autocommit=True, connect_timeout=2) as conn:
                    while not self._stopping.wait(READ_EVERY_S):
                        row = conn.execute("SELECT sum(balance)::bigint, count(*) FROM account").fetchone()
                        self.snapshots += 1
                        if row != wanted:
                            self.wrong.append(f"snapshot {self.snapshots}: {row}, not {wanted}")
            except psycopg.Error:
                self._stopping.wait(AWAY_S)

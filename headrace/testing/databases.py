"""A database for one test, on a server that lives longer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

TERMINATE_MS = 5000


@contextmanager
def new_database(admin_dsn: str) -> Iterator[str]:
    """The name of a new database on the server of `admin_dsn`; dropped afterwards, whoever is connected."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield name
    finally:
        with psycopg.connect(admin_dsn, autocommit=True) as admin:
            _drop_slots(admin, name)
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _drop_slots(admin: psycopg.Connection[tuple[object, ...]], database: str) -> None:
    """Drop the replication slots of `database`, which would keep it and the server's log."""
    slots = "FROM pg_replication_slots WHERE database = %s"
    admin.execute(
        f"SELECT pg_terminate_backend(active_pid, {TERMINATE_MS}) {slots} AND active_pid IS NOT NULL", [database]
    )
    admin.execute(f"SELECT pg_drop_replication_slot(slot_name) {slots}", [database])

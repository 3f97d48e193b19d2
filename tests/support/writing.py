"""Ways of writing to a stream's source."""

from __future__ import annotations

import psycopg

from tests.support.rig import Rig


def commit_each(rig: Rig, *statements: str) -> None:
    """Run statements on the source, each in a transaction of its own, as fast as it goes."""
    with psycopg.connect(rig.source_dsn, autocommit=True) as conn, conn.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement.encode())


def commit_in_one_window(rig: Rig, *statements: str) -> None:
    """The same, and they reach the planner in one batch: capture finds them all when it goes on."""
    rig.pause("capture")
    try:
        commit_each(rig, *statements)
    finally:
        rig.resume("capture")

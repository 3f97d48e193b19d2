"""What the preflight checks of both sides share."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from connectors.admin import Finding

VERSION_MIN = 140000


def check_version(conn: psycopg.Connection, where: str) -> list[Finding]:
    """Whether the server is too old."""
    version = conn.info.server_version
    if version >= VERSION_MIN:
        return []
    return [Finding(True, where, f"PostgreSQL {version // 10000} is too old", "use PostgreSQL 14 or newer")]


def scalar(conn: psycopg.Connection, query: str, parameters: Sequence[object] = ()) -> object:
    """The first column of a query's first row, None where it has none."""
    row = conn.execute(query.encode(), parameters).fetchone()
    return None if row is None else row[0]

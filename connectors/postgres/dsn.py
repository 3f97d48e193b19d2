"""Connection strings, looked at before anybody connects."""

from __future__ import annotations

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict


def check_dsn(dsn: str) -> None:
    """Raise ValueError, without a word of `dsn` in its text, for one that can't be right."""
    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError:
        raise ValueError("is no connection string; write postgresql://user@host:port/database") from None
    if not parts.get("dbname"):
        raise ValueError("names no database; write postgresql://user@host:port/database")
    if not str(parts.get("port") or "0").replace(",", "").isdigit() or _spills(dsn):
        raise ValueError("has a host or port that can't be; in a password / @ : ? % are written %2F %40 %3A %3F %25")


def _spills(url: str) -> bool:
    """Whether a part of a URL's password became host, port or database: an unescaped `/` or `@` ends it early."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    early = "@" not in authority and "@" in path.partition("?")[0]
    return scheme in ("postgresql", "postgres") and (early or authority.count("@") > 1)

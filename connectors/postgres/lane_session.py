"""The session in which a lane writes: what it is named, and what ends it when its process freezes."""

from __future__ import annotations

import psycopg
from psycopg import sql

from connectors.postgres.errors import connect, translated
from connectors.postgres.setbased import SESSION
from connectors.settings import TargetSettings

# A frozen process can also stop in the middle of a COPY, which no limit of its session ends. Whoever opens a
# lane has been given it, so a session of the same lane that waits for its client is left from before.
STUCK_S = 5.0
_END_FROZEN = """
SELECT pg_terminate_backend(o.pid, 1000) FROM pg_stat_activity o
  JOIN pg_stat_activity s ON s.pid = pg_backend_pid()
   AND (o.application_name, o.datname, o.usename) = (s.application_name, s.datname, s.usename)
 WHERE o.pid <> s.pid AND o.xact_start IS NOT NULL AND o.wait_event = 'ClientRead'
   AND o.state_change < now() - make_interval(secs => %s)
"""
# How the source writes text, and how values that are cast by way of text are written.
_TEXT = {"DateStyle": "ISO", "IntervalStyle": "postgres", "lc_monetary": "C", "extra_float_digits": "3"}
# A frozen process must not keep rows locked for long after its session in the consumer group ended (6 s).
_LIMITS = {
    "idle_in_transaction_session_timeout": "10s", "tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3", "tcp_user_timeout": "15s",
}  # fmt: skip


def open_session(stream: str, who: str, settings: TargetSettings, where: str) -> psycopg.Connection:
    """Open the session of a lane (`who`), and end one that a frozen process has left; `where` begins errors' texts.

    Raises ConfigError, RetriableError.
    """
    conn = connect(
        settings.dsn, f"headrace {stream} {who}",
        synchronous_commit=settings.synchronous_commit, **_LIMITS, **_TEXT, **SESSION,
    )  # fmt: skip
    with translated(f"{where}: ending frozen sessions"):
        conn.execute(_END_FROZEN, [STUCK_S])
    # psycopg answers a ROLLBACK with DEALLOCATE ALL once it has prepared anything: the pipeline prepares.
    conn.prepare_threshold = None
    with translated(f"{where}: preparing the session"):
        conn.execute(
            sql.SQL("SET session_replication_role = {}").format(sql.Literal(settings.session_replication_role))
        )
    return conn

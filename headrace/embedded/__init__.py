"""A real Kafka and a real PostgreSQL, started by Headrace itself: for demonstrations, tests, benchmarks.

Needs the extra `embedded`. Linux only (process file descriptors, PR_SET_PDEATHSIG, /proc).
"""

from headrace.embedded.errors import EmbeddedError
from headrace.embedded.kafka import EmbeddedKafka, embedded_kafka
from headrace.embedded.postgres import EmbeddedPostgres, StopMode, embedded_postgres
from headrace.embedded.process import Command, GuardedProcess
from headrace.embedded.process_id import ProcessId
from headrace.embedded.server import EmbeddedServer

__all__ = [
    "EmbeddedError",
    "EmbeddedServer",
    "EmbeddedKafka",
    "embedded_kafka",
    "EmbeddedPostgres",
    "StopMode",
    "embedded_postgres",
    "Command",
    "GuardedProcess",
    "ProcessId",
]

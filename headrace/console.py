"""What the command line and the roles say: log lines, errors in plain words, exit codes."""

from __future__ import annotations

import logging
import os
import re
import sys
import time

from confluent_kafka import KafkaException

from connectors.errors import RefusedError
from headrace.embedded import EmbeddedError
from pipeline.errors import ConfigError, HeadraceError, RetriableError, StreamStoppedError
from schemas.errors import SchemaError

EX_OK = 0
EX_FAILURE = 1
EX_TEMPFAIL = 75  # sysexits.h: try again later
EX_CONFIG = 78  # sysexits.h: an operator has to act; whatever supervises must not restart the role
ENV_SUPERVISOR = "HEADRACE_SUPERVISOR_PID"  # set for the roles that `headrace run` starts

EXPECTED_ERRORS = (HeadraceError, EmbeddedError, SchemaError, RefusedError, KafkaException)
# Loggers of libraries with the level from which on an operator wants to hear them: what these say below
# ERROR is of no use (retries that succeed), or repeated by our own errors.
LIBRARIES = {
    "faust": logging.WARNING, "mode": logging.WARNING, "asyncio": logging.WARNING,
    "mode.timers": logging.ERROR,  # a tick of ours that took longer than its interval
    "aiokafka": logging.ERROR, "headrace.kafka": logging.ERROR,
}  # fmt: skip
REPEAT_S = 30.0  # Kafka's clients repeat "connection refused" a hundred times a second
MESSAGES_MAX = 1000  # remembered to recognise a repetition


class _Repeats(logging.Filter):
    """Lets the same message of a library pass once in `REPEAT_S`; numbers in it don't count as a difference."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is news."""
        if not any(record.name == name or record.name.startswith(f"{name}.") for name in LIBRARIES):
            return True
        key, now_s = re.sub(r"\d+", "#", record.getMessage()), time.monotonic()
        if now_s - self._seen.get(key, -REPEAT_S) < REPEAT_S:
            return False
        if len(self._seen) >= MESSAGES_MAX:
            self._seen.clear()
        self._seen[key] = now_s
        return True


def setup_logging(role: str, *, verbose: bool) -> None:
    """Log to standard error, a line a message: time (UTC), role, level, text.

    Under `headrace run` the role is left out, since the supervisor puts it before each line.
    """
    name = "" if ENV_SUPERVISOR in os.environ else f"{role} "
    formatter = logging.Formatter(f"%(asctime)s.%(msecs)03dZ {name}%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for library, level in LIBRARIES.items():
        logging.getLogger(library).setLevel(logging.NOTSET if verbose else level)
    if not verbose:
        handler.addFilter(_Repeats())


def quiet_clients() -> None:
    """Keep Kafka's client from logging beside a command's own output: each command says itself what it has met."""
    logging.getLogger("headrace.kafka").setLevel(logging.CRITICAL)


def exit_code(error: BaseException, *, role: bool) -> int:
    """The exit code for `error`; `role`: of a long-running role, else of a command."""
    if isinstance(error, (RetriableError, KafkaException)):
        return EX_TEMPFAIL
    if role and isinstance(error, (ConfigError, StreamStoppedError, EmbeddedError, SchemaError)):
        return EX_CONFIG
    return EX_FAILURE


def error_text(error: BaseException) -> str:
    """What to tell the operator."""
    if isinstance(error, KafkaException):
        return f"Kafka: {error.args[0].str().removesuffix(': ')} [{error.args[0].name()}]"
    return str(error) or type(error).__name__


def report(error: BaseException, what: str = "") -> None:
    """Print `error` to standard error, without a trace. `what` is the role or command."""
    sys.stderr.write(f"headrace{' ' + what if what else ''}: {error_text(error)}\n")
    sys.stderr.flush()

"""`headrace run`: every role as a child process, in the foreground, with an embedded broker if wanted.

**Guarantee:** children are restarted with backoff, stopped with the supervisor, and never outlive it, even
one killed with -9 (the kernel signals them: see `headrace.stopping.follow_supervisor`).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from headrace.child import ends_itself
from headrace.configuration import read_settings
from headrace.console import ENV_SUPERVISOR, EX_CONFIG, EX_FAILURE, EX_OK, EX_TEMPFAIL, setup_logging
from headrace.embedded import EmbeddedKafka, embedded_kafka
from headrace.stopping import StopFlag, follow_supervisor
from topologies.heartbeat import ENV_HEARTBEAT
from topologies.kafka import ENV_INSTANCE
from topologies.settings import EMBEDDED, Settings

log = logging.getLogger(__name__)
POLL_S = 0.1
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_S = 60.0  # a role that has lived for so long is restarted with the shortest pause again
CRASHES_MAX = 10  # ends in a row, other than for want of a server (exit code 75), before all is stopped
STOP_S = 25.0  # after SIGTERM; then SIGKILL. Below the role's own last resort (stopping.STOP_S)
BROKER_POLL_S = 1.0
ENV_SERVERS = "HEADRACE_KAFKA__BOOTSTRAP_SERVERS"


@dataclass(slots=True)
class Child:
    """A role and its process, if one runs."""

    name: str
    argv: list[str]
    process: subprocess.Popen[str] | None = None
    reader: threading.Thread | None = None
    started_s: float = 0.0
    failures: int = 0
    crashes: int = 0
    restart_s: float = 0.0
    last_error: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start the process. From the main thread only: the kernel ties its death signal to the thread."""
        self.process = subprocess.Popen(
            self.argv, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", bufsize=1, start_new_session=True,
        )  # fmt: skip
        self.started_s = time.monotonic()
        self.reader = threading.Thread(target=self._forward, args=(self.process,), daemon=True)
        self.reader.start()
        log.info("%s started, pid %d", self.name, self.process.pid)

    def _forward(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is None:
            return
        for line in process.stdout:
            if line.startswith("headrace "):  # how a role reports the error that ends it
                self.last_error = line.rstrip().partition(": ")[2]
            sys.stderr.write(f"{self.name:<8}| {line}")
            sys.stderr.flush()
        process.stdout.close()

    def ended(self) -> int | None:
        """The exit code of a process that has ended, once; else None."""
        code = self.process.poll() if self.process is not None else None
        if code is not None:
            self.process = None
            if self.reader is not None:
                self.reader.join(1.0)
        return code


class Supervisor:
    """Runs the children until stopped or until one needs an operator."""

    def __init__(self, children: list[Child], broker: EmbeddedKafka | None, stop: StopFlag) -> None:
        self._children = children
        self._broker = broker
        self._broker_seen_s = 0.0
        self._stop = stop

    def run(self) -> int:
        """Supervise; returns the exit code: 0 when stopped by a signal, 1 when a role gave up or a stream stopped."""
        try:
            while not self._stop.is_set():
                self._stop.wait(POLL_S)
                self._watch_broker()
                for child in self._children:
                    if child.process is None:
                        self._start_if_due(child)
                    elif (code := child.ended()) is not None and not self._goes_on(child, code):
                        return EX_FAILURE
        finally:
            stopped = self._stop_children()
        return EX_FAILURE if stopped else EX_OK

    def _start_if_due(self, child: Child) -> None:
        if time.monotonic() >= child.restart_s:
            child.start()

    def _goes_on(self, child: Child, code: int) -> bool:
        """Plan the restart of an ended child; False when an operator has to act."""
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == EX_CONFIG:
            log.error("%s cannot go on: %s", child.name, child.last_error)
            return False
        if time.monotonic() - child.started_s >= HEALTHY_S:
            child.failures = child.crashes = 0
        child.crashes = 0 if code == EX_TEMPFAIL else child.crashes + 1
        if child.crashes >= CRASHES_MAX:
            log.error("%s ended %d times in a row (%s): %s", child.name, child.crashes, how, child.last_error)
            return False
        pause_s = BACKOFF_S[min(child.failures, len(BACKOFF_S) - 1)]
        child.failures += 1
        child.restart_s = time.monotonic() + pause_s
        log.warning("%s ended (%s); starting it again in %.1f s", child.name, how, pause_s)
        return True

    def _watch_broker(self) -> None:
        now_s = time.monotonic()
        if self._broker is None or now_s - self._broker_seen_s < BROKER_POLL_S:
            return
        self._broker_seen_s = now_s
        if not self._broker.alive:
            log.error("the embedded broker ended; starting it again. Its log: %s", self._broker.log_path)
            self._broker.attach_or_start()

    def _stop_children(self) -> bool:
        """End all; whether a role says that a stream needs an operator."""
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        end_s = time.monotonic() + STOP_S
        for process in running:
            if not ends_itself(process, end_s - time.monotonic()):
                log.warning("process %d did not stop in %.0f s and was killed", process.pid, STOP_S)
        for child in self._children:
            if child.reader is not None:
                child.reader.join(1.0)
        return any(process.returncode == EX_CONFIG for process in running)


def supervise(config: Path, *, apply: int, verbose: bool) -> int:
    """Run everything of `config`, with `apply` apply processes; returns the exit code.

    Raises ConfigError, EmbeddedError.
    """
    setup_logging("run", verbose=verbose)
    settings = read_settings(config)
    stop = StopFlag()
    stop.install()
    follow_supervisor()
    env = {**os.environ, ENV_SUPERVISOR: str(os.getpid())}
    env.pop(ENV_HEARTBEAT, None)  # the file says that the supervisor lives
    if settings.kafka.bootstrap_servers != EMBEDDED:
        return Supervisor(_children(settings, config, env, apply=apply, verbose=verbose), None, stop).run()
    with embedded_kafka(settings.kafka.data_dir) as broker:
        log.info("embedded broker at %s, pid %d, data in %s", broker.bootstrap_servers, broker.pid, broker.home)
        env[ENV_SERVERS] = broker.bootstrap_servers
        return Supervisor(_children(settings, config, env, apply=apply, verbose=verbose), broker, stop).run()


def _children(
    settings: Settings, config: Path, env: dict[str, str], *, apply: int, verbose: bool
) -> list[Child]:  # fmt: skip
    names = [("capture", "capture"), ("plan", "plan")]
    names += [("apply", "apply" if apply == 1 else f"apply-{number}") for number in range(1, apply + 1)]
    names += [("monitor", "monitor")]
    names += [("cache", "cache"), ("fusion", "fusion")] if settings.cached_streams() else []
    names += [("affinity", "affinity")] if settings.directory.enabled else []
    more = ["--verbose"] if verbose else []
    run = f"headrace-{uuid.uuid4().hex}"
    return [
        Child(
            name,
            [sys.executable, "-m", "headrace.cli", role, "-c", str(config), *more],
            env={**env, ENV_INSTANCE: f"{run}-{name}"},
        )
        for role, name in names
    ]

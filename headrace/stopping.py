"""When a role ends: at a signal, at its supervisor's death, and by force when it takes too long."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading

from headrace.console import ENV_SUPERVISOR
from topologies.heartbeat import Heartbeat

log = logging.getLogger(__name__)
STOP_S = 20.0  # a role that has not ended by then is ended: more than any flush or commit waits
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StopFlag:
    """Set by SIGTERM and SIGINT. A role that does not end within `STOP_S` is ended the hard way.

    A role's main loop asks `is_set` at every turn, which is its heartbeat too; `wait` is for whatever watches.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._heartbeat = Heartbeat.from_environment()
        self.wait = self._event.wait

    def is_set(self) -> bool:
        """Whether to stop."""
        self._heartbeat.beat()
        return self._event.is_set()

    def install(self) -> None:
        """Listen to the signals; call it from the main thread."""
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, lambda *_: self.set())

    def set(self) -> None:
        """Stop."""
        if not self._event.is_set():
            self._event.set()
            last_resort = threading.Timer(STOP_S, _give_up)
            last_resort.daemon = True
            last_resort.start()


def _give_up() -> None:
    log.error("not stopped after %.0f s; giving up", STOP_S)
    os._exit(1)


def follow_supervisor() -> None:
    """Have the kernel stop this process when the supervisor that started it is gone (prctl(2))."""
    supervisor = os.environ.get(ENV_SUPERVISOR)
    if supervisor is None:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(supervisor):  # it died before the signal was arranged
        os.kill(os.getpid(), signal.SIGTERM)

"""The roles as foreground processes: capture, plan, apply, monitor, cache, fusion.

**Guarantee:** a role ends with 0 on SIGTERM or SIGINT, 78 when an operator has to act, 75 when trying again
may help, 1 for anything else; it ends when the supervisor that started it dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from headrace.configuration import reachable_settings
from headrace.console import ENV_SUPERVISOR, EX_OK, EXPECTED_ERRORS, exit_code, report, setup_logging
from pipeline.errors import RetriableError
from topologies.heartbeat import Heartbeat
from topologies.settings import Settings
from topologies.stopped_streams import StoppedStreams
from topologies.stream_settings import StreamConfig

if TYPE_CHECKING:
    import faust

log = logging.getLogger(__name__)
SWITCH_S = 0.0005
ROLES = ("capture", "plan", "apply", "monitor", "cache", "fusion", "affinity")
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_S = 60.0  # a capture that has run for so long begins again with the shortest pause
PLAN_STOP_S = 10.0  # Faust's, which waits for a broker that is away
STOP_S = 20.0  # a role that has not ended by then is ended: more than any flush or commit waits
POLL_S = 0.1
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


def run_role(role: str, config: Path, *, verbose: bool) -> int:
    """Run a role to its end; returns the exit code."""
    setup_logging(role, verbose=verbose)
    stop = StopFlag()
    stop.install()
    follow_supervisor()
    try:
        _MAIN[role](reachable_settings(config), stop)
    except EXPECTED_ERRORS as error:
        report(error, role)
        return exit_code(error, role=True)
    except Exception as error:
        log.exception("%s failed; this is a bug", role)
        report(error, role)
        return exit_code(error, role=True)
    log.info("%s stopped", role)
    return EX_OK


def _pause_less() -> None:
    """For a role that has made its parts: a thread that computes gives way ten times sooner than Python's 5 ms, since
    others have a record in hand; and what was imported is not gone through at each full collection.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()


# ---- capture -----------------------------------------------------------------------------------


class CaptureThread(threading.Thread):
    """One stream's capture, begun again after retriable errors; `fatal` is the error that ended it."""

    def __init__(self, settings: Settings, stream: StreamConfig, stopping: Callable[[], bool]) -> None:
        super().__init__(name=f"capture {stream.name}", daemon=True)
        self.fatal: Exception | None = None
        self._settings, self._config = settings, stream
        self.stream = stream.name
        self._stopping = stopping

    def run(self) -> None:
        """Capture until stopped or failed."""
        from topologies.capture import Capture  # each role's process imports what that role needs

        attempt = 0
        while not self._stopping():
            started_s = time.monotonic()
            try:
                Capture(self._settings, self._config, self._stopping).run()
            except RetriableError as error:
                attempt = 0 if time.monotonic() - started_s >= HEALTHY_S else attempt
                self._pause(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)], error)
                attempt += 1
            except EXPECTED_ERRORS as error:
                self.fatal = error
                return
            except Exception as error:
                log.exception("stream %s: capture failed; this is a bug", self.stream)
                self.fatal = error
                return

    def _pause(self, pause_s: float, error: Exception) -> None:
        text = str(error) if self.stream in str(error) else f"stream {self.stream}: {error}"
        log.warning("%s; trying again in %.1f s", text, pause_s)
        end_s = time.monotonic() + pause_s
        while time.monotonic() < end_s and not self._stopping():
            time.sleep(POLL_S)


def _capture(settings: Settings, stop: StopFlag) -> None:
    threads = [CaptureThread(settings, stream, stop.is_set) for stream in settings.streams]
    stopped = StoppedStreams(stream.name for stream in settings.streams)
    for thread in threads:
        thread.start()
    try:
        while not stop.wait(POLL_S):
            for thread in threads:
                if thread.fatal is not None:
                    stopped.note(thread.stream, thread.fatal)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    stopped.raise_first()


# ---- plan --------------------------------------------------------------------------------------


def _plan(settings: Settings, stop: StopFlag) -> None:
    from topologies.planner import create

    _serve_faust(create, settings, stop)


class FaustRole(Protocol):
    """A role that is a Faust application; `fatal` is the error that stopped it."""

    app: faust.App

    @property
    def fatal(self) -> Exception | None:
        """The error that stopped the application, if one did."""


def _serve_faust(create: Callable[[Settings], FaustRole], settings: Settings, stop: StopFlag) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # Faust binds to the thread's loop when the application is made
    role = create(settings)
    _pause_less()
    loop.run_until_complete(_serve(role, stop))
    if role.fatal is not None:
        raise role.fatal


async def _serve(role: FaustRole, stop: StopFlag) -> None:
    """Run the Faust application without its own worker, which would take over logging and the exit code."""
    app = role.app
    app.in_worker = True
    start = asyncio.ensure_future(app.start())
    # A signal handler sets the flag, outside the loop.
    while not (stop.is_set() or app.should_stop or _failed(start)):  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    if not start.done():
        start.cancel()
    stopping = asyncio.ensure_future(app.stop())
    # The application may be stopping already, in a task of its own: wait for whatever is left.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait(others | {start, stopping}, timeout=PLAN_STOP_S)
    if not stopping.done() and stop.is_set():
        log.warning("not stopped after %.0f s (is the broker away?); it keeps no state, ending", PLAN_STOP_S)
        os._exit(EX_OK)  # Faust's threads would keep the process alive
    if role.fatal is None and not stop.is_set():
        reason = app.crash_reason or (None if start.cancelled() else start.exception())
        raise RetriableError(f"the Faust application ended: {reason!r}")


def _failed(task: asyncio.Future[None]) -> bool:
    return task.done() and task.exception() is not None


# ---- apply, monitor --------------------------------------------------------------------------------------


def _apply(settings: Settings, stop: StopFlag) -> None:
    from topologies.apply import Apply

    apply = Apply(settings, stop.is_set)
    _pause_less()
    apply.run()


def _monitor(settings: Settings, stop: StopFlag) -> None:
    from topologies.lag import Monitor

    Monitor(settings, stop.is_set).run()


# ---- cache, fusion, affinity -------------------------------------------------------------------


def _cache(settings: Settings, stop: StopFlag) -> None:
    from topologies.cache import serve

    _pause_less()
    asyncio.run(serve(settings, stop.is_set))


def _fusion(settings: Settings, stop: StopFlag) -> None:
    from topologies.fusion import create

    _serve_faust(create, settings, stop)


def _affinity(settings: Settings, stop: StopFlag) -> None:
    from topologies.affinity import create

    _serve_faust(create, settings, stop)


_MAIN: dict[str, Callable[[Settings, StopFlag], None]] = {
    "capture": _capture, "plan": _plan, "apply": _apply, "monitor": _monitor, "cache": _cache, "fusion": _fusion,
    "affinity": _affinity,
}  # fmt: skip

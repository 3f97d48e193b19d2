"""Roles that are Faust applications, run without Faust's own worker."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from headrace.console import EX_OK
from headrace.stopping import StopFlag
from pipeline.errors import RetriableError

if TYPE_CHECKING:
    import faust

log = logging.getLogger(__name__)
APP_STOP_S = 10.0  # Faust's, which waits for a broker that is away
POLL_S = 0.1


class FaustRole(Protocol):
    """A role that is a Faust application; `fatal` is the error that stopped it."""

    app: faust.App

    @property
    def fatal(self) -> Exception | None:
        """The error that stopped the application, if one did."""


def serve_faust(create: Callable[[], FaustRole], stop: StopFlag) -> None:
    """Make and run the application until stopped. Raises the error that ended it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # Faust binds to the thread's loop when the application is made
    role = create()
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
    await asyncio.wait(others | {start, stopping}, timeout=APP_STOP_S)
    if not stopping.done() and stop.is_set():
        log.warning("not stopped after %.0f s (is the broker away?); it keeps no state, ending", APP_STOP_S)
        os._exit(EX_OK)  # Faust's threads would keep the process alive
    if role.fatal is None and not stop.is_set():
        reason = app.crash_reason or (None if start.cancelled() else start.exception())
        raise RetriableError(f"the Faust application ended: {reason!r}")


def _failed(task: asyncio.Future[None]) -> bool:
    return task.done() and task.exception() is not None

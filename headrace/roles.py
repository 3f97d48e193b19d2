"""The roles as foreground processes: capture, plan, apply, monitor, cache, fusion.

**Guarantee:** a role ends with 0 on SIGTERM or SIGINT, 78 when an operator has to act, 75 when trying again
may help, 1 for anything else; it ends when the supervisor that started it dies.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from headrace.capture_role import capture
from headrace.configuration import reachable_settings
from headrace.console import EX_OK, EXPECTED_ERRORS, exit_code, report, setup_logging
from headrace.faust_role import FaustRole, serve_faust
from headrace.stopping import StopFlag, follow_supervisor
from topologies.settings import Settings

log = logging.getLogger(__name__)
SWITCH_S = 0.0005
ROLES = ("capture", "plan", "apply", "monitor", "cache", "fusion", "affinity")


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


# Each role's process imports what that role needs.


def _plan(settings: Settings, stop: StopFlag) -> None:
    from topologies.planner import create

    _faust(create, settings, stop)


def _faust(create: Callable[[Settings], FaustRole], settings: Settings, stop: StopFlag) -> None:
    def made() -> FaustRole:
        role = create(settings)
        _pause_less()
        return role

    serve_faust(made, stop)


def _apply(settings: Settings, stop: StopFlag) -> None:
    from topologies.apply import Apply

    apply = Apply(settings, stop.is_set)
    _pause_less()
    apply.run()


def _monitor(settings: Settings, stop: StopFlag) -> None:
    from topologies.lag import Monitor

    Monitor(settings, stop.is_set).run()


def _cache(settings: Settings, stop: StopFlag) -> None:
    from topologies.cache import serve

    _pause_less()
    asyncio.run(serve(settings, stop.is_set))


def _fusion(settings: Settings, stop: StopFlag) -> None:
    from topologies.fusion import create

    _faust(create, settings, stop)


def _affinity(settings: Settings, stop: StopFlag) -> None:
    from topologies.affinity import create

    _faust(create, settings, stop)


_MAIN: dict[str, Callable[[Settings, StopFlag], None]] = {
    "capture": capture, "plan": _plan, "apply": _apply, "monitor": _monitor, "cache": _cache, "fusion": _fusion,
    "affinity": _affinity,
}  # fmt: skip

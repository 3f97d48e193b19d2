"""The guardian: a small program between Headrace and one server, so that no server outlives Headrace.

It starts the server, reports on standard output, obeys commands on standard input and stops the server when
that pipe closes or its parent has changed, which is what remains of a parent killed with -9. Should the
guardian itself be killed, the kernel kills the server (PR_SET_PDEATHSIG, prctl(2)); that signal follows the
*thread* that created the server, hence a process with a single thread.

Run as `python -I -S guardian.py PLAN`: it imports the standard library only, and nothing of Headrace.

Protocol, one line each. Commands: `stop`, `stop N` (begin with signal N), `kill`. Reports: `started PID`,
`failed REASON`, `exited STATUS` (negative: the signal that ended it). The guardian ends after the last two.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TypedDict

PARENT_CHECK_S = 1.0  # a fork of the parent may hold the pipe open: its identity is checked as well
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
COMMAND_BYTES_MAX = 64


class Plan(TypedDict):
    """What to run. `stop_ladder` is tried in order: signal, seconds to wait; after it comes SIGKILL."""

    argv: list[str]
    cwd: str
    log_path: str
    uid: int | None
    gid: int | None
    death_signal: int
    stop_ladder: list[tuple[int, float]]
    parent: int


def main(plan: Plan) -> int:
    """Run the server of `plan` to its end; returns the exit status of the guardian (0: it did its work)."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not SIG_IGN, which the server would inherit. Closing the pipe is the way to end a guardian.
        signal.signal(signum, lambda *_: None)
    # What the server leaves when it is killed becomes the guardian's, to be ended and reaped.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = _spawn(plan)
    except (OSError, subprocess.SubprocessError) as error:
        _report(f"failed {error}")
        return 1
    _report(f"started {child.pid}")
    _serve(child, plan)
    _end_orphans()
    _report(f"exited {child.returncode}")
    return 0


def _spawn(plan: Plan) -> subprocess.Popen[bytes]:
    with open(plan["log_path"], "ab") as log:  # noqa: PTH123 (importing pathlib doubles the start-up time)
        return subprocess.Popen(
            plan["argv"],
            cwd=plan["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=plan["uid"],
            group=plan["gid"],
            extra_groups=None if plan["uid"] is None else [],
            preexec_fn=_die_with(os.getpid(), plan["death_signal"]),  # safe: this process has one thread
        )


def _die_with(guardian: int, death_signal: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def in_child() -> None:
        # After the change of user, which would clear it.
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != guardian:  # died in between: the signal would never come
            os._exit(1)

    return in_child


def _serve(child: subprocess.Popen[bytes], plan: Plan) -> None:
    pidfd = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(0, select.POLLIN | select.POLLHUP)
    while True:
        ready = [fd for fd, _ in poll.poll(PARENT_CHECK_S * 1000)]
        if pidfd in ready:
            child.wait()
            return
        if 0 in ready or os.getppid() != plan["parent"]:
            command = os.read(0, COMMAND_BYTES_MAX).decode().split() if 0 in ready else []
            _end(child, plan["stop_ladder"], command)
            return


def _end(child: subprocess.Popen[bytes], ladder: list[tuple[int, float]], command: list[str]) -> None:
    """End the child: the ladder by default, from signal N on for `stop N`, at once for `kill`."""
    steps = [] if command[:1] == ["kill"] else list(ladder)
    if len(command) == 2:
        first = int(command[1])
        known = [step for step in steps if step[0] == first]
        steps = steps[steps.index(known[0]) :] if known else [(first, ladder[0][1]), *steps]
    for signum, wait_s in steps:
        child.send_signal(signum)
        if _gone_within(child, wait_s):
            return
    child.kill()
    child.wait()


def _gone_within(child: subprocess.Popen[bytes], wait_s: float) -> bool:
    poll = select.poll()
    pidfd = os.pidfd_open(child.pid)
    poll.register(pidfd, select.POLLIN)
    try:
        if not poll.poll(wait_s * 1000):
            return False
    finally:
        os.close(pidfd)
    child.wait()
    return True


def _end_orphans() -> None:
    """End what the server has left behind: PostgreSQL's backends, for instance, outlive a killed server."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    everybody = os.listdir("/proc")  # noqa: PTH208 (as above)
    return [int(pid) for pid in everybody if pid.isdecimal() and _parent_of(pid) == os.getpid()]


def _parent_of(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 (as above)
            return int(stat.read().rpartition(b")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return None


def _report(line: str) -> None:
    with contextlib.suppress(OSError):  # the parent is gone: nobody to tell
        os.write(1, line.replace("\n", " ").encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

"""Guarded processes: how they end, and that they never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.embedded import Command, EmbeddedError, GuardedProcess, ProcessId
from headrace.embedded.process_id import processes_in, wait_gone
from tests.support.waiting import until

GONE_TIMEOUT_S = 30.0
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


def command(tmp_path: Path, argv: list[str], stop_s: float = 30.0) -> Command:
    return Command(
        name="a test program",
        argv=argv,
        cwd=tmp_path,
        log_path=tmp_path / "log",
        stop_ladder=((signal.SIGTERM, stop_s),),
    )


def await_log(tmp_path: Path, text: str) -> None:
    until(lambda: text in (tmp_path / "log").read_text(), timeout_s=GONE_TIMEOUT_S)


def test_the_status_of_a_program_that_ends_by_itself(tmp_path: Path) -> None:
    process = GuardedProcess(command(tmp_path, [sys.executable, "-c", "print('hello'); raise SystemExit(7)"]))
    until(lambda: process.poll() is not None, timeout_s=GONE_TIMEOUT_S)
    assert process.poll() == 7
    assert process.stop() == 7
    assert (tmp_path / "log").read_text() == "hello\n"


def test_stop_uses_the_first_signal_of_the_ladder(tmp_path: Path) -> None:
    assert GuardedProcess(command(tmp_path, SLEEPER)).stop() == -signal.SIGTERM


def test_stop_may_begin_with_another_signal(tmp_path: Path) -> None:
    assert GuardedProcess(command(tmp_path, SLEEPER)).stop(signal.SIGQUIT) == -signal.SIGQUIT


def test_a_program_that_ignores_the_ladder_is_killed(tmp_path: Path) -> None:
    process = GuardedProcess(command(tmp_path, STUBBORN, stop_s=0.1))
    await_log(tmp_path, "up")
    assert process.stop() == -signal.SIGKILL


def test_kill(tmp_path: Path) -> None:
    process = GuardedProcess(command(tmp_path, SLEEPER))
    assert process.kill() == -signal.SIGKILL
    assert ProcessId.of(process.pid) is None


def test_what_a_killed_program_leaves_behind_is_ended(tmp_path: Path) -> None:
    nested = f"import subprocess; subprocess.Popen({SLEEPER!r}); print('up', flush=True); input()"
    script = [sys.executable, "-c", f"import time\n{nested.replace('input()', 'time.sleep(600)')}"]
    process = GuardedProcess(command(tmp_path, script))
    await_log(tmp_path, "up")
    assert len(processes_in(tmp_path)) == 2
    process.kill()
    assert processes_in(tmp_path) == []


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"Cannot run a test program: .*No such file"):
        GuardedProcess(command(tmp_path, [str(tmp_path / "nothing")]))


@pytest.mark.faults
def test_the_program_ends_with_its_guardian(tmp_path: Path) -> None:
    process = GuardedProcess(command(tmp_path, SLEEPER))
    child = ProcessId.of(process.pid)
    assert child is not None
    os.kill(process._guardian.pid, signal.SIGKILL)
    assert wait_gone([child], GONE_TIMEOUT_S)
    assert process.stop() == -signal.SIGKILL


@pytest.mark.faults
def test_the_program_ends_with_a_parent_whose_fork_keeps_the_pipe_open(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys, time\n"
        "from tests.embedded.test_process import SLEEPER, command\n"
        "from headrace.embedded import GuardedProcess\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "process = GuardedProcess(command(path, SLEEPER))\n"
        "if os.fork() == 0:\n"
        "    time.sleep(5)\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = ProcessId.of(int(parent.stdout.readline()))
        assert child is not None
        parent.kill()
        assert wait_gone([child], GONE_TIMEOUT_S)


def test_a_pid_given_again_is_another_process() -> None:
    me = ProcessId.current()
    assert me.alive()
    assert not ProcessId(pid=me.pid, started=me.started + 1).alive()

"""The script of CI: only a test that ran can fail it; a machine or a time that allows no containers is told.

The script is real; `make`, `docker/build` and `docker/engine` are stand-ins that note how they were called.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.environment import without_headrace

SCRIPT = Path(__file__).parents[2] / ".ci" / "run"
SKIPPED = "THE TESTS WITH CONTAINERS ARE SKIPPED"
NOTE = 'echo "$(basename "$0") $* until=${HEADRACE_CONTAINERS_UNTIL:+set}" >> "$CALLS"\n'
PROGRAMS = {
    "bin/make": NOTE + 'case $1 in test) exit "$CHECKS" ;; esac\n[ "$TESTS" != hang ] || exec sleep 100\nexit "$TESTS"',
    "docker/build": NOTE + 'echo HEADRACE_IMAGE=headrace:1\nexit "$BUILD"',
    "docker/engine": NOTE
    + 'case $1 in running) exit "$RUNNING" ;; start) exit "$START" ;; check) exit "$CHECK" ;; esac',
    ".venv/bin/pytest": NOTE + 'echo "skips: $HEADRACE_SKIP_CONTAINERS"',
}
WELL = {"CHECKS": "0", "RUNNING": "1", "START": "0", "BUILD": "0", "CHECK": "0", "TESTS": "0"}


@dataclass(frozen=True, slots=True)
class Run:
    """How the script ended, what it said, what it called."""

    code: int
    said: str
    calls: list[str]


class Script:
    """A copy of the script among stand-ins; `run` takes their exit codes."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._calls = directory, directory / "calls"
        (directory / ".ci").mkdir()
        shutil.copy(SCRIPT, directory / ".ci" / "run")
        for name, text in PROGRAMS.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)

    def run(self, *arguments: str, **variables: str) -> Run:
        self._calls.write_text("")
        path = f"{self._directory}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            [self._directory / ".ci" / "run", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            env={**without_headrace(), **WELL, **variables, "PATH": path, "CALLS": str(self._calls)},
        )  # fmt: skip
        return Run(done.returncode, done.stdout, self._calls.read_text().splitlines())


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def test_containers_come_after_the_other_tests_and_the_engine_is_ended(script: Script) -> None:
    done = script.run()
    assert done.code == 0, done.said
    assert [call.split()[:2] for call in done.calls] == [
        ["make", "test"], ["engine", "running"], ["engine", "start"], ["build", "until="], ["engine", "check"],
        ["make", "test-containers"], ["engine", "stop"],
    ]  # fmt: skip
    assert "engine check headrace:1 until=" in done.calls
    assert "make test-containers until=set" in done.calls


def test_containers_can_be_left_out(script: Script) -> None:
    assert script.run("tests").calls == ["make test until="]


def test_an_engine_that_runs_already_is_left_running(script: Script) -> None:
    done = script.run(RUNNING="0")
    assert done.code == 0, done.said
    assert not [call for call in done.calls if call.startswith(("engine start", "engine stop"))]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"START": "1"}, "no container engine can be started here"),
        ({"BUILD": "1"}, "no images can be built here"),
        ({"CHECK": "1"}, "the engine does not do here what the tests need"),
        ({"HEADRACE_CI_LIMIT_S": "300"}, "of 300 s are left"),
        ({"TESTS": "2"}, "the container engine has died"),
    ],
)
def test_a_machine_without_containers_is_told_and_does_not_fail(
    script: Script, trouble: dict[str, str], reason: str
) -> None:
    done = script.run(**trouble)
    assert done.code == 0, done.said
    assert f"{SKIPPED}: " in done.said
    assert reason in done.said
    assert done.said.splitlines()[-1].startswith("skips: ")


def test_tests_that_run_out_of_time_do_not_fail(script: Script, tmp_path: Path) -> None:
    path = tmp_path / ".ci" / "run"
    shares = {"engine_s=120": "engine_s=3", "check_s=60": "check_s=3", "tests_s=240": "tests_s=1"}
    for share, shorter in shares.items():
        assert f"\n{share}" in path.read_text()
        path.write_text(path.read_text().replace(f"\n{share}", f"\n{shorter}"))
    done = script.run(TESTS="hang", HEADRACE_CI_LIMIT_S="9")
    assert done.code == 0, done.said
    assert SKIPPED in done.said


@pytest.mark.parametrize("failure", [{"CHECKS": "2"}, {"TESTS": "2", "RUNNING": "0"}])
def test_a_test_that_fails_is_a_failure(script: Script, failure: dict[str, str]) -> None:
    done = script.run(**failure)
    assert done.code == 2, done.said
    assert SKIPPED not in done.said


@pytest.mark.parametrize("trouble", [{"START": "1"}, {"TESTS": "2"}])
def test_the_job_of_its_own_fails_without_an_engine(script: Script, trouble: dict[str, str]) -> None:
    done = script.run("containers", **trouble)
    assert done.code != 0, done.said
    assert SKIPPED not in done.said

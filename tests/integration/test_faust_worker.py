"""The planner started by Faust's own command, as its users start an application."""

from __future__ import annotations

import sys

import pytest

from headrace.console import EX_OK
from tests.support.fixtures import MakeRig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]
WORKER = [sys.executable, "-m", "faust", "-A", "topologies.planner", "worker", "--without-web"]


def test_faust_runs_the_planner(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.programs["plan"] = WORKER
    rig.environment["plan"] = {"HEADRACE_CONFIG": str(rig.config_path)}
    rig.both("CREATE TABLE t (id int PRIMARY KEY, value int)")
    rig.source("INSERT INTO t SELECT n, 0 FROM generate_series(1, 10) n")
    rig.start()
    rig.wait_until_equal()
    rig.source("UPDATE t SET value = id", "DELETE FROM t WHERE id = 3")
    rig.wait_until_equal()
    rig.kill("plan")  # its successor goes on where it was
    rig.source("INSERT INTO t VALUES (11, 11)")
    rig.wait_until_equal()
    assert rig.stop("plan") == [EX_OK]

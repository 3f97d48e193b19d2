"""When a test with containers may be skipped: hooks of pytest, for a conftest file.

Without an engine the tests are skipped, with the reason; with HEADRACE_REQUIRE_DOCKER=1 such a skip is a failure.
CI skips them on purpose: all of them, for the reason in HEADRACE_SKIP_CONTAINERS, or those that would begin after
HEADRACE_CONTAINERS_UNTIL (Unix time in seconds).
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator

import pytest

ENV_REQUIRED = "HEADRACE_REQUIRE_DOCKER"  # that of headrace.testing.fixtures, without all that it imports
ENV_SKIP, ENV_UNTIL = "HEADRACE_SKIP_CONTAINERS", "HEADRACE_CONTAINERS_UNTIL"
ON_PURPOSE = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    reason, until_s = os.environ.get(ENV_SKIP), os.environ.get(ENV_UNTIL)
    if until_s is not None and time.time() > float(until_s):
        reason = f"the time for tests with containers is over ({ENV_UNTIL})"
    if reason and item.get_closest_marker("containers"):
        item.stash[ON_PURPOSE] = True
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    forbidden = os.environ.get(ENV_REQUIRED) == "1" and not item.stash.get(ON_PURPOSE, False)
    if report.skipped and forbidden and item.get_closest_marker("containers"):
        report.outcome = "failed"
        report.longrepr = f"{ENV_REQUIRED}=1 and the test was skipped: {report.longrepr}"
    return report

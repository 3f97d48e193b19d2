"""Fixtures of the container tests: servers for the session, a bank for a module's tests.

Without an engine the tests are skipped, with the reason; with HEADRACE_REQUIRE_DOCKER=1 any skip is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from headrace.testing.container_parts import ContainerParts
from headrace.testing.fixtures import (
    ENV_REQUIRED,
    headrace_kafka,
    headrace_parts,
    headrace_source,
    headrace_stream,
    headrace_target,
    require_engine,
)
from tests.integration.containers.rig import ContainerRig
from tests.support.bank import create_bank

__all__ = ["headrace_kafka", "headrace_parts", "headrace_source", "headrace_stream", "headrace_target"]

APPLY = 3


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get(ENV_REQUIRED) == "1" and item.get_closest_marker("containers"):
        report.outcome = "failed"
        report.longrepr = f"{ENV_REQUIRED}=1 and the test was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    require_engine()


@pytest.fixture(scope="session")
def parts(headrace_parts: ContainerParts) -> ContainerParts:
    """Kafka, PostgreSQL 17 as source, PostgreSQL 18 as target."""
    return headrace_parts


@pytest.fixture(scope="module")
def bank(parts: ContainerParts) -> Iterator[ContainerRig]:
    """A running stream with the tables of the bank; three apply containers share its lanes."""
    with ContainerRig(parts) as rig:
        create_bank(rig)
        rig.start_roles({"capture": 1, "plan": 1, "apply": APPLY})
        rig.wait_until_equal()
        yield rig

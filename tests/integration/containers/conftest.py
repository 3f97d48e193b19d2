"""Fixtures of the container tests: servers for the session, a bank for a module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.testing.container_parts import ContainerParts
from headrace.testing.fixtures import (
    headrace_kafka,
    headrace_parts,
    headrace_source,
    headrace_stream,
    headrace_target,
    require_engine,
)
from tests.integration.containers.rig import ContainerRig
from tests.support.bank import create_bank
from tests.support.container_skips import pytest_runtest_makereport, pytest_runtest_setup

__all__ = [
    "headrace_kafka", "headrace_parts", "headrace_source", "headrace_stream", "headrace_target",
    "pytest_runtest_makereport", "pytest_runtest_setup",
]  # fmt: skip

APPLY = 3


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
    with ContainerRig(parts, cached=["public.account"]) as rig:
        create_bank(rig)
        rig.start_roles({"capture": 1, "plan": 1, "apply": APPLY, "monitor": 1})
        rig.wait_until_equal()
        yield rig

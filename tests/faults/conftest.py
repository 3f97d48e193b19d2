"""Fixtures of the fault tests. Those marked `long` run only when `make faults` asks for them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.embedded import EmbeddedPostgres
from tests.conftest import PG_SETTINGS
from tests.support.fixtures import make_rig, shared_rig
from tests.support.reported import ENV_LONG

__all__ = ["make_rig", "shared_rig"]


@pytest.fixture
def own_dir(server_dir: Path, request: pytest.FixtureRequest) -> Path:
    """A directory for servers of this test's own."""
    directory = server_dir / f"{request.node.name}-{uuid.uuid4().hex[:4]}"  # another one when the test is run once more
    directory.mkdir()
    return directory


@pytest.fixture
def own_pg(own_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A server that the test may kill."""
    with EmbeddedPostgres(own_dir, settings=PG_SETTINGS) as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes long."""
    if ENV_LONG not in os.environ:
        for item in items:
            if item.get_closest_marker("long") is not None:
                item.add_marker(pytest.mark.skip(reason="takes long: make faults"))

"""Fixtures of the fault tests. Those marked `long` run only when `make faults` asks for them."""

from __future__ import annotations

import os

import pytest

from tests.support.fixtures import make_rig, shared_rig

__all__ = ["make_rig", "shared_rig"]
ENV_LONG = "HEADRACE_LONG_TESTS"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes long."""
    if ENV_LONG not in os.environ:
        for item in items:
            if item.get_closest_marker("long") is not None:
                item.add_marker(pytest.mark.skip(reason="takes long: make faults"))

"""Fixtures of the integration tests."""

from __future__ import annotations

from tests.support.fixtures import make_rig, shared_rig

__all__ = ["make_rig", "shared_rig"]

"""Small histories on many lanes: a window is spread however small it is."""

from __future__ import annotations

from tests.properties.conftest import fine_grain

__all__ = ["fine_grain"]

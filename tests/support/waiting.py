"""Waiting for what has no notice of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT_S = 40.0  # long enough for a busy machine
LOOK_S = 0.02


def until(condition: Callable[[], object], tell: Callable[[], str] | str = "", timeout_s: float = WAIT_S) -> None:
    """Wait until `condition` holds; fails with what `tell` says then."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"not in {timeout_s} s: {tell if isinstance(tell, str) else tell()}"
        time.sleep(LOOK_S)

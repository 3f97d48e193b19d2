"""The environment of programs that a test starts."""

from __future__ import annotations

import os


def without_headrace() -> dict[str, str]:
    """This process's environment without what the run of the tests was told by variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}

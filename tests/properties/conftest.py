"""Small windows are spread over the lanes here, however small they are.

`pytest --hypothesis-profile=long tests/properties` looks much longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import lanes

LONG_S = 900  # for a test with the fifty times as many examples of the long profile


@pytest.fixture(scope="module", autouse=True)
def fine_grain() -> Iterator[None]:
    """Spread a window over the lanes however small it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "GRAIN_TRANSACTIONS", 1)
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests of this folder the time that the long profile takes."""
    if config.getoption("--hypothesis-profile", None) == "long":
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.timeout(LONG_S))

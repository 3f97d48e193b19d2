"""Small windows are spread over the lanes here, however small they are.

`pytest --hypothesis-profile=long tests/properties` looks much longer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline import lanes


@pytest.fixture(scope="module", autouse=True)
def fine_grain() -> Iterator[None]:
    """Spread a window over the lanes however small it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "GRAIN_TRANSACTIONS", 1)
        yield

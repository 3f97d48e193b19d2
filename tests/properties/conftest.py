"""How Hypothesis runs here: no deadline, since the machine may be busy; enough examples for every commit.

`pytest --hypothesis-profile=long tests/properties` looks much longer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from pipeline import lanes

settings.register_profile(
    "headrace", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("long", settings.get_profile("headrace"), max_examples=3000)
settings.load_profile("headrace")


@pytest.fixture(scope="module", autouse=True)
def fine_grain() -> Iterator[None]:
    """Spread a window over the lanes however small it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "GRAIN_TRANSACTIONS", 1)
        yield

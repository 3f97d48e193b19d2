"""How Hypothesis runs here: no deadline, since the machine may be busy; enough examples for every commit.

`pytest --hypothesis-profile=long tests/properties` looks much longer.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "headrace", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("long", settings.get_profile("headrace"), max_examples=3000)
settings.load_profile("headrace")

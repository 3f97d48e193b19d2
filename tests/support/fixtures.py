"""Fixtures of the tests that run whole streams; their conftest files import them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace.embedded import EmbeddedKafka
from tests.support.rig import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(kafka: EmbeddedKafka, source_db: str, target_db: str, tmp_path: Path) -> Iterator[MakeRig]:
    """Make a rig between this test's databases; everything it starts ends with the test."""
    with ExitStack() as stack:

        def make(**settings: dict[str, object]) -> Rig:
            return stack.enter_context(Rig(tmp_path, kafka.bootstrap_servers, source_db, target_db, **settings))

        yield make

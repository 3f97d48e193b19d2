"""Fixtures of the tests that run whole streams; their conftest files import them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from headrace.embedded import EmbeddedKafka, EmbeddedPostgres
from tests.conftest import fresh_database
from tests.support.reported import FAULTS, PEAKS
from tests.support.rig import Rig

MakeRig = Callable[..., Rig]


class SharedRig(Protocol):
    """Makes a rig for the tests of a module: between two new databases, with the given tables on both."""

    def __call__(self, *tables: str, **settings: dict[str, object]) -> Rig: ...


@pytest.fixture
def make_rig(
    kafka: EmbeddedKafka, source_db: str, target_db: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[MakeRig]:
    """Make a rig between this test's databases (or other servers); everything it starts ends with the test."""
    faults: Counter[str] = Counter()
    peaks: dict[str, int] = {}
    with ExitStack() as stack:

        def make(
            *,
            servers: str = "",
            source_dsn: str = source_db,
            target_dsn: str = target_db,
            **settings: dict[str, object],
        ) -> Rig:
            rig = Rig(tmp_path, servers or kafka.bootstrap_servers, source_dsn, target_dsn, **settings)
            stack.callback(lambda: (faults.update(rig.faults), peaks.update(rig.peak_mib)))
            return stack.enter_context(rig)

        yield make
    request.node.user_properties.append((FAULTS, dict(faults)))  # a worker can send a plain dict alone
    request.node.user_properties.append((PEAKS, peaks))


@pytest.fixture(scope="module")
def shared_rig(
    kafka: EmbeddedKafka,
    source_pg: EmbeddedPostgres,
    target_pg: EmbeddedPostgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SharedRig]:
    """Make rigs that live as long as the module's tests, each with databases of its own.

    A stream takes seconds to start; tests of single statements share one, with tables of their own.
    """
    with ExitStack() as stack:

        def make(*tables: str, **settings: dict[str, object]) -> Rig:
            source, target = (stack.enter_context(fresh_database(server)) for server in (source_pg, target_pg))
            directory = tmp_path_factory.mktemp("rig")
            rig = stack.enter_context(Rig(directory, kafka.bootstrap_servers, source, target, **settings))
            rig.both(*tables)
            return rig

        yield make

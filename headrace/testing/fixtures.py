"""pytest fixtures. In a conftest.py: `pytest_plugins = ["headrace.testing.fixtures"]`.

`HEADRACE_TEST_PARTS` says what they are made of: `containers` (default) or `embedded`. A project that needs other
images, or servers of its own, defines a fixture `headrace_parts` itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace.testing.engine import engine_missing
from headrace.testing.parts import Addresses, Parts
from headrace.testing.stream import Stream

ENV_PARTS = "HEADRACE_TEST_PARTS"
ENV_REQUIRED = "HEADRACE_REQUIRE_DOCKER"

MakeStream = Callable[..., Stream]


@pytest.fixture(scope="session")
def headrace_parts() -> Iterator[Parts]:
    """Kafka, a source and a target server, for the whole session."""
    chosen = os.environ.get(ENV_PARTS, "containers")
    if chosen == "embedded":
        yield from _embedded()
    elif chosen == "containers":
        require_engine()
        from headrace.testing.container_parts import ContainerParts

        with ContainerParts() as parts:
            yield parts
    else:
        raise pytest.UsageError(f"{ENV_PARTS}={chosen}: it is containers or embedded")


def _embedded() -> Iterator[Parts]:
    from headrace.testing.embedded import EmbeddedParts

    # Not pytest's own directory, which no other system user may enter.
    directory = Path(tempfile.mkdtemp(prefix="headrace-test-"))
    try:
        with EmbeddedParts(directory) as parts:
            yield parts
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def require_engine() -> None:
    """Skip the test where no container engine is, with the reason; fail it if HEADRACE_REQUIRE_DOCKER is 1."""
    reason = engine_missing()
    if reason is None:
        return
    if os.environ.get(ENV_REQUIRED) == "1":
        pytest.fail(f"{ENV_REQUIRED}=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def headrace_kafka(headrace_parts: Parts) -> Addresses:
    """The session's broker."""
    return headrace_parts.kafka


@pytest.fixture
def headrace_source(headrace_parts: Parts) -> Iterator[Addresses]:
    """A new database on the source server."""
    with headrace_parts.source_database() as addresses:
        yield addresses


@pytest.fixture
def headrace_target(headrace_parts: Parts) -> Iterator[Addresses]:
    """A new database on the target server."""
    with headrace_parts.target_database() as addresses:
        yield addresses


@pytest.fixture
def headrace_stream(headrace_parts: Parts) -> Iterator[MakeStream]:
    """Make running streams: `headrace_stream(*ddl, source={...}, target={...})` creates the tables on both sides.

    Everything they start ends with the test.
    """
    with ExitStack() as stack:

        def make(
            *ddl: str, source: Mapping[str, object] | None = None, target: Mapping[str, object] | None = None
        ) -> Stream:
            stream = stack.enter_context(Stream(headrace_parts, source=source, target=target))
            stream.create(*ddl)
            stream.start()
            return stream

        yield make

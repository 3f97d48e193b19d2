"""The parts without containers, and the assertion in both its outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from headrace.testing import Parts, assert_replicated
from headrace.testing.embedded import EmbeddedParts
from headrace.testing.fixtures import MakeStream, headrace_stream

__all__ = ["headrace_stream"]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def headrace_parts(server_dir: Path) -> Iterator[Parts]:
    with EmbeddedParts(server_dir / "parts") as parts:  # the session has servers of its own beside it
        yield parts


def test_a_stream_is_replicated_and_a_difference_is_told(headrace_stream: MakeStream) -> None:
    stream = headrace_stream("CREATE TABLE orders (id int PRIMARY KEY, amount int)")
    stream.write("INSERT INTO orders SELECT n, n FROM generate_series(1, 100) n")
    assert_replicated(stream)
    assert_replicated(stream, "public.orders")
    with psycopg.connect(stream.target_dsn) as conn:
        conn.execute("UPDATE orders SET amount = -1 WHERE id = 7")
    with pytest.raises(AssertionError, match=r"public\.orders: 2 rows differ"):
        assert_replicated(stream)
    with pytest.raises(AssertionError, match="not replicated"):
        assert_replicated(stream, "public.absent")
    stream.stop()
    stream.write("UPDATE orders SET amount = 1 WHERE id = 8")
    with pytest.raises(AssertionError, match="not caught up"):
        assert_replicated(stream, timeout_s=1.0)

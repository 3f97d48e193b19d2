"""The fixtures as a project uses them that tests its own stream."""

from __future__ import annotations

import psycopg
import pytest

from headrace.testing import Addresses, assert_replicated
from headrace.testing.fixtures import MakeStream

pytestmark = [pytest.mark.containers, pytest.mark.timeout(120)]

ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, amount numeric)"


def test_a_stream_is_replicated(headrace_stream: MakeStream) -> None:
    stream = headrace_stream(ORDERS, target={"lanes": 2})
    stream.write("INSERT INTO orders SELECT n, n * 1.5 FROM generate_series(1, 1000) n")
    stream.write("UPDATE orders SET amount = 0 WHERE id % 10 = 0", "DELETE FROM orders WHERE id > 900")
    assert_replicated(stream)


def test_servers_alone(headrace_kafka: Addresses, headrace_source: Addresses, headrace_target: Addresses) -> None:
    assert headrace_kafka.headrace == "kafka:9092"
    for database in (headrace_source, headrace_target):
        with psycopg.connect(database.test) as conn:
            assert conn.execute("SHOW wal_level").fetchone() == ("logical",)

"""Values of PostgreSQL as JSON: also those that neither Python's types nor JSON's numbers can hold."""

from __future__ import annotations

import json
import struct

import pytest

from connectors.postgres.values import decode_row
from schemas.change_batch import Column, Relation
from schemas.rows import pack_row

DAY_US = 86_400_000_000


def interval(micros: int, days: int, months: int) -> bytes:
    return struct.pack("!qii", micros, days, months)


@pytest.mark.parametrize(
    ("kind", "data", "shown"),
    [
        ("timestamptz", struct.pack("!q", 0), "2000-01-01T00:00:00+00:00"),
        ("timestamptz", struct.pack("!q", 2**63 - 1), "infinity"),
        ("timestamp", struct.pack("!q", -(2**63)), "-infinity"),
        ("date", struct.pack("!i", 2**31 - 1), "infinity"), ("date", struct.pack("!i", -(2**31)), "-infinity"),
        ("date", struct.pack("!i", 3_000_000), "\\x002dc6c0"),  # the year 10213
        ("time", struct.pack("!q", DAY_US), "\\x000000141dd76000"),  # 24:00
        ("interval", interval(0, 0, 1), "P1M"), ("interval", interval(0, 30, 0), "P30D"),
        ("interval", interval(4_500_000, 3, 14), "P14M3DT4.5S"), ("interval", interval(0, 0, 0), "PT0S"),
        ("interval", interval(-1, -2, -3), "P-3M-2DT-0.000001S"), ("interval", interval(3600_000_000, 0, 0), "PT3600S"),
        ("interval", interval(2**63 - 1, 2**31 - 1, 2**31 - 1), "infinity"),
        ("interval", interval(-(2**63), -(2**31), -(2**31)), "-infinity"),
        ("float8", struct.pack("!d", float("nan")), "NaN"), ("float4", struct.pack("!f", float("-inf")), "-Infinity"),
        ("float8", struct.pack("!d", 0.1), 0.1), ("int8", struct.pack("!q", 2**62), 2**62),
        ("_interval", struct.pack("!iiiiii", 1, 0, 1186, 1, 1, 16) + interval(0, 0, 1), ["P1M"]),
    ],
)  # fmt: skip
def test_a_value_as_json(kind: str, data: bytes, shown: object) -> None:
    relation = Relation(0, "public", "t", "d", (Column("c", kind, key=False, binary=True),))
    found = decode_row(relation, pack_row([data]))
    assert found == {"c": shown}
    json.dumps(found, allow_nan=False)

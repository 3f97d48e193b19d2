"""Loaders for values that Python's own types do not hold: intervals, infinite dates and those after the year 9999.

psycopg makes thirty days of a month, and refuses the others.
"""

from __future__ import annotations

import struct
from decimal import Decimal

import psycopg
from psycopg import DataError
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import Format
from psycopg.types import datetime as dates

_INTERVAL = struct.Struct("!qii")  # microseconds, days, months
_MOMENTS = {
    "date": dates.DateBinaryLoader, "time": dates.TimeBinaryLoader, "timetz": dates.TimetzBinaryLoader,
    "timestamp": dates.TimestampBinaryLoader, "timestamptz": dates.TimestamptzBinaryLoader,
}  # fmt: skip


class IntervalText(Loader):
    """An interval as ISO 8601 has it, its three parts as PostgreSQL keeps them: `P14M3DT4.5S`."""

    format = Format.BINARY

    def load(self, data: Buffer) -> str:
        """The text; zero parts are left out."""
        parts = micros, days, months = _INTERVAL.unpack(data)
        if parts == (2**63 - 1, 2**31 - 1, 2**31 - 1):
            return "infinity"
        if parts == (-(2**63), -(2**31), -(2**31)):
            return "-infinity"
        seconds = Decimal(micros).scaleb(-6).normalize()
        day = f"{months}M" * bool(months) + f"{days}D" * bool(days)
        return f"P{day}" + (f"T{seconds:f}S" if micros or not day else "")


def _or_text(base: type[Loader]) -> type[Loader]:
    """A loader of dates or times that gives text for what `base` refuses."""

    class MomentOrText(base):  # type: ignore[misc, valid-type]
        def load(self, data: Buffer) -> object:
            try:
                return super().load(data)
            except DataError:
                return _moment_text(bytes(data))

    return MomentOrText


def _moment_text(data: bytes) -> str:
    """Infinity is the type's greatest integer; what else Python refuses is shown as its bytes."""
    greatest = (1 << 8 * len(data) - 1) - 1
    known = {greatest: "infinity", -greatest - 1: "-infinity"}
    return known.get(int.from_bytes(data, "big", signed=True), "\\x" + data.hex())


def adapters() -> AdaptersMap:
    """psycopg's adapters with these loaders."""
    made = AdaptersMap(psycopg.adapters)
    made.register_loader("interval", IntervalText)
    for name, base in _MOMENTS.items():
        made.register_loader(name, _or_text(base))  # type: ignore[type-abstract]  # all of them are concrete
    return made

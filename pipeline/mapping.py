"""How source names become target names, and which columns travel: as they are, hashed, or not at all.

The capture applies all of it, so that what is left out or hashed never leaves the source's side.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase

from pipeline.catalogue import TableName
from pipeline.errors import ConfigError

HASH_TYPE = "text"  # of a hashed column: 64 hexadecimal digits
SECRET_BYTES_MIN = 16


class ColumnUse(Enum):
    """What happens to a column."""

    KEEP = "keep"
    HASH = "hash"
    LEAVE_OUT = "leave out"


@dataclass(frozen=True, slots=True)
class TableMapping:
    """Names and columns of a stream.

    `rename` maps `schema` or `schema.table` to another; the other patterns are shell-style, on
    `schema.table.column` of the source. `secret` is the key of the hashes: never shown.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    exclude_columns: tuple[str, ...] = ()
    hash_columns: tuple[str, ...] = ()
    secret: bytes = field(default=b"", repr=False)

    def target_name(self, name: TableName) -> TableName:
        """The table's name on the target. A table's own entry goes before its schema's."""
        own = self.rename.get(".".join(name))
        if own is None:
            return self.rename.get(name[0], name[0]), name[1]
        schema, dot, table = own.partition(".")
        if not dot or not schema or not table:
            raise ConfigError(f"mapping.rename: {'.'.join(name)!r} becomes {own!r}, which is no `schema.table`")
        return schema, table

    def use(self, name: TableName, column: str) -> ColumnUse:
        """What happens to a column of the source's table."""
        dotted = ".".join((*name, column))
        if any(fnmatchcase(dotted, pattern) for pattern in self.exclude_columns):
            return ColumnUse.LEAVE_OUT
        if any(fnmatchcase(dotted, pattern) for pattern in self.hash_columns):
            return ColumnUse.HASH
        return ColumnUse.KEEP

    def uses(self, name: TableName, columns: Iterable[str]) -> list[ColumnUse]:
        """What happens to each column."""
        if not self.exclude_columns and not self.hash_columns:
            return [ColumnUse.KEEP for _ in columns]
        return [self.use(name, column) for column in columns]

    def hashed(self, text: bytes) -> bytes:
        """HMAC-SHA-256 of a value's text, in hexadecimal digits (RFC 2104, FIPS 180-4)."""
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest().encode()

    def require_distinct(self, names: Iterable[TableName]) -> None:
        """Raise ConfigError when two tables would become one."""
        seen: dict[TableName, TableName] = {}
        for name in names:
            other = seen.setdefault(self.target_name(name), name)
            if other != name:
                both = f"{'.'.join(other)} and {'.'.join(name)}"
                raise ConfigError(f"mapping.rename: {both} would both become {'.'.join(self.target_name(name))}")


def check_key(name: TableName, columns: Iterable[tuple[str, bool]], mapping: TableMapping) -> None:
    """Raise ConfigError when a column of the key is left out: rows could not be found on the target.

    `columns` are names with their key flags.
    """
    for column, key in columns:
        if key and mapping.use(name, column) is ColumnUse.LEAVE_OUT:
            raise ConfigError(
                f"mapping.exclude_columns: {'.'.join((*name, column))} belongs to the table's key and can't be left "
                "out; hash it instead, or choose another key (REPLICA IDENTITY USING INDEX)"
            )

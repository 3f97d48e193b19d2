"""Which tables a stream replicates: shell-style patterns on `schema.table`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from pipeline.catalogue import TableName
from pipeline.errors import ConfigError

_SYSTEM_SCHEMAS = ("pg_catalog", "information_schema", "headrace")


def selected(name: TableName, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether the patterns choose the table."""
    dotted = ".".join(name)
    if name[0] in _SYSTEM_SCHEMAS or any(fnmatchcase(dotted, pattern) for pattern in exclude):
        return False
    return any(fnmatchcase(dotted, pattern) for pattern in include)


def select_tables(names: Iterable[TableName], include: Sequence[str], exclude: Sequence[str]) -> list[TableName]:
    """Return the chosen tables, sorted.

    Raises ConfigError for an include pattern that chooses nothing: a misspelt table must not be left out
    in silence.
    """
    there = sorted(names)
    chosen = [name for name in there if selected(name, include, exclude)]
    for pattern in include:
        if not any(selected(name, [pattern], ()) for name in there):
            raise ConfigError(
                f"tables: {pattern!r} matches no table of the source database; it has: "
                f"{', '.join('.'.join(name) for name in there[:20]) or 'none'}. Correct `tables` or create the table."
            )
    return chosen

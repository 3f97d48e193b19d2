"""`headrace resync --table`: copy single tables anew while their stream goes on.

**Guarantee:** the copy replaces the table's rows in one target transaction, at its exact place in the stream. From the
request to there the table's changes are left out; those of all other tables arrive once, as ever.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from headrace.streams import dead_letters, open_ledger, source_admin, target_admin
from pipeline.catalogue import Catalogue, TableName
from pipeline.errors import ConfigError
from schemas.change_batch_codec import decode_batch
from topologies.stream_settings import StreamConfig


def planned_table_resync(stream: StreamConfig, texts: Sequence[str]) -> list[str]:
    """What `resync_tables` would do, a line each. Raises ConfigError when it could not."""
    names = _named(stream, texts)
    _require_possible(stream, names)
    tables = ", ".join(map(".".join, names))
    cost = "the changes of other tables wait while it runs"
    return [
        f"leave out what stream {stream.name} has of {tables} from now on",
        f"copy {tables} anew in one target transaction, which REPLACES all rows at the target; {cost}",
    ]


def resync_tables(stream: StreamConfig, texts: Sequence[str]) -> list[str]:
    """Ask for it; returns what was done. The roles may run. Raises ConfigError, RetriableError."""
    names = _named(stream, texts)
    _require_possible(stream, names)
    lines: list[str] = []
    if stream.target.create_tables == "missing":
        wanted = [table for table in source_admin(stream).definitions() if table.name in names]
        lines += [f"created on the target: {line}" for line in target_admin(stream).create_missing(wanted)]
    with open_ledger(stream) as ledger:
        ledger.ensure()
        ledger.request_copies(names)
    return [*lines, f"stream {stream.name} copies {', '.join(map('.'.join, names))} anew as soon as its roles run"]


def _named(stream: StreamConfig, texts: Sequence[str]) -> list[TableName]:
    there = {".".join(name): name for name in source_admin(stream).tables()}
    unknown = [text for text in texts if text not in there]
    if unknown:
        raise ConfigError(
            f"stream {stream.name} has no table {', '.join(unknown)}; its tables on the target: {', '.join(there)}"
        )
    return [there[text] for text in dict.fromkeys(texts)]


def _require_possible(stream: StreamConfig, names: Collection[TableName]) -> None:
    with open_ledger(stream) as ledger:
        catalogue = ledger.catalogue()
    missing = [".".join(name) for name in names if name not in catalogue.tables]
    if missing and stream.target.create_tables != "missing":
        raise ConfigError(f"stream {stream.name}: the target has no table {', '.join(missing)}: create it first")
    if stream.target.session_replication_role == "origin":
        _require_unreferenced(stream, names, catalogue)
    _require_no_letters(stream, names)


def _require_unreferenced(stream: StreamConfig, names: Collection[TableName], catalogue: Catalogue) -> None:
    """Where the target enforces foreign keys, rows that others reference can't be replaced."""
    for name, table in catalogue.tables.items():
        parents = {key.parent for key in table.foreign_keys} & set(names)
        if parents:
            raise ConfigError(
                f"stream {stream.name}: table {'.'.join(name)} references {', '.join(map('.'.join, parents))}, and the "
                'target enforces that (session_replication_role = "origin"): copy the whole stream anew '
                f"(`headrace resync --stream {stream.name}`)"
            )


def _require_no_letters(stream: StreamConfig, names: Collection[TableName]) -> None:
    """A dead letter's changes would be replayed into rows that have them."""
    for letter in dead_letters(stream).letters():
        touched = {section.relation.name for section in decode_batch(letter.batch).sections} & set(names)
        if touched:
            raise ConfigError(
                f"stream {stream.name}: the dead letter at position {letter.position} changes "
                f"{', '.join(map('.'.join, touched))}: replay or discard it first (`headrace dead-letters`)"
            )

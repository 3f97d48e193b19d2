"""ChangeBatch: the one data structure that flows through the system, and its codec.

Rows stay packed: decoding costs the number of tables, not the number of rows. A row is a PostgreSQL
binary COPY tuple (int16 field count, then int32 length or -1 and the bytes of each field), so that a
target COPY is a join of slices. Source: PostgreSQL manual, COPY, "Binary Format".
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import lt
from typing import Any

from schemas.errors import SchemaError
from schemas.packed import INT32, INT64, check_offsets, check_sorted, cut, pack, unpack
from schemas.single_object import codec

INSERT, UPDATE, DELETE, TRUNCATE = 73, 85, 68, 84  # the letters I U D T
_OPS = b"IUDT"


@dataclass(frozen=True, slots=True)
class Column:
    """A source column. `binary` says that fields are in the type's send format, else text.

    `modifier` is PostgreSQL's type modifier (-1: none), `number` the source's own number of the column (0: not
    known), which stays when the column gets another name. `missing` is the text of the value in rows that are
    older than the column; `unlogged` says that nobody knows it.
    """

    name: str
    type: str
    key: bool
    binary: bool
    modifier: int = -1
    number: int = 0
    missing: str | None = None
    unlogged: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """A source table as it was when its rows were written."""

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[Column, ...]

    @property
    def name(self) -> tuple[str, str]:
        """Schema and table."""
        return self.schema, self.table

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Names of the columns whose fields make up `keys`, in column order."""
        return tuple(column.name for column in self.columns if column.key)


@dataclass(slots=True)
class Section:
    """The changes of one table in a batch, in source order.

    `keys`, `rows`, `old_keys` are blobs cut by their offsets. A key is the concatenation of its fields
    (int32 length, bytes). `old_index` and `mask_index` name the few rows that have an old key or
    columns left out by the source (unchanged TOAST).
    """

    relation: Relation
    ops: bytes
    tx: array[int]
    order: array[int]
    keys: bytes
    key_offsets: array[int]
    rows: bytes
    row_offsets: array[int]
    old_index: array[int] = field(default_factory=lambda: array(INT32))
    old_keys: bytes = b""
    old_offsets: array[int] = field(default_factory=lambda: array(INT32, [0]))
    mask_index: array[int] = field(default_factory=lambda: array(INT32))
    masks: bytes = b""

    @property
    def mask_bytes(self) -> int:
        """Size of one entry of `masks`."""
        return (len(self.relation.columns) + 7) // 8

    def key_list(self) -> list[bytes]:
        """The key of each row."""
        return cut(self.keys, self.key_offsets)

    def row_list(self) -> list[bytes]:
        """The tuple of each row (empty for a DELETE without its old row)."""
        return cut(self.rows, self.row_offsets)

    def old_key_map(self) -> dict[int, bytes]:
        """Row index -> old key, where the key changed."""
        return dict(zip(self.old_index, cut(self.old_keys, self.old_offsets), strict=True))

    def mask_map(self) -> dict[int, bytes]:
        """Row index -> bits of the columns that the source left out."""
        size = self.mask_bytes
        return {row: self.masks[n * size : (n + 1) * size] for n, row in enumerate(self.mask_index)}


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """A logical decoding message written inside a transaction."""

    tx: int
    order: int
    prefix: str
    content: bytes


@dataclass(slots=True)
class ChangeBatch:
    """Consecutive whole transactions of one stream (or one part of a large one).

    Times are microseconds since 1970 UTC. A batch without transactions is a heartbeat: it carries
    `previous_position` and `end_position` only. The parts of a large transaction share a `run`: another
    capture may cut the same transaction at other rows, and parts of two runs must not be mixed.
    """

    stream: str
    generation: int
    kind: str
    previous_position: int
    positions: array[int]
    commit_times_us: array[int]
    source_ids: array[int]
    sections: list[Section]
    end_position: int
    captured_us: int
    part: int = 0
    last_part: bool = True
    messages: list[LogicalMessage] = field(default_factory=list)
    run: int = 0

    @property
    def last_position(self) -> int:
        """Position of the last transaction, or `previous_position` for a heartbeat."""
        return self.positions[-1] if self.positions else self.previous_position

    @property
    def whole(self) -> bool:
        """Whether every transaction here is complete in this record."""
        return self.part == 0 and self.last_part

    @property
    def table_copy(self) -> bool:
        """Whether this is a part of a copy of single tables among the live transactions.

        Such a copy is one transaction in several records; those of the initial snapshot are transactions each.
        """
        return self.kind == "snapshot" and not self.whole

    def rows(self) -> int:
        """Number of row changes."""
        return sum(len(section.ops) for section in self.sections)


def encode_batch(batch: ChangeBatch) -> bytes:
    """Return the record of `batch`. Raises SchemaError when it is over the size limit."""
    return codec("change_batch").encode({
        "stream": batch.stream, "generation": batch.generation, "kind": batch.kind,
        "previous_position": batch.previous_position, "part": batch.part, "last_part": batch.last_part,
        "run": batch.run, "end_position": batch.end_position, "captured_us": batch.captured_us,
        "positions": pack(batch.positions), "commit_times_us": pack(batch.commit_times_us),
        "source_ids": pack(batch.source_ids),
        "sections": [_section_datum(section) for section in batch.sections],
        "messages": [
            {"tx": m.tx, "order": m.order, "prefix": m.prefix, "content": m.content} for m in batch.messages
        ],
    })  # fmt: skip


_RELATIONS_MAX = 4096  # remembered; a table of a few hundred bytes each
_data: dict[int, tuple[Relation, dict[str, Any]]] = {}  # by id: a relation that is kept keeps its id
_relations: dict[tuple[int, str, str, str], tuple[list[dict[str, Any]], Relation]] = {}


def _relation_datum(relation: Relation) -> dict[str, Any]:
    """What Avro writes of a relation, made once for each object."""
    found = _data.get(id(relation))
    if found is None:
        datum = {
            "oid": relation.oid, "schema": relation.schema, "table": relation.table, "identity": relation.identity,
            "columns": [{name: getattr(c, name) for name in Column.__slots__} for c in relation.columns],
        }  # fmt: skip
        if len(_data) >= _RELATIONS_MAX:
            _data.clear()
        found = _data[id(relation)] = (relation, datum)
    return found[1]


def _section_datum(section: Section) -> dict[str, Any]:
    return {
        "relation": _relation_datum(section.relation),
        "ops": section.ops, "tx": pack(section.tx), "order": pack(section.order),
        "keys": section.keys, "key_offsets": pack(section.key_offsets),
        "rows": section.rows, "row_offsets": pack(section.row_offsets),
        "old_index": pack(section.old_index), "old_keys": section.old_keys,
        "old_offsets": pack(section.old_offsets),
        "mask_index": pack(section.mask_index), "masks": section.masks,
    }  # fmt: skip


def decode_batch(data: bytes) -> ChangeBatch:
    """Return the batch in `data`, every count, offset and index checked.

    Raises SchemaError. The fields inside a row are checked where a row is cut (schemas.rows) and by
    the target's COPY.
    """
    datum = codec("change_batch").decode(data)
    batch = ChangeBatch(
        stream=datum["stream"],
        generation=datum["generation"],
        kind=datum["kind"],
        previous_position=datum["previous_position"],
        part=datum["part"],
        last_part=datum["last_part"],
        run=datum["run"],
        end_position=datum["end_position"],
        captured_us=datum["captured_us"],
        positions=unpack(INT64, datum["positions"], "positions"),
        commit_times_us=unpack(INT64, datum["commit_times_us"], "commit_times_us"),
        source_ids=unpack(INT64, datum["source_ids"], "source_ids"),
        sections=[_section(item) for item in datum["sections"]],
        messages=[LogicalMessage(m["tx"], m["order"], m["prefix"], m["content"]) for m in datum["messages"]],
    )
    _check_batch(batch)
    return batch


def _relation(datum: dict[str, Any]) -> Relation:
    """The relation in `datum`: the same object as last time, if it is the same."""
    key = (datum["oid"], datum["schema"], datum["table"], datum["identity"])
    found = _relations.get(key)
    if found is not None and found[0] == datum["columns"]:
        return found[1]
    relation = Relation(*key, tuple(Column(**column) for column in datum["columns"]))
    if len(_relations) >= _RELATIONS_MAX:
        _relations.clear()
    _relations[key] = (datum["columns"], relation)
    return relation


def _section(datum: dict[str, Any]) -> Section:
    return Section(
        relation=_relation(datum["relation"]),
        ops=datum["ops"],
        tx=unpack(INT32, datum["tx"], "tx"),
        order=unpack(INT32, datum["order"], "order"),
        keys=datum["keys"],
        key_offsets=unpack(INT32, datum["key_offsets"], "key_offsets"),
        rows=datum["rows"],
        row_offsets=unpack(INT32, datum["row_offsets"], "row_offsets"),
        old_index=unpack(INT32, datum["old_index"], "old_index"),
        old_keys=datum["old_keys"],
        old_offsets=unpack(INT32, datum["old_offsets"], "old_offsets"),
        mask_index=unpack(INT32, datum["mask_index"], "mask_index"),
        masks=datum["masks"],
    )


def _check_batch(batch: ChangeBatch) -> None:
    count = len(batch.positions)
    if len(batch.commit_times_us) != count or len(batch.source_ids) != count:
        raise SchemaError(f"{count} positions, {len(batch.commit_times_us)} times, {len(batch.source_ids)} ids")
    if batch.generation < 0 or batch.previous_position < 0:
        raise SchemaError(f"generation {batch.generation}, previous position {batch.previous_position}: negative")
    if batch.part < 0 or (not batch.whole and count != 1):
        raise SchemaError(f"part {batch.part} of a large transaction holds {count} transactions")
    positions = [batch.previous_position, *batch.positions]
    if not all(map(lt, positions, islice(positions, 1, None))):
        raise SchemaError(f"positions do not increase after {batch.previous_position}")
    for section in batch.sections:
        _check_section(section, count)
    if any(not 0 <= message.tx < count for message in batch.messages):
        raise SchemaError("a logical message names a transaction outside the batch")


def _check_section(section: Section, transactions: int) -> None:
    rows = len(section.ops)
    name = f"{section.relation.schema}.{section.relation.table}"
    if section.ops.translate(None, _OPS):
        raise SchemaError(f"{name}: unknown operation")
    if len(section.tx) != rows or len(section.order) != rows:
        raise SchemaError(f"{name}: {rows} rows, {len(section.tx)} transaction indexes, {len(section.order)} ranks")
    check_sorted(section.tx, f"{name} tx")
    check_sorted(section.order, f"{name} order")
    if rows and (section.tx[0] < 0 or section.tx[-1] >= transactions or section.order[0] < 0):
        raise SchemaError(f"{name}: a row names a transaction outside the batch")
    check_offsets(section.key_offsets, rows, len(section.keys), f"{name} keys")
    check_offsets(section.row_offsets, rows, len(section.rows), f"{name} rows")
    check_offsets(section.old_offsets, len(section.old_index), len(section.old_keys), f"{name} old keys")
    _check_index(section.old_index, rows, f"{name} old keys")
    _check_index(section.mask_index, rows, f"{name} masks")
    if len(section.masks) != len(section.mask_index) * section.mask_bytes:
        raise SchemaError(f"{name}: {len(section.masks)} mask bytes for {len(section.mask_index)} rows")
    if TRUNCATE in section.ops:
        rows_of = zip(section.ops, section.row_list(), strict=True)
        if any(op == TRUNCATE and len(row) != 1 for op, row in rows_of):
            raise SchemaError(f"{name}: a TRUNCATE without its option byte")


def _check_index(index: array[int], rows: int, name: str) -> None:
    check_sorted(index, name)
    if index and (index[0] < 0 or index[-1] >= rows or len(set(index)) != len(index)):
        raise SchemaError(f"{name}: index outside the section or repeated")


def iter_order(batch: ChangeBatch) -> Iterator[tuple[int, int, int]]:
    """Yield (rank, section number, row number) of every change in source order."""
    entries = [
        (rank, number, row) for number, section in enumerate(batch.sections) for row, rank in enumerate(section.order)
    ]
    entries.sort()
    yield from entries

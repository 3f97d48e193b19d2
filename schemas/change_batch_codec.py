"""The Avro record of a ChangeBatch: written, read, and every count, offset and index in it checked.

Both ways cost the number of tables, not the number of rows: blobs and packed numbers pass through as they are.
"""

from __future__ import annotations

from array import array
from itertools import islice
from operator import lt
from typing import Any

from schemas.change_batch import TRUNCATE, ChangeBatch, Column, LogicalMessage, Relation, Section
from schemas.errors import SchemaError
from schemas.packed import INT32, INT64, check_offsets, check_sorted, pack, unpack
from schemas.single_object import codec

_OPS = b"IUDT"
_RELATIONS_MAX = 4096  # remembered; a table of a few hundred bytes each
_data: dict[int, tuple[Relation, dict[str, Any]]] = {}  # by id: a relation that is kept keeps its id
_relations: dict[tuple[int, str, str, str], tuple[list[dict[str, Any]], Relation]] = {}


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
    if section.truncates:
        rows_of = zip(section.ops, section.row_list(), strict=True)
        if any(op == TRUNCATE and len(row) != 1 for op, row in rows_of):
            raise SchemaError(f"{name}: a TRUNCATE without its option byte")


def _check_index(index: array[int], rows: int, name: str) -> None:
    check_sorted(index, name)
    if index and (index[0] < 0 or index[-1] >= rows or len(set(index)) != len(index)):
        raise SchemaError(f"{name}: index outside the section or repeated")

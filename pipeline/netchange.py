"""Net change: what a run of changes leaves behind, key by key.

For each key only its first state (did the row exist?) and its last matter; the target then needs one
DELETE, UPDATE or INSERT a key. Where merging can't be right, Unmergeable sends the caller to the
row-by-row way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from schemas.change_batch import DELETE, INSERT, TRUNCATE, UPDATE, ChangeBatch, Relation, Section
from schemas.rows import pack_row, row_fields

NO_MASK = b""


class Unmergeable(Exception):  # noqa: N818 - not an error: it selects the other way of applying
    """These changes can't be merged; the text says why."""


@dataclass(slots=True)
class NetTable:
    """Net change of one table: keys to delete, rows to update by mask of unchanged columns, rows to insert."""

    relation: Relation
    deletes: list[bytes] = field(default_factory=list)
    updates: dict[bytes, list[bytes]] = field(default_factory=dict)
    inserts: list[bytes] = field(default_factory=list)
    insert_count: int = 0

    @property
    def rows(self) -> int:
        """Number of rows the target will change."""
        return len(self.deletes) + sum(map(len, self.updates.values())) + self.insert_count


@dataclass(slots=True)
class _State:
    """A key's states: `existed` before the run; `row` is the last image (None: deleted)."""

    existed: bool
    row: bytes | None
    mask: bytes = NO_MASK


def net_change(batches: Iterable[ChangeBatch]) -> list[NetTable]:
    """Return the net change of the batches, a table each, in order of first appearance.

    Raises Unmergeable.
    """
    sections: dict[Relation, list[Section]] = {}
    for batch in batches:
        for section in batch.sections:
            sections.setdefault(section.relation, []).append(section)
    names = [relation.name for relation in sections]
    if len(set(names)) != len(names):
        raise Unmergeable("a table changed its columns within the run")
    return [_net_table(relation, found) for relation, found in sections.items()]


def _net_table(relation: Relation, sections: Sequence[Section]) -> NetTable:
    ops = b"".join([section.ops for section in sections])
    if TRUNCATE in ops:
        raise Unmergeable("TRUNCATE")
    if ops.count(INSERT) == len(ops):
        # Rows that are new to the target stay one blob: no slicing at all.
        return NetTable(relation, inserts=[section.rows for section in sections], insert_count=len(ops))
    if not any(column.key for column in relation.columns) or _may_repeat(relation):
        raise Unmergeable("no key names a single row")
    sparse = any(section.old_index or section.mask_index for section in sections)
    if not sparse and ops.count(UPDATE) == len(ops):
        last: dict[bytes, bytes] = {}
        for section in sections:
            # dict() over zip keeps the last image of each key without a Python step a row (0.1 µs each).
            last.update(zip(section.key_list(), section.row_list(), strict=True))
        return NetTable(relation, updates={NO_MASK: list(last.values())})
    return _sort_states(relation, _replay(relation, sections))


def _may_repeat(relation: Relation) -> bool:
    """Whether equal keys may name several rows: FULL identity where the whole row is the key."""
    return relation.identity == "f" and all(column.key for column in relation.columns)


def _replay(relation: Relation, sections: Sequence[Section]) -> dict[bytes, _State]:
    states: dict[bytes, _State] = {}
    for op, key, row, old_key, mask in _changes(sections):
        if op == INSERT:
            _insert(states, key, row)
        elif op == DELETE:
            _delete(states, key)
        elif old_key is not None and old_key != key:
            if mask:
                raise Unmergeable("a key changed while the source left out unchanged columns")
            _delete(states, old_key)
            _insert(states, key, row)
        else:
            _update(states, relation, key, row, mask)
    return states


def _changes(sections: Sequence[Section]) -> Iterator[tuple[int, bytes, bytes, bytes | None, bytes]]:
    for section in sections:
        old_keys, masks = section.old_key_map(), section.mask_map()
        rows = zip(section.ops, section.key_list(), section.row_list(), strict=True)
        for number, (op, key, row) in enumerate(rows):
            yield op, key, row, old_keys.get(number), masks.get(number, NO_MASK)


def _insert(states: dict[bytes, _State], key: bytes, row: bytes) -> None:
    state = states.get(key)
    if state is None:
        states[key] = _State(existed=False, row=row)
    elif state.row is None:
        state.row, state.mask = row, NO_MASK
    else:
        raise Unmergeable("a key appears while it is in use")


def _delete(states: dict[bytes, _State], key: bytes) -> None:
    state = states.get(key)
    if state is None:
        states[key] = _State(existed=True, row=None)
    elif state.row is None:
        raise Unmergeable("a deleted row is deleted again")
    elif state.existed:
        state.row, state.mask = None, NO_MASK
    else:
        del states[key]


def _update(states: dict[bytes, _State], relation: Relation, key: bytes, row: bytes, mask: bytes) -> None:
    state = states.get(key)
    if state is None:
        states[key] = _State(existed=True, row=row, mask=mask)
    elif state.row is None:
        raise Unmergeable("a deleted row is updated")
    elif mask:
        row = complete_row(row, mask, state.row, len(relation.columns))
        both = bytes(a & b for a, b in zip(mask, state.mask, strict=True)) if state.mask else NO_MASK
        state.row, state.mask = row, both if any(both) else NO_MASK
    else:
        state.row, state.mask = row, NO_MASK


def complete_row(row: bytes, mask: bytes, before: bytes, columns: int) -> bytes:
    """Return `row` with the columns that `mask` marks as left out taken from `before`."""
    older = row_fields(before, columns)
    fields = [older[n] if mask[n >> 3] >> (n & 7) & 1 else value for n, value in enumerate(row_fields(row, columns))]
    return pack_row(fields)


def _sort_states(relation: Relation, states: dict[bytes, _State]) -> NetTable:
    table = NetTable(relation)
    for key, state in states.items():
        if state.row is None:
            table.deletes.append(key)
        elif state.existed:
            table.updates.setdefault(state.mask, []).append(state.row)
        else:
            table.inserts.append(state.row)
    table.insert_count = len(table.inserts)
    return table

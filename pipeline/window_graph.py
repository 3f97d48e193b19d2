"""The dependency graph of one window (networkx): which transaction has to come after which, and for what key.

For each key in turn: a writer comes after the writer before it and after all readers since; a reader
(a foreign key's child) after the last writer. So a path in the graph is a chain that no number of lanes shortens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import networkx as nx

from pipeline.conflicts import KeyRules, KeyUse
from pipeline.keyspaces import COARSE, Keyspace
from pipeline.touched_keys import keys_of
from schemas.change_batch import TRUNCATE, ChangeBatch, Column, Relation
from schemas.errors import SchemaError
from schemas.rows import key_fields

VALUE_LETTERS_MAX = 40
_INTEGERS = frozenset({"int2", "int4", "int8", "oid"})
_STRINGS = frozenset({"text", "varchar", "name", "bpchar"})
Graph: TypeAlias = "nx.DiGraph[int]"  # of transaction indexes; edges have `key`, a text


@dataclass(frozen=True, slots=True)
class Shape:
    """What a window's graph says about parallel work.

    `sets`: independent sets, `largest` of them in transactions; `path`: the critical path, transaction
    indexes in order; `width`: the most transactions at one depth, so that many could be at work at once.
    """

    transactions: int
    sets: int
    largest: int
    path: tuple[int, ...]
    width: int


def window_graph(batch: ChangeBatch, rules: KeyRules) -> Graph:
    """Return the graph of `batch`: nodes are indexes of its transactions, edges lead from earlier to later."""
    graph: Graph = nx.DiGraph()
    graph.add_nodes_from(range(len(batch.positions)))
    for use in _uses(batch, rules).values():
        for before, after in _pairs(sorted(use.writes.items())):
            if not graph.has_edge(before, after):
                graph.add_edge(before, after, key=use.text)
    for barrier, text in sorted(_truncates(batch).items()):
        _add_barrier(graph, barrier, text)
    return graph


def _truncates(batch: ChangeBatch) -> dict[int, str]:
    """Transactions that truncate a table: the planner lets everything wait for them, and them for everything."""
    return {
        tx: f"TRUNCATE {'.'.join(section.relation.name)}"
        for section in batch.sections
        if section.truncates
        for tx, op in zip(section.tx, section.ops, strict=True)
        if op == TRUNCATE
    }


def _add_barrier(graph: Graph, barrier: int, text: str) -> None:
    """Order all others before or after `barrier`, with no more edges than that takes."""
    for node in list(graph):
        if node < barrier and not any(after < barrier for after in graph.successors(node)):
            graph.add_edge(node, barrier, key=text)
        elif node > barrier and not any(before > barrier for before in graph.predecessors(node)):
            graph.add_edge(barrier, node, key=text)


@dataclass(frozen=True, slots=True)
class _KeyUses:
    """A key and who uses it: transaction -> whether it writes it (else it refers to it)."""

    text: str
    writes: dict[int, bool]


def shared_keys(earlier: ChangeBatch, later: ChangeBatch, rules: KeyRules) -> list[tuple[int, str]]:
    """(position in `earlier`, key) for each key that both batches touch and one of them writes."""
    before, after = _uses(earlier, rules), _uses(later, rules)
    return [
        (earlier.positions[tx], use.text)
        for key, use in before.items()
        for tx, writes in use.writes.items()
        if key in after and (writes or any(after[key].writes.values()))
    ]


def _uses(batch: ChangeBatch, rules: KeyRules) -> dict[tuple[Keyspace, bytes], _KeyUses]:
    rules.admit(batch)
    truncates = _truncates(batch)
    found: dict[tuple[Keyspace, bytes], _KeyUses] = {}
    for section in batch.sections:
        for use in rules.uses(section.relation):
            for tx, key in keys_of(section, use):
                if tx in truncates:
                    continue
                entry = found.get((use.space, key))
                if entry is None:
                    entry = found[use.space, key] = _KeyUses(key_text(section.relation, use, key), {})
                entry.writes[tx] = entry.writes.get(tx, False) or use.exclusive
    return found


def _pairs(uses: list[tuple[int, bool]]) -> Iterator[tuple[int, int]]:
    writer: int | None = None
    readers: list[int] = []
    for tx, writes in uses:
        if not writes:
            if writer is not None:
                yield writer, tx
            readers.append(tx)
            continue
        for before in readers or ([writer] if writer is not None else []):
            yield before, tx
        writer, readers = tx, []


def key_text(relation: Relation, use: KeyUse, key: bytes) -> str:
    """A key for people: `public.account (id) = 7`."""
    (schema, table), names = use.space
    where = f"{schema}.{table}"
    if use.coarse or key == COARSE:
        return f"all rows of {where}" + (f" by ({', '.join(names)})" if names and names != ("*",) else "")
    columns = [c for c in relation.columns if c.key] if use.identity else [relation.columns[n] for n in use.columns]
    try:
        fields = key_fields(key, len(columns))
    except SchemaError:
        return f"{where} ({', '.join(names)}) = {key.hex()[:VALUE_LETTERS_MAX]}"
    sized = any(use.widths)
    values = [_value_text(value, column, as_number=sized) for value, column in zip(fields, columns, strict=True)]
    return f"{where} ({', '.join(names) or 'row'}) = {', '.join(values)}"


def _value_text(value: bytes | None, column: Column, *, as_number: bool) -> str:
    if value is None:
        return "NULL"
    if (column.binary or as_number) and column.type in _INTEGERS:
        return str(int.from_bytes(value, "big", signed=True))
    if not column.binary or column.type in _STRINGS:
        return repr(value.decode("utf-8", "replace")[:VALUE_LETTERS_MAX])
    return "0x" + value.hex()[:VALUE_LETTERS_MAX]


def depths(graph: Graph) -> dict[int, int]:
    """Transaction -> how many must come before it, one after the other."""
    found: dict[int, int] = {}
    for node in sorted(graph):  # edges lead from lower to higher numbers
        found[node] = 1 + max((found[before] for before in graph.predecessors(node)), default=-1)
    return found


def shape(graph: Graph) -> Shape:
    """Independent sets, critical path and width of a window's graph."""
    if not graph:
        return Shape(0, 0, 0, (), 0)
    sets = [len(nodes) for nodes in nx.weakly_connected_components(graph)]
    by_depth: dict[int, int] = {}
    for depth in depths(graph).values():
        by_depth[depth] = by_depth.get(depth, 0) + 1
    path = tuple(nx.dag_longest_path(graph)) if graph.edges else (min(graph),)
    return Shape(len(graph), len(sets), max(sets), path, max(by_depth.values()))

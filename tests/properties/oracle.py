"""Which transactions conflict, told from plain values and written apart from `pipeline.conflicts`.

The rule (design, planning): all keys of a written row are taken exclusively, a foreign key takes its
parent's key shared. Only what the source logs is known: new images without the columns left out, key
columns of old ones, and whole old rows of a DELETE under FULL identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import networkx as nx

from pipeline.catalogue import BYTEWISE_TYPES
from tests.properties.model import Change, Row, Transaction

Use = tuple[object, bool]  # a key's name and value, and whether it is written


def _images(change: Change) -> Iterator[dict[str, object]]:
    """Column -> value of each image as far as the source logs it."""
    columns = [column.name for column in change.table.relation.columns]
    keys = [columns[n] for n in change.table.key]

    def image(row: Row, *, whole: bool) -> dict[str, object]:
        named: dict[str, object] = dict(zip(columns, row, strict=True))
        return named if whole else {name: named[name] for name in keys}

    if change.old is not None:
        yield image(change.old, whole=change.new is None and change.table.relation.identity == "f")
    if change.new is not None:
        known = image(change.new, whole=True)
        yield {name: item for n, (name, item) in enumerate(known.items()) if n not in change.left_out}


def uses(change: Change) -> Iterator[Use]:
    """The keys that a change takes."""
    target = change.table.target
    declared = [key for key in (target.primary_key, *target.uniques) if key]
    if not declared:
        yield (target.name, "rows"), change.new is None or change.old is not None
    for key in declared:
        if any(column.name in key and column.type not in BYTEWISE_TYPES for column in target.columns):
            yield (target.name, key, "any"), True
            continue
        for image in _images(change):
            if all(image.get(name) is not None for name in key):
                yield (target.name, frozenset((name, image[name]) for name in key)), True
    for reference in target.foreign_keys:
        for image in _images(change):
            if all(image.get(name) is not None for name in reference.columns):
                pairs = zip(reference.parent_columns, reference.columns, strict=True)
                yield (reference.parent, frozenset((theirs, image[mine]) for theirs, mine in pairs)), False


def conflict(one: Transaction, other: Transaction) -> bool:
    """Whether two transactions share a key that one of them writes."""
    if one.truncates or other.truncates:
        return True
    mine, theirs = _modes(one), _modes(other)
    return any(mine[key] or theirs[key] for key in mine.keys() & theirs.keys())


def _modes(transaction: Transaction) -> dict[object, bool]:
    modes: dict[object, bool] = {}
    for change in transaction.changes:
        for key, written in uses(change):
            modes[key] = modes.get(key, False) or written
    return modes


def independent_sets(window: Sequence[Transaction]) -> set[frozenset[int]]:
    """The window's independent sets, as indexes."""
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(len(window)))
    graph.add_edges_from(
        (one, other) for one, other in combinations(range(len(window)), 2) if conflict(window[one], window[other])
    )
    return {frozenset(component) for component in nx.connected_components(graph)}

"""The dependency graph of a window: conflicts are ordered in it, and nothing else is; pictures are well formed."""

from __future__ import annotations

from itertools import combinations, pairwise
from xml.etree import ElementTree

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conflicts import KeyRules
from pipeline.graph_picture import NODES_MAX, dot_text, drawn, places, svg_text
from pipeline.window_graph import depths, shape, shared_keys, window_graph
from schemas.change_batch import UPDATE
from tests.properties.model import Change, Transaction, catalogue, pack_batch
from tests.properties.oracle import conflict, independent_sets
from tests.properties.strategies import ACCOUNT, TABLES, windows


def rules() -> KeyRules:
    return KeyRules(catalogue(TABLES))


@given(windows(transactions_max=16))
def test_conflicting_transactions_are_ordered_and_others_only_through_them(window: list[Transaction]) -> None:
    graph = window_graph(pack_batch(window, 0), rules())
    assert sorted(graph) == list(range(len(window)))
    closure = nx.transitive_closure_dag(graph)
    for one, other in combinations(range(len(window)), 2):
        if conflict(window[one], window[other]):
            assert closure.has_edge(one, other)
    assert all(before < after for before, after in graph.edges)
    assert all(conflict(window[before], window[after]) for before, after in graph.edges)
    sets = {frozenset(nodes) for nodes in nx.weakly_connected_components(graph)}
    assert sets == independent_sets(window)


@given(windows(transactions_max=16))
def test_the_shape_is_that_of_the_graph(window: list[Transaction]) -> None:
    graph = window_graph(pack_batch(window, 0), rules())
    about = shape(graph)
    assert all(graph.has_edge(*step) for step in pairwise(about.path))
    assert len(about.path) == 1 + max(depths(graph).values())
    assert about.width >= len(window) / len(about.path)
    assert about.transactions == len(window) >= about.largest >= len(about.path)


@given(windows(transactions_max=10), windows(transactions_max=10))
def test_shared_keys_are_the_conflicts_of_two_windows(one: list[Transaction], other: list[Transaction]) -> None:
    found = {position for position, _ in shared_keys(pack_batch(one, 0), pack_batch(other, 0), rules())}
    assert found == {
        position
        for position, transaction in zip(pack_batch(one, 0).positions, one, strict=True)
        if any(conflict(transaction, later) for later in other)
    }


@given(windows(transactions_max=16), st.integers(0, 15))
def test_pictures_are_well_formed_and_complete(window: list[Transaction], lane: int) -> None:
    graph = window_graph(pack_batch(window, 0), rules())
    labels = {n: f'0/{n:X} "<&>"' for n in graph}
    part, _ = drawn(graph)
    svg = ElementTree.fromstring(svg_text(graph, labels, dict.fromkeys(graph, lane), 'a "title" & <more>'))
    space = "{http://www.w3.org/2000/svg}"
    assert len(svg.findall(f"{space}rect")) == len(part)
    lines = svg.findall(f"{space}line")
    assert len(lines) == part.number_of_edges()
    assert all(float(line.get("x1", "")) < float(line.get("x2", "")) for line in lines), "from left to right"
    assert len(set(places(part).values())) == len(part), "no two in one place"
    dot = dot_text(graph, labels, {}, "window")
    assert dot.count(" -> ") == part.number_of_edges()
    assert dot.startswith("digraph window {")


def write(key: int) -> Change:
    row = (key, *[None] * (len(ACCOUNT.relation.columns) - 1))
    return Change(ACCOUNT, UPDATE, row, row)


def test_a_large_picture_is_cut_and_says_so() -> None:
    window = [Transaction(n, (write(n % 40 if n > 100 else 1000 + n),)) for n in range(1, 900)]
    graph = window_graph(pack_batch(window, 0), rules())
    part, note = drawn(graph)
    assert len(part) == NODES_MAX
    assert "100 of 899 transactions depend on none of the others" in note
    assert f"{799 - NODES_MAX} more that depend on others are left out" in note

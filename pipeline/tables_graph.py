"""The graph of tables: foreign keys give the apply order; cycles are found here (networkx)."""

from __future__ import annotations

import networkx as nx

from pipeline.catalogue import Catalogue, TableName


def table_graph(catalogue: Catalogue) -> nx.DiGraph[TableName]:
    """Return a graph with an edge parent -> child for each foreign key between two tables."""
    graph: nx.DiGraph[TableName] = nx.DiGraph()
    graph.add_nodes_from(sorted(catalogue.tables))
    for table in catalogue.tables.values():
        for key in table.foreign_keys:
            if key.parent in catalogue.tables:
                graph.add_edge(key.parent, table.name)
    return graph


def apply_ranks(catalogue: Catalogue) -> dict[TableName, int]:
    """Return table -> rank, parents before children; tables of one cycle share a rank."""
    condensed = nx.condensation(table_graph(catalogue))
    ranks: dict[TableName, int] = {}
    for rank, component in enumerate(nx.lexicographical_topological_sort(condensed)):
        for table in condensed.nodes[component]["members"]:
            ranks[table] = rank
    return ranks


def cyclic_tables(catalogue: Catalogue) -> set[TableName]:
    """Return the tables whose rows may reference each other: self references and cycles.

    Their rows can't be put in order table by table; the set-based way declines them where the target
    enforces foreign keys.
    """
    graph = table_graph(catalogue)
    cyclic: set[TableName] = set()
    for component in nx.strongly_connected_components(graph):
        if len(component) > 1 or any(graph.has_edge(table, table) for table in component):
            cyclic |= component
    return cyclic

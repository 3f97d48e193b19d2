"""The graph of tables: parents before children, cycles found."""

from __future__ import annotations

import random

import pytest

from pipeline.catalogue import Catalogue, ForeignKey, TableName, TargetTable
from pipeline.tables_graph import apply_ranks, cyclic_tables, table_graph


def catalogue(**parents: str) -> Catalogue:
    """Tables by name, each with the names of its parents."""
    return Catalogue({
        name_of(table): TargetTable(
            name_of(table), (), ("id",), (),
            tuple(ForeignKey(("p",), name_of(parent), ("id",)) for parent in names.split()),
        )
        for table, names in parents.items()
    })  # fmt: skip


def name_of(table: str) -> TableName:
    return "public", table


def test_parents_come_before_children() -> None:
    ranks = apply_ranks(catalogue(line="order item", order="customer", item="", customer="region", region=""))
    of = {name[1]: rank for name, rank in ranks.items()}
    assert of["region"] < of["customer"] < of["order"] < of["line"] > of["item"]


def test_tables_of_a_cycle_share_a_rank() -> None:
    found = catalogue(a="b", b="c", c="a", child="a", parent="", d="d")
    of = {name[1]: rank for name, rank in apply_ranks(found).items()}
    assert of["a"] == of["b"] == of["c"] < of["child"]
    assert {name[1] for name in cyclic_tables(found)} == {"a", "b", "c", "d"}


def test_parents_outside_the_catalogue_do_not_count() -> None:
    found = catalogue(a="elsewhere")
    assert set(table_graph(found)) == {name_of("a")}
    assert cyclic_tables(found) == set()
    assert apply_ranks(found) == {name_of("a"): 0}
    assert apply_ranks(Catalogue()) == {}


@pytest.mark.parametrize("seed", range(20))
def test_every_edge_goes_up_or_lies_within_a_cycle(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"t{n}" for n in range(8)]
    found = catalogue(**{name: " ".join(rng.sample(names, rng.randint(0, 2))) for name in names})
    ranks, cyclic = apply_ranks(found), cyclic_tables(found)
    for parent, child in table_graph(found).edges:
        assert ranks[parent] < ranks[child] or (ranks[parent] == ranks[child] and {parent, child} <= cyclic)

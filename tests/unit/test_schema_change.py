"""What a schema change asks of the target, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.postgres.facts import ColumnFacts, identify
from pipeline.catalogue import Catalogue, TargetColumn, TargetTable
from pipeline.relations import Shape, ShapeColumn, Shapes, changes_of, decode_shape, encode_shape, shape_of, type_text
from pipeline.schema_change import (
    AddColumn,
    CreateTable,
    DropColumn,
    Plan,
    Policy,
    RenameColumn,
    RenameTable,
    Step,
    WidenColumn,
    plan_change,
)  # fmt: skip
from schemas.change_batch import INSERT, Column, Relation
from tests.properties.model import Change, Transaction, pack_batch, table

T = ("public", "t")


def relation(*columns: tuple[object, ...], oid: int = 7, name: str = "t") -> Relation:
    """Columns as (name, type, number, modifier); the first is the key."""
    made = [
        Column(str(c[0]), str(c[1]), n == 0, True, int(str(c[3])) if len(c) > 3 else -1, int(str(c[2])))
        for n, c in enumerate(columns)
    ]
    return Relation(oid, "public", name, "d", tuple(made))


def target(of: Relation, key: tuple[str, ...] = ("id",)) -> TargetTable:
    columns = tuple(TargetColumn(c.name, c.type, modifier=c.modifier) for c in of.columns)
    return TargetTable(of.name, columns, key)


def plan(old: Relation | None, new: Relation, *tables: TargetTable) -> Plan:
    shapes = Shapes({old.name: shape_of(old)} if old is not None else {})
    return plan_change(new, shapes, Catalogue({t.name: t for t in tables}))


OLD = relation(("id", "int4", 1), ("a", "text", 2), ("b", "int4", 3))
ID, A, B, C = ("id", "int4", 1), ("a", "text", 2), ("b", "int4", 3), ("c", "numeric", 4)
CASES: dict[str, tuple[Relation, tuple[Step, ...]]] = {
    "nothing": (OLD, ()),
    "added": (relation(ID, A, B, C), (AddColumn(ShapeColumn("c", "numeric", -1, 4), None),)),
    "dropped": (relation(ID, B), (DropColumn("a"),)),
    "renamed": (relation(ID, ("x", "text", 2), B), (RenameColumn("a", "x"),)),
    "the last one renamed": (relation(ID, A, ("x", "int4", 3)), (RenameColumn("b", "x"),)),
    "the last one replaced": (
        relation(ID, A, ("x", "int4", 4)),
        (DropColumn("b"), AddColumn(ShapeColumn("x", "int4", -1, 4), None)),
    ),
    "renamed, not known which": (relation(ID, ("x", "text", 0), ("b", "int4", 0)), (RenameColumn("a", "x"),)),
    "widened": (relation(ID, A, ("b", "int8", 3)), (WidenColumn(ShapeColumn("b", "int8", -1, 3)),)),
    "renamed and widened": (
        relation(ID, A, ("x", "int8", 3)),
        (RenameColumn("b", "x"), WidenColumn(ShapeColumn("x", "int8", -1, 3))),
    ),
    "the key's name": (relation(("key", "int4", 1), A, B), (RenameColumn("id", "key"),)),
    "the table's name": (replace(OLD, table="u"), (RenameTable(T),)),
}
POLICIES: tuple[Policy, ...] = ("stop", "additive", "evolve")
DOUBTS = {
    "narrowed": (relation(ID, A, ("b", "int2", 3)), "which may change values"),
    "converted": (relation(ID, ("a", "date", 2), B), "which may change values"),
    "dropped and created": (relation(ID, A, ("b", "int4", 4)), "dropped and created again"),
    "dropped of a key": (relation(A, B), "belongs to a key"),
    "renamed or replaced": (relation(("id", "int4", 0), ("a", "text", 0), ("x", "int4", 0)), "renamed or replaced"),
    "another table": (replace(OLD, oid=8), "created again"),
}


@pytest.mark.parametrize("case", CASES)
def test_steps(case: str) -> None:
    new, steps = CASES[case]
    assert plan(OLD, new, target(OLD)) == Plan(steps)


@pytest.mark.parametrize("case", CASES)
def test_what_the_target_has_already_is_left_out(case: str) -> None:
    new, _ = CASES[case]
    assert plan(OLD, new, target(new)) == Plan()


@pytest.mark.parametrize("case", DOUBTS)
def test_what_no_policy_follows(case: str) -> None:
    new, text = DOUBTS[case]
    found = plan(OLD, new, target(OLD))
    assert text in found.doubt
    assert not any(found.allowed(policy) for policy in POLICIES)


def test_values_that_older_rows_have() -> None:
    constant = replace(relation(ID, A, B, C), columns=(*OLD.columns, Column("c", "int4", False, True, -1, 4, "5")))
    assert plan(OLD, constant, target(OLD)).steps == (AddColumn(ShapeColumn("c", "int4", -1, 4), "5"),)
    volatile = replace(constant, columns=(*OLD.columns, Column("c", "int4", False, True, -1, 4, None, unlogged=True)))
    assert "not in the source's log" in plan(OLD, volatile, target(OLD)).doubt


def test_policies() -> None:
    for case, (new, steps) in CASES.items():
        found = plan(OLD, new, target(OLD))
        additive = case in ("nothing", "added", "widened")
        assert (found.allowed("stop"), found.allowed("additive"), found.allowed("evolve")) == (
            not steps, additive, True,
        ), case  # fmt: skip


def test_a_table_that_is_new() -> None:
    assert plan(None, OLD) == Plan((CreateTable(shape_of(OLD).columns, ("id",)),))
    every = replace(OLD, identity="f", columns=tuple(replace(c, key=True) for c in OLD.columns))
    assert plan(None, every).steps == (CreateTable(shape_of(OLD).columns, ()),)
    assert plan(None, OLD, target(OLD)) == Plan()
    lacking = plan(None, OLD, target(relation(ID, A)))
    assert lacking.steps == (AddColumn(ShapeColumn("b", "int4", -1, 3), None),)


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        (("varchar", 14), ("varchar", 24), True), (("varchar", 24), ("varchar", 14), False),
        (("varchar", 14), ("varchar", -1), True), (("varchar", 14), ("text", -1), True),
        (("numeric", 655366), ("numeric", 786438), True), (("numeric", 655366), ("numeric", 786443), False),
        (("numeric", 655366), ("numeric", -1), True), (("int2", -1), ("numeric", 655366), False),
        (("timestamp", 3), ("timestamp", 6), True), (("bpchar", 9), ("bpchar", 14), True),
        (("int4", -1), ("float8", -1), False), (("text", -1), ("varchar", 14), False),
    ],
)  # fmt: skip
def test_wider_types(old: tuple[str, int], new: tuple[str, int], *, wider: bool) -> None:
    before, after = (relation(ID, ("v", kind, 2, modifier)) for kind, modifier in (old, new))
    found = plan(before, after, target(before))
    assert (found.steps == (WidenColumn(ShapeColumn("v", new[0], new[1], 2)),)) is wider
    assert bool(found.doubt) is not wider


def test_a_target_with_types_of_its_own_is_left_alone() -> None:
    mine = TargetTable(
        T, (TargetColumn("id", "int8"), TargetColumn("a", "text"), TargetColumn("b", "numeric")), ("id",)
    )
    assert plan(OLD, relation(ID, A, ("b", "int8", 3)), mine) == Plan()


def test_type_names() -> None:
    found = [type_text(*case) for case in (("numeric", 655366), ("varchar", 24), ("numeric", 2046 << 16 | 2042 + 4),
                                           ("timestamp", 3), ("int4", -1), ("s.t", 5))]  # fmt: skip
    assert found == ["numeric(10,2)", "varchar(20)", "numeric(2046,-6)", "timestamp(3)", "int4", "s.t"]


def test_a_shape_survives_the_ledger_and_an_unknown_number_equals_any() -> None:
    shape = Shape(9, (ShapeColumn("ž\"'", "kinds.mood", 5, 3),))
    assert decode_shape(encode_shape(shape)) == shape
    assert shape.same(Shape(0, (ShapeColumn("ž\"'", "kinds.mood", 5, 0),)))
    assert not shape.same(Shape(9, (ShapeColumn("ž\"'", "kinds.mood", 5, 4),)))


def test_changes_are_found_at_their_rows() -> None:
    one = table("t", [("id", "int8"), ("a", "int8")], ("id",))
    other = table("t", [("id", "int8"), ("b", "int8")], ("id",))
    kinds = [one, one, other, other, one]
    batch = pack_batch([Transaction(n, (Change(of, INSERT, new=(n, n)),)) for n, of in enumerate(kinds, start=1)], 0)
    shapes = Shapes({T: shape_of(one.relation)})
    assert changes_of(batch, shapes) == [(2, other.relation), (4, one.relation)]
    assert shapes == {T: shape_of(one.relation)}, "unchanged"


@pytest.mark.parametrize(
    ("described", "found"),
    [
        ("id:1 a:2 b:3", [(1, None, False), (2, "two", False), (3, None, True)]),
        ("id:1 a:2", [(1, None, False), (2, "two", False)]),
        ("id:1 gone:4 b:3", [(1, None, False), (0, None, True), (3, None, True)]),
        ("id:1 a:2 gone:9", [(1, None, False), (2, "two", False), (4, None, False)]),
        ("id:1 gone:2 b:3", [(1, None, False), (2, "two", False), (3, None, True)]),
        ("id:1 x:2 b:3", [(1, None, False), (2, "two", False), (3, None, True)]),
        ("id:1 a:2 b:3 z:7", [(1, None, False), (2, "two", False), (3, None, True), (4, None, False)]),
    ],
)
def test_what_the_catalogue_of_a_later_moment_tells(described: str, found: list[tuple[int, str | None, bool]]) -> None:
    """The catalogue has id, a, b, and a fourth column that was dropped; types have the columns' numbers."""
    facts = [
        ColumnFacts("id", 1, -1, 1, None, False), ColumnFacts("a", 2, -1, 2, "two", False),
        ColumnFacts("b", 3, -1, 3, None, True), ColumnFacts("........", 0, -1, 4, None, False, dropped=True),
    ]  # fmt: skip
    columns = [(name, int(kind), -1) for name, kind in (column.split(":") for column in described.split())]
    assert identify(columns, facts) == found

"""Keyspaces: comparable by bytes only where every relation writes one form, else one key for all rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.catalogue import Catalogue, ForeignKey, TargetColumn
from pipeline.conflicts import KeyRules
from pipeline.keyspaces import COARSE
from pipeline.touched_keys import keys_of
from schemas.change_batch import DELETE, INSERT, UPDATE, Column, Relation
from tests.properties.model import PUBLIC, Change, Row, Table, Transaction, catalogue, pack_batch, packed_sets, table

PARENT = table("parent", [("id", "int8"), ("name", "text")], ("id",))
REFERENCE = ForeignKey(("parent",), (PUBLIC, "parent"), ("id",))


def child(kind: str = "int8", name: str = "child") -> Table:
    return table(name, [("id", "int8"), ("parent", kind)], ("id",), foreign_keys=(REFERENCE,))


def insert(of: Table, *row: int | str | None) -> Change:
    return Change(of, INSERT, new=row)


def joined(rules: KeyRules, *changes: Change) -> bool:
    """Whether changes of different transactions end in one independent set."""
    window = [Transaction(n, (change,)) for n, change in enumerate(changes, start=1)]
    return len(packed_sets(rules, window)) == 1


def source(of: Table, **kinds: tuple[str, bool]) -> Table:
    """The table with other column types at the source: name -> (type, binary)."""
    columns = [replace(c, type=kinds[c.name][0], binary=kinds[c.name][1]) if c.name in kinds else c
               for c in of.relation.columns]  # fmt: skip
    return replace(of, relation=replace(of.relation, columns=tuple(columns)))


@pytest.mark.parametrize("kind", ["int2", "int4", "int8"])
@pytest.mark.parametrize("number", [0, 1, -1, 32767, -32768])
def test_integers_of_several_widths_are_compared_by_value(kind: str, number: int) -> None:
    rules = KeyRules(catalogue([PARENT, child(kind)]))
    assert joined(rules, insert(PARENT, number, "a"), insert(child(kind), 1, number))
    assert not joined(rules, insert(PARENT, number, "a"), insert(child(kind), 1, 7))


def test_a_parent_keeps_its_bytes_where_it_is_written() -> None:
    """The frequent side costs no conversion."""
    rules = KeyRules(catalogue([PARENT, child("int4")]))
    (use,) = rules.uses(PARENT.relation)
    assert use.identity


def test_integers_that_the_source_keeps_narrower_are_compared_by_value() -> None:
    narrow = source(PARENT, id=("int4", True))
    rules = KeyRules(catalogue([PARENT, child()]))
    assert joined(rules, insert(narrow, 5, "a"), insert(child(), 1, 5))
    assert not joined(rules, insert(narrow, 5, "a"), insert(child(), 1, 6))


def test_integers_as_text_are_compared_by_value() -> None:
    textual = source(child(), parent=("int8", False))
    rules = KeyRules(catalogue([PARENT, child()]))
    assert joined(rules, insert(PARENT, 5, "a"), Change(textual, INSERT, new=(1, "5")))
    assert not joined(rules, insert(PARENT, 5, "a"), Change(textual, INSERT, new=(1, "6")))


def test_an_integer_too_large_for_the_parent_equals_none_of_its_keys() -> None:
    narrow = table("parent", [("id", "int2"), ("name", "text")], ("id",))
    rules = KeyRules(catalogue([narrow, child("int4")]))
    assert not joined(rules, insert(narrow, 1, "a"), insert(child("int4"), 1, 65537))
    assert joined(rules, insert(narrow, -32768, "a"), insert(child("int4"), 1, -32768))


def test_text_and_varchar_are_one_family() -> None:
    parent = table("parent", [("id", "varchar")], ("id",))
    rules = KeyRules(catalogue([parent, child("text")]))
    assert joined(rules, insert(parent, "a"), insert(child("text"), 1, "a"))
    assert not joined(rules, insert(parent, "a"), insert(child("text"), 1, "b"))


def test_other_pairs_of_types_share_one_key() -> None:
    """A composite whose first pair does not compare stays coarse, whatever its second pair is."""
    parent = table("parent", [("day", "date"), ("n", "int8")], ("day", "n"))
    reference = ForeignKey(("day", "n"), (PUBLIC, "parent"), ("day", "n"))
    other = table("child", [("id", "int8"), ("day", "timestamp"), ("n", "int4")], ("id",), foreign_keys=(reference,))
    rules = KeyRules(catalogue([parent, other]))
    assert joined(rules, insert(parent, "x", 1), insert(other, 1, "y", 2))


def test_a_column_on_the_childs_side_can_make_the_keyspace_coarse() -> None:
    tables = catalogue([PARENT, child()]).tables
    vague = replace(
        child().target, columns=(TargetColumn("id", "int8"), TargetColumn("parent", "int8", bytewise=False))
    )
    rules = KeyRules(Catalogue({**tables, vague.name: vague}))
    assert joined(rules, insert(PARENT, 5, "a"), insert(child(), 1, 6))


def test_a_key_that_only_a_foreign_key_names_is_taken_by_the_parent() -> None:
    """A unique index that treats NULLs as equal is no plain key, yet may be referred to."""
    parent = table("parent", [("id", "int8"), ("code", "text")], ("id",))
    parent = replace(parent, target=replace(parent.target, opaque_unique=True))
    reference = ForeignKey(("code",), (PUBLIC, "parent"), ("code",))
    other = table("child", [("id", "int8"), ("code", "text")], ("id",), foreign_keys=(reference,))
    rules = KeyRules(catalogue([parent, other]))
    assert joined(rules, insert(parent, 1, "x"), insert(other, 1, "x"))
    assert not joined(rules, insert(parent, 1, "x"), insert(other, 1, "y"))


def test_hidden_uniqueness_makes_writes_of_the_table_conflict() -> None:
    opaque = replace(PARENT, target=replace(PARENT.target, opaque_unique=True))
    rules = KeyRules(catalogue([opaque]))
    assert joined(rules, insert(opaque, 1, "a"), insert(opaque, 2, "b"))


LINK = table(
    "link", [("n", "int8"), ("parent", "int8")], ("n", "parent"),
    foreign_keys=(REFERENCE,),
)  # fmt: skip


def test_a_reference_within_the_logged_key_is_known_before_and_after_a_change() -> None:
    rules = KeyRules(catalogue([PARENT, LINK]))
    moved = Change(LINK, UPDATE, (1, 5), (1, 6))
    for parent, expected in ((5, True), (6, True), (7, False)):
        assert joined(rules, insert(PARENT, parent, "a"), moved) == expected
    assert joined(rules, Change(LINK, DELETE, old=(1, 5)), Change(PARENT, DELETE, old=(5, "a")))


def test_an_old_reference_outside_the_logged_key_is_not_known() -> None:
    """The target finds such dependences (retry at the head, serial window)."""
    rules = KeyRules(catalogue([PARENT, child()]))
    assert not joined(rules, Change(child(), DELETE, old=(1, 5)), Change(PARENT, DELETE, old=(5, "a")))
    assert not joined(rules, Change(child(), UPDATE, (1, 5), (1, 6)), Change(PARENT, DELETE, old=(5, "a")))


def test_a_null_or_a_value_left_out_takes_no_key() -> None:
    item = table("item", [("id", "int8"), ("code", "text")], ("id",), uniques=(("code",),))
    rules = KeyRules(catalogue([item]))
    assert joined(rules, insert(item, 1, "a"), insert(item, 2, "a"))
    assert not joined(rules, insert(item, 1, None), insert(item, 2, None))
    kept = Change(item, UPDATE, (2, "a"), (2, "a"), frozenset({1}))
    assert not joined(rules, insert(item, 1, "a"), kept)


def test_the_columns_of_a_reference_may_stand_in_another_order_than_the_parents() -> None:
    parent = table("parent", [("a", "int8"), ("b", "text")], ("a", "b"))
    reference = ForeignKey(("y", "x"), (PUBLIC, "parent"), ("b", "a"))
    other = table("child", [("id", "int8"), ("x", "int8"), ("y", "text")], ("id",), foreign_keys=(reference,))
    rules = KeyRules(catalogue([parent, other]))
    assert joined(rules, insert(parent, 1, "u"), insert(other, 9, 1, "u"))
    assert not joined(rules, insert(parent, 1, "u"), insert(other, 9, 1, "v"))
    assert len(rules.uses(parent.relation)) == 1


def test_tables_without_a_key_take_inserts_side_by_side() -> None:
    log = table("log", [("text", "text")], identity="f")
    rules = KeyRules(catalogue([log]))
    assert not joined(rules, insert(log, "a"), insert(log, "a"))
    assert joined(rules, insert(log, "a"), Change(log, DELETE, old=("b",)))
    assert joined(rules, Change(log, UPDATE, ("a",), ("b",)), Change(log, DELETE, old=("c",)))


def test_a_table_that_the_target_does_not_have_is_one_key() -> None:
    rules = KeyRules(Catalogue())
    assert joined(rules, insert(PARENT, 1, "a"), insert(PARENT, 2, "b"))


# -- what changes while the stream runs --------------------------------------------------------------


def admit(rules: KeyRules, *changes: Change) -> bool:
    return rules.admit(pack_batch([Transaction(1, changes)]))


def test_known_relations_are_admitted() -> None:
    rules = KeyRules(catalogue([PARENT, child()]))
    for _ in range(3):
        assert admit(rules, insert(PARENT, 1, "a"))
        assert admit(rules, insert(PARENT, 1, "a"), insert(child(), 1, 1))


def test_a_changed_relation_is_not_admitted_once() -> None:
    wider = table("parent", [("id", "int8"), ("name", "text"), ("more", "text")], ("id",))
    rules = KeyRules(catalogue([PARENT]))
    assert admit(rules, insert(PARENT, 1, "a"))
    assert not admit(rules, insert(wider, 1, "a", "b"))
    assert admit(rules, insert(wider, 1, "a", "b"))


def test_a_batch_with_a_table_before_and_after_its_change_is_not_admitted() -> None:
    wider = table("parent", [("id", "int8"), ("name", "text"), ("more", "text")], ("id",))
    assert not admit(KeyRules(catalogue([PARENT])), insert(PARENT, 1, "a"), insert(wider, 1, "a", "b"))


def test_a_child_without_the_column_makes_the_parents_keyspace_coarse_for_all() -> None:
    lacking = table("child", [("id", "int8")], ("id",))
    rules = KeyRules(catalogue([PARENT, child()]))
    assert admit(rules, insert(PARENT, 1, "a"))
    assert not rules.uses(PARENT.relation)[0].coarse
    assert not admit(rules, insert(lacking, 1))
    assert rules.uses(PARENT.relation)[0].coarse
    assert joined(rules, insert(PARENT, 1, "a"), insert(lacking, 1))
    assert admit(rules, insert(PARENT, 1, "a"), insert(lacking, 1))


def test_a_child_in_another_form_makes_the_keyspace_coarse_for_all() -> None:
    parent = table("parent", [("id", "uuid")], ("id",))
    textual = source(child("uuid"), parent=("uuid", False))
    rules = KeyRules(catalogue([parent, child("uuid")]))
    assert admit(rules, insert(parent, "0123"))
    assert not admit(rules, Change(textual, INSERT, new=(1, "text")))
    assert joined(rules, insert(parent, "0123"), Change(textual, INSERT, new=(1, "other")))


def test_a_unique_key_with_a_column_that_the_source_does_not_send_is_coarse() -> None:
    lacking = Relation(1, PUBLIC, "parent", "d", (Column("id", "int8", key=True, binary=True),))
    target = replace(PARENT.target, uniques=(("name",),))
    rules = KeyRules(Catalogue({target.name: target}))
    assert [use.coarse for use in rules.uses(lacking)] == [False, True]


def test_coarse_keys_are_told_for_the_operations_that_take_them() -> None:
    rows: list[tuple[int, Row | None, Row | None]] = [(INSERT, None, ("a",)), (DELETE, ("a",), None)]
    log = table("log", [("text", "text")], identity="f")
    batch = pack_batch([Transaction(n, (Change(log, op, old, new),)) for n, (op, old, new) in enumerate(rows, start=1)])
    found = {
        use.exclusive: list(keys_of(batch.sections[0], use)) for use in KeyRules(catalogue([log])).uses(log.relation)
    }
    assert found == {True: [(1, COARSE)], False: [(0, COARSE)]}

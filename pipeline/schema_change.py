"""What a schema change of the source asks of the target: a list of steps, or a refusal.

Pure: from the columns that the ledger knows, those of the new relation, and the target's table as its catalogue
has it. A step that the target has taken already (an operator prepared it) is left out, so planning again after a
crash or a restart gives what is still to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.catalogue import Catalogue, TableName, TargetTable
from pipeline.relations import Shape, ShapeColumn, Shapes, changes_of, shape_of, type_text
from schemas.change_batch import ChangeBatch, Column, Relation

Policy = Literal["stop", "additive", "evolve"]
# Assignments that keep every value and its order (PostgreSQL manual, "Value Expressions": implicit casts).
_WIDER = {
    "int2": ("int4", "int8", "numeric"), "int4": ("int8", "numeric"), "int8": ("numeric",),
    "float4": ("float8",), "varchar": ("varchar", "text"), "bpchar": ("bpchar",), "numeric": ("numeric",),
    "bit": (), "varbit": ("varbit",), "timestamp": ("timestamp",), "timestamptz": ("timestamptz",),
    "time": ("time",), "timetz": ("timetz",), "name": ("text",), "json": (), "cidr": ("inet",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CreateTable:
    """Create the table with the relation's columns and its key."""

    columns: tuple[ShapeColumn, ...]
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenameTable:
    """Give the table another name; `old` is the one it has."""

    old: TableName


@dataclass(frozen=True, slots=True)
class AddColumn:
    """Add a column; `missing` is the text of its value in the rows that are there (None: NULL)."""

    column: ShapeColumn
    missing: str | None


@dataclass(frozen=True, slots=True)
class DropColumn:
    """Drop a column."""

    name: str


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """Give a column another name."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class WidenColumn:
    """Give a column a type that holds all its values."""

    column: ShapeColumn


Step = CreateTable | RenameTable | AddColumn | DropColumn | RenameColumn | WidenColumn
_ADDITIVE = (CreateTable, AddColumn, WidenColumn)


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order; `doubt` says what no step can do, which then is an operator's."""

    steps: tuple[Step, ...] = ()
    doubt: str = ""

    def allowed(self, policy: Policy) -> bool:
        """Whether the policy lets the stream take these steps by itself."""
        if self.doubt:
            return False
        if policy == "stop":
            return not self.steps
        return policy == "evolve" or all(isinstance(step, _ADDITIVE) for step in self.steps)


def fits(relation: Relation, table: TargetTable | None) -> bool:
    """Whether the target has a column for each of the relation's."""
    return table is not None and all(table.column(column.name) is not None for column in relation.columns)


def asks_nothing(relation: Relation, shapes: Shapes, catalogue: Catalogue) -> bool:
    """Whether a table is new to the ledger alone: the target has all of its columns, and under no other name."""
    known = relation.name in shapes or any(relation.oid and shape.oid == relation.oid for shape in shapes.values())
    return not known and fits(relation, catalogue.tables.get(relation.name))


def learn_changes(batch: ChangeBatch, shapes: Shapes, catalogue: Catalogue) -> bool:
    """Note the columns of the batch's tables in `shapes`; whether the target may have to change for them.

    A table that the ledger alone does not know is no reason: whoever applies its first rows notes its columns.
    """
    changes = [relation for _, relation in changes_of(batch, shapes)]
    if not changes:
        return False
    again = len({relation.name for relation in changes}) < len(changes)
    harmless = not again and all(asks_nothing(relation, shapes, catalogue) for relation in changes)
    for relation in changes:
        shapes.learn(relation)
    return batch.kind == "snapshot" or not harmless


def plan_change(relation: Relation, shapes: Shapes, catalogue: Catalogue) -> Plan:
    """The steps that let the target follow `relation`; see the module."""
    name, new = relation.name, shape_of(relation)
    old, steps = shapes.get(name), list[Step]()
    table = catalogue.tables.get(name)
    if old is None:
        before = next((was for was, shape in shapes.items() if new.oid and shape.oid == new.oid), None)
        if before is not None:
            old, table = shapes[before], table or catalogue.tables.get(before)
            if name not in catalogue.tables and before in catalogue.tables:
                steps.append(RenameTable(before))
    elif old.oid and new.oid and old.oid != new.oid:
        return Plan(doubt="the table was dropped and created again at the source; empty the target's, or copy it anew")
    if table is None:
        return Plan((CreateTable(new.columns, _key(relation)),))
    if old is None:
        return _with_columns(steps, _first_seen(relation, table))
    return _with_columns(steps, _changed(relation, old, new, table))


def _key(relation: Relation) -> tuple[str, ...]:
    """The columns that name one row; none where the whole row does."""
    key = relation.key_columns
    return () if relation.identity == "n" or (relation.identity == "f" and len(key) == len(relation.columns)) else key


def _with_columns(steps: list[Step], columns: Plan) -> Plan:
    return Plan((*steps, *columns.steps), columns.doubt)


def _first_seen(relation: Relation, table: TargetTable) -> Plan:
    """A table that the ledger knows nothing about: it only may lack columns."""
    return _add([column for column in relation.columns if table.column(column.name) is None])


def _add(columns: list[Column]) -> Plan:
    unlogged = [column.name for column in columns if column.unlogged]
    doubt = (
        f"what the rows before it have in column {', '.join(unlogged)} is not in the source's log; add and fill it"
        if unlogged
        else ""
    )
    return Plan(tuple(AddColumn(ShapeColumn(c.name, c.type, c.modifier, c.number), c.missing) for c in columns), doubt)


def _changed(relation: Relation, old: Shape, new: Shape, table: TargetTable) -> Plan:
    before, doubt = _match(old, new)
    if doubt:
        return Plan(doubt=doubt)
    steps: list[Step] = []
    kept = set(before.values())
    key = {name for key in table.keys for name in key}
    for column in old.columns:
        if column.name not in kept and table.column(column.name) is not None:
            if column.name in key:
                doubt = f"column {column.name} was dropped at the source and belongs to a key of the target"
            steps.append(DropColumn(column.name))
    gone = {step.name for step in steps if isinstance(step, DropColumn)}
    added: list[Column] = []
    for column, source in zip(new.columns, relation.columns, strict=True):
        was = before.get(column.name)
        if was is None:
            if table.column(column.name) is None or column.name in gone:
                added.append(source)
            continue
        if was != column.name and table.column(was) is not None and table.column(column.name) is None:
            steps.append(RenameColumn(was, column.name))
        widen, problem = _widen(next(c for c in old.columns if c.name == was), column, table)
        steps += widen
        doubt = doubt or problem
    add = _add(added)
    return Plan((*steps, *add.steps), doubt or add.doubt)


def _match(old: Shape, new: Shape) -> tuple[dict[str, str], str]:
    """New column name -> its old name, for those that are the same column; or why nobody can tell."""
    if all(c.number for c in old.columns) and all(c.number for c in new.columns):
        names = {column.number: column.name for column in old.columns}
        same = {column.name: names[column.number] for column in new.columns if column.number in names}
        again = [c.name for c in new.columns if c.number not in names and c.name in set(names.values())]
        return same, f"column {', '.join(again)} was dropped and created again: its values are old" if again else ""
    removed = [c for c in old.columns if all(c.name != other.name for other in new.columns)]
    added = [c for c in new.columns if all(c.name != other.name for other in old.columns)]
    same = {c.name: c.name for c in new.columns if c not in added}
    if not removed or not added:
        return same, ""
    # Columns keep their place and new ones come last: a new name in the middle is the old column's.
    if len(removed) == len(added) == 1 and len(old.columns) == len(new.columns):
        place = old.columns.index(removed[0])
        alike = (removed[0].type, removed[0].modifier) == (added[0].type, added[0].modifier)
        if place < len(old.columns) - 1 and new.columns[place] == added[0] and alike:
            return {**same, added[0].name: removed[0].name}, ""
    gone, come = (", ".join(c.name for c in columns) for columns in (removed, added))
    return same, f"column {gone} went and {come} came, renamed or replaced: the source's catalogue has moved on since"


def _widen(old: ShapeColumn, new: ShapeColumn, table: TargetTable) -> tuple[list[Step], str]:
    """The step that follows a change of type, where the target has the old type."""
    if (old.type, old.modifier) == (new.type, new.modifier):
        return [], ""
    target = table.column(old.name) or table.column(new.name)
    if target is None or type_text(target.type, target.modifier) != old.sql_type:
        return [], ""  # the target has a type of its own choice
    if new.type in _WIDER.get(old.type, ()) and _holds(old, new):
        return [WidenColumn(new)], ""
    return [], f"column {new.name} changed its type from {old.sql_type} to {new.sql_type}, which may change values"


def holds_all(old: ShapeColumn, new: ShapeColumn) -> bool:
    """Whether a column of `new`'s type holds every value of `old`'s as it is."""
    if old.sql_type == new.sql_type or new.sql_type in ("text", "varchar"):
        return True
    return (old.type == new.type or new.type in _WIDER.get(old.type, ())) and _holds(old, new)


def _holds(old: ShapeColumn, new: ShapeColumn) -> bool:
    """Whether the new modifier admits every value of the old."""
    if old.type != new.type or new.modifier < 0:
        return new.modifier < 0 or new.type != "numeric"
    if old.modifier < 0:
        return False
    if new.type == "numeric":
        (wide, scale), (old_wide, old_scale) = _digits(new), _digits(old)
        return scale >= old_scale and wide - scale >= old_wide - old_scale
    return new.modifier >= old.modifier


def _digits(column: ShapeColumn) -> tuple[int, int]:
    precision, _, scale = column.sql_type.removeprefix("numeric(").removesuffix(")").partition(",")
    return int(precision), int(scale)

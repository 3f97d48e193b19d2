"""How one source relation lands in its target table: columns, casts, statements' parts."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from connectors.base import RefusedError
from pipeline.catalogue import TargetTable
from schemas.change_batch import Relation


@dataclass(frozen=True, slots=True)
class TableMap:
    """A relation mapped to its target table.

    `staged` is the type each source column has on its way in: the source's type where fields are binary
    (the target's own when it is not built in), text where they are text. `direct` says that all fields
    are binary and of the target's types, so rows can be copied straight into the table.
    """

    relation: Relation
    table: TargetTable
    staged: tuple[str, ...]
    direct: bool

    @property
    def target(self) -> sql.Identifier:
        """The table's quoted name, from the target's catalogue."""
        return sql.Identifier(*self.table.name)

    def settable(self, n: int) -> bool:
        """Whether an UPDATE can set source column n."""
        target = self.table.column(self.relation.columns[n].name)
        return target is not None and not target.fixed

    def assigned(self, n: int, value: sql.Composable) -> sql.Composable:
        """`value` of source column n as an expression of the target column's type."""
        column = self.relation.columns[n]
        target = self.table.column(column.name)
        if target is None or (self.staged[n] == target.type and column.binary):
            return value
        return sql.SQL("{}::{}").format(value, type_name(target.type))


def type_name(name: str) -> sql.Composable:
    """The quoted name of a type written bare (built in) or as schema.name."""
    schema, dot, bare = name.partition(".")
    return sql.Identifier(schema, bare) if dot else sql.Identifier("pg_catalog", name)


def map_table(relation: Relation, table: TargetTable | None) -> TableMap:
    """Map `relation` by column names. Raises RefusedError when the target lacks the table or a column."""
    where = f"table {relation.schema}.{relation.table}"
    if table is None:
        raise RefusedError(f"{where} does not exist on the target; create it there", "42P01")
    staged: list[str] = []
    direct = True
    for column in relation.columns:
        target = table.column(column.name)
        if target is None or target.generated:
            what = "does not exist" if target is None else "is generated"
            raise RefusedError(f"{where}: column {column.name} {what} on the target", "42703")
        if not column.binary:
            staged.append("text")
        elif "." in column.type:
            staged.append(target.type)
        else:
            staged.append(column.type)
        direct = direct and column.binary and staged[-1] == target.type
    return TableMap(relation, table, tuple(staged), direct)

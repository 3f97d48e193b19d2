"""Where a table of the target does not fit its source's: told before a row is refused, or is not what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.catalogue import TargetTable
from pipeline.definitions import TableDefinition
from pipeline.relations import ShapeColumn
from pipeline.schema_change import holds_all


@dataclass(frozen=True, slots=True)
class Misfit:
    """A difference, what to do, and whether rows are refused for it."""

    text: str
    remedy: str
    blocker: bool


def misfits(wanted: TableDefinition, there: TargetTable, *, adds: bool) -> Iterator[Misfit]:
    """Compare columns; `adds`: those that are missing will be added by the stream itself."""
    alter = f"ALTER TABLE {'.'.join(there.name)}"
    names = {column.name for column in wanted.columns}
    for source in wanted.columns:
        target = there.column(source.name)
        here = ShapeColumn(source.name, source.type, source.modifier)
        if target is None:
            remedy = "nothing to do: it will be added" if adds else f"{alter} ADD COLUMN {source.name} {here.sql_type}"
            yield Misfit(f"column {source.name} does not exist", remedy, not adds)
        elif target.generated:
            remedy = f"{alter} ALTER COLUMN {source.name} DROP EXPRESSION"
            yield Misfit(f"column {source.name} is generated, and has values of its own at the source", remedy, True)
        elif not holds_all(here, has := ShapeColumn(source.name, target.type, target.modifier)):
            text = (
                f"column {source.name} is {has.sql_type}, {here.sql_type} at the source: what does not fit is refused"
            )
            yield Misfit(f"{text} or rounded", f"{alter} ALTER COLUMN {source.name} TYPE {here.sql_type}", False)
    for target in there.columns:
        if target.needed and target.name not in names:
            text = f"column {target.name} is NOT NULL without a default, and the source has none of that name"
            yield Misfit(text, f"{alter} ALTER COLUMN {target.name} DROP NOT NULL (or SET DEFAULT)", True)
        elif target.name in wanted.generated and not target.generated:
            text = (
                f"column {target.name} is generated at the source, so its values are not in the log; here it gets none"
            )
            yield Misfit(text, "make it a generated column here too, or drop it", False)

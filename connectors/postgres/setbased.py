"""The set-based way: net change of a whole group as one DELETE, UPDATE and INSERT a table.

Rows reach the server as arrays, all tables in one round trip; by binary COPY where a type does not travel so, and
straight into the table where many are inserted. Joins are kept to index lookups on the target: a session setting,
since the planner knows nothing of these rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from connectors.postgres.arrays import element_types
from connectors.postgres.catalogue import column_types
from connectors.postgres.mapping import kept_out, map_table
from connectors.postgres.set_statements import SetStatements, temporary
from connectors.postgres.steps import Steps
from pipeline.catalogue import Catalogue, TableName
from pipeline.errors import RetriableError
from pipeline.netchange import NetTable
from schemas.change_batch import Relation

_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
# Rows of a table. Up to here COPY into it was no cheaper (4,000 rows: 0.8 to 1.3 µs a row of the server's time, arrays
# 0.4 to 0.8); beyond, it writes less to the log and holds no arrays.
INSERTS_BY_ARRAYS_MAX = 5000
SESSION = {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_material": "off", "jit": "off"}


class SetWriter:
    """Applies net changes on one connection, inside the caller's transaction."""

    def __init__(
        self, conn: psycopg.Connection, catalogue: Catalogue, ranks: dict[TableName, int], *, enforced: bool
    ) -> None:
        self._conn = conn
        self._catalogue = catalogue
        self._ranks = ranks
        self._acting = catalogue.acting_parents() if enforced else frozenset[TableName]()
        self._types = element_types(conn)
        self._statements: dict[Relation, SetStatements] = {}
        self._made: set[str] = set()
        self._filled: set[str] = set()

    def forget(self) -> None:
        """Note that the transaction ended: stages are empty, and those of a rolled back one may be gone."""
        self._filled.clear()

    def rolled_back(self) -> None:
        """Note a rollback: temporary tables that it created are gone."""
        self._filled.clear()
        self._made.clear()

    def apply(self, tables: Sequence[NetTable], steps: Steps, *, deletes_last: bool = False) -> None:
        """Apply, or have `steps` do it when they are finished, which also tells of rows that were not there.

        Children are deleted before parents, parents written before children. Deletes go first, since they
        free unique values; `deletes_last` suits foreign keys, whose references have moved by then. Raises
        driver errors and RefusedError.
        """
        ordered = sorted(tables, key=lambda table: self._ranks.get(table.relation.name, 0))
        if not deletes_last:
            self._delete_all(ordered, steps)
        for table in ordered:
            if table.inserts and deletes_last:
                self._insert(table, steps)
            for mask, rows in table.updates.items():
                self._update(table, mask, rows, steps)
            if table.inserts and not deletes_last:
                self._insert(table, steps)
        if deletes_last:
            self._delete_all(ordered, steps)

    def _delete_all(self, ordered: Sequence[NetTable], steps: Steps) -> None:
        for table in reversed(ordered):
            if table.deletes:
                self._delete(table, steps)

    def _for(self, relation: Relation) -> SetStatements:
        found = self._statements.get(relation)
        if found is None:
            table = self._catalogue.tables.get(relation.name)
            mapped = map_table(relation, table, movable=relation.name not in self._acting)
            found = self._statements[relation] = SetStatements(self._conn, len(self._statements), mapped, self._types)
        return found

    def _delete(self, table: NetTable, steps: Steps) -> None:
        statements = self._for(table.relation)
        if not statements.by_arrays:
            count = len(statements.keys).to_bytes(2, "big")
            self._fill(statements, statements.key_stage, statements.keys, [count + key for key in table.deletes], steps)
        steps.add(statements.delete(table.deletes), expected=len(table.deletes))

    def _update(self, table: NetTable, mask: bytes, rows: list[bytes], steps: Steps) -> None:
        statements = self._for(table.relation)
        if not statements.by_arrays:
            self._fill(statements, statements.row_stage, statements.everything, rows, steps)
        move = statements.move(rows)
        if move is not None:
            steps.add(move)
        steps.add(statements.update(mask, rows), expected=len(rows))

    def _insert(self, table: NetTable, steps: Steps) -> None:
        statements = self._for(table.relation)
        many = table.insert_count > INSERTS_BY_ARRAYS_MAX
        if statements.mapped.direct and (many or not statements.by_arrays):
            steps.flush()
            self._require_types(statements)
            taken, wanted = self._copy(statements.copy_direct(), table.inserts), table.insert_count
            if taken != wanted:
                name = ".".join(statements.mapped.table.name)
                raise kept_out(f"table {name}: {wanted - taken} of {wanted} rows to insert")
            return
        if not statements.by_arrays:
            self._fill(statements, statements.row_stage, statements.everything, table.inserts, steps)
        steps.add(statements.insert(table.inserts), expected=table.insert_count)

    def _require_types(self, statements: SetStatements) -> None:
        """Raise RetriableError where the target's columns have other types than were read: COPY would take the bytes
        of an `int4` for a `float4`. A lane that begins again reads them anew."""
        described = self._conn.execute(statements.look()).description or []
        types = [column.type_code for column in described]
        if statements.types is None:
            table = statements.mapped.table
            now = column_types(self._conn, table.name)
            if all(now.get(column.name) == column.type for column in table.columns):
                statements.types = types
        if statements.types != types:
            name = ".".join(statements.mapped.table.name)
            raise RetriableError(f"the columns of {name} have changed on the target; reading its catalogue again")

    def _fill(
        self, statements: SetStatements, stage: str, columns: list[int], rows: Sequence[bytes], steps: Steps
    ) -> None:
        steps.flush()
        if stage not in self._made:
            self._conn.execute("SET LOCAL client_min_messages = warning")
            self._conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(temporary(stage)))
            self._conn.execute(statements.create(stage, columns))
            self._made.add(stage)
        if stage in self._filled:
            self._conn.execute(sql.SQL("TRUNCATE {}").format(temporary(stage)))
        self._filled.add(stage)
        self._copy(sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(temporary(stage)), rows)

    def _copy(self, statement: sql.Composed, rows: Sequence[bytes]) -> int:
        """Copy rows; return how many the table has taken."""
        cursor = self._conn.cursor()
        with cursor.copy(statement) as copy:
            copy.write(b"".join([_COPY_HEADER, *rows, _COPY_END]))
        return cursor.rowcount

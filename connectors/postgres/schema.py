"""Following schema changes on the target: DDL, and what the ledger knows of the source's tables.

**Guarantee:** the DDL, the ledger's row of the table and the transaction that has the first changed row are one
commit: after a crash either all of it is there, or the change is planned again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql

from connectors.errors import RefusedError, SchemaChangeError
from connectors.postgres.catalogue import table_exists
from connectors.postgres.type_names import sql_type
from connectors.settings import TargetSettings
from pipeline.catalogue import Catalogue, TableName
from pipeline.errors import RetriableError
from pipeline.relations import Shapes, decode_shape, encode_shape, has_news, shape_of
from pipeline.schema_change import (
    AddColumn,
    CreateTable,
    DropColumn,
    Plan,
    RenameColumn,
    RenameTable,
    Step,
    WidenColumn,
    asks_nothing,
    fits,
    plan_change,
)  # fmt: skip
from schemas.change_batch import ChangeBatch, Relation

log = logging.getLogger(__name__)
# How long DDL may wait for readers of the table, while everybody else queues behind it; then it is tried again.
_LOCK_TIMEOUT = "10s"
_MISSING_TYPE = ("42704", "3F000")  # undefined_object, invalid_schema_name


def read_shapes(conn: psycopg.Connection, stream: str) -> Shapes:
    """What the ledger knows of the columns of the stream's tables."""
    rows = conn.execute("SELECT schema_name, table_name, columns FROM headrace.relation WHERE stream = %s", [stream])
    return Shapes({(schema, table): decode_shape(text) for schema, table, text in rows})


class SchemaFollower:
    """One lane's view of the source's tables, and its hand on those of the target."""

    def __init__(self, conn: psycopg.Connection, stream: str, settings: TargetSettings) -> None:
        self._conn = conn
        self._stream = stream
        self._policy = settings.schema_changes
        self._may_create = settings.create_tables == "missing"
        self.shapes = Shapes()
        self.stale = True  # read again before the next transaction
        self.written = False
        self._unknown: set[TableName] = set()
        self._first_seen: dict[TableName, Relation] = {}  # in the group at work, and of the target's columns
        self._refused: set[TableName] = set()  # by this process, in this epoch

    def load(self) -> None:
        """Read the ledger; there may be none yet."""
        known = table_exists(self._conn, ("headrace", "relation"))
        self.shapes = read_shapes(self._conn, self._stream) if known else Shapes()
        self.stale = self.written = False
        self._unknown.clear()

    def rolled_back(self) -> None:
        """Note a rollback, which takes back what was written."""
        self._first_seen.clear()
        self.stale = self.stale or self.written

    def has_news(self, batches: Sequence[ChangeBatch]) -> bool:
        """Whether a relation has other columns than the ledger knew when it was read, or is not known to it."""
        return any(has_news(batch, self.shapes, self._unknown) for batch in batches)

    def require_known(self, batches: Sequence[ChangeBatch], catalogue: Catalogue) -> None:
        """Raise RefusedError for a relation that differs from the known one: its unit has to be applied in order.

        One that is not known at all is taken as it comes; `note_first_seen` notes it if the target has its columns.
        """
        self._first_seen.clear()
        for batch in batches:
            for section in batch.sections:
                name = section.relation.name
                if name not in self.shapes:
                    if asks_nothing(section.relation, self.shapes, catalogue):
                        self._first_seen[name] = section.relation
                    else:
                        self._unknown.add(name)
                elif not self.shapes.fit(section.relation):
                    raise RefusedError(f"table {'.'.join(section.relation.name)} has changed its columns", "HR011")

    def note_first_seen(self) -> None:
        """Write into the ledger the tables that it did not know, in the caller's transaction, right before its end.

        In the order of their names: another lane may be about to write the same.
        """
        while self._first_seen:
            self.note(self._first_seen.pop(min(self._first_seen)))

    def forget_all(self) -> None:
        """A new snapshot tells of all tables."""
        self._conn.execute("DELETE FROM headrace.relation WHERE stream = %s", [self._stream])
        self.shapes = Shapes()

    def forget_replaced(self, relation: Relation) -> None:
        """All rows of the relation come anew: it may be another table of the same name."""
        known = self.shapes.get(relation.name)
        if known is not None and known.oid not in (0, relation.oid):
            del self.shapes[relation.name]

    def note(self, relation: Relation) -> None:
        """Write the relation's columns into the ledger, in the caller's transaction."""
        self.written = True
        known = set(self.shapes)
        self.shapes.learn(relation)
        for name in known - set(self.shapes):
            self._conn.execute(
                "DELETE FROM headrace.relation WHERE stream = %s AND schema_name = %s AND table_name = %s",
                [self._stream, *name],
            )
        self._conn.execute(
            "INSERT INTO headrace.relation VALUES (%s, %s, %s, %s) ON CONFLICT (stream, schema_name, table_name)"
            " DO UPDATE SET columns = excluded.columns",
            [self._stream, *relation.name, encode_shape(self.shapes[relation.name])],
        )
        self._conn.execute(
            "DELETE FROM headrace.refused_change WHERE stream = %s AND schema_name = %s AND table_name = %s",
            [self._stream, *relation.name],
        )

    def follow(self, relation: Relation, catalogue: Catalogue, epoch: int, position: int) -> bool:
        """Have the target follow `relation` in the caller's transaction; whether its catalogue is another one now.

        Raises SchemaChangeError when the policy does not allow it.
        """
        plan = plan_change(relation, self.shapes, catalogue)
        where = f"stream {self._stream}: table {'.'.join(relation.name)}, position {position}"
        created = self._may_create and any(isinstance(step, CreateTable) for step in plan.steps)
        if not created and not plan.allowed(self._policy):
            if not self._accepted(relation, catalogue, epoch):
                raise SchemaChangeError(self._refusal(relation, plan), relation)
            log.warning("%s: the source's columns changed; the target's are taken as they are now", where)
            plan = Plan()
        self.written = True
        for statement in self._statements(relation.name, plan.steps):
            log.warning("%s: schema change: %s", where, statement.as_string(self._conn))
            self._execute(relation, statement)
        self.note(relation)
        return bool(plan.steps)

    def _execute(self, relation: Relation, statement: sql.Composed) -> None:
        self._conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_TIMEOUT)))
        try:
            self._conn.execute(statement)
        except psycopg.Error as error:
            if error.sqlstate not in _MISSING_TYPE:
                raise
            text = statement.as_string(self._conn)
            raise SchemaChangeError(
                f"table {'.'.join(relation.name)}: {error.diag.message_primary}, so the target can't follow the source "
                f"by {text}; create what is missing there",
                relation,
            ) from error

    def _refusal(self, relation: Relation, plan: Plan) -> str:
        todo = "; ".join(s.as_string(self._conn) for s in self._statements(relation.name, plan.steps))
        doubt = f": {plan.doubt}" if plan.doubt else ""
        advice = f". On the target, run: {todo}" if todo else ""
        return (
            f'table {".".join(relation.name)} changed at the source, and schema_changes = "{self._policy}" does not '
            f"follow{doubt}{advice}. Then start again: the stream goes on here, with the columns that the target has"
        )

    def _accepted(self, relation: Relation, catalogue: Catalogue, epoch: int) -> bool:
        """Whether an operator started the stream again after this very change had stopped it.

        Raises RetriableError for a unit of the epoch that was stopped, which a process finds that starts again
        before the planner does.
        """
        row = self._conn.execute(
            "SELECT r.columns, r.epoch, s.stopped FROM headrace.refused_change r JOIN headrace.stream s USING (stream)"
            " WHERE r.stream = %s AND r.schema_name = %s AND r.table_name = %s",
            [self._stream, *relation.name],
        ).fetchone()
        if row is None or not decode_shape(row[0]).same(shape_of(relation)):
            return False
        if row[1] >= epoch:
            if relation.name not in self._refused:
                raise RetriableError(f"stream {self._stream} is stopped; waiting for its planner to start again")
            return False
        return row[2] == "" and fits(relation, catalogue.tables.get(relation.name))

    def note_refusal(self, relation: Relation, epoch: int) -> None:
        """Remember in a transaction of its own that this change stopped the stream in `epoch`."""
        self._conn.execute(
            "INSERT INTO headrace.refused_change VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (stream, schema_name, table_name)"
            " DO UPDATE SET columns = excluded.columns, epoch = excluded.epoch",
            [self._stream, *relation.name, encode_shape(shape_of(relation)), epoch],
        )
        self._refused.add(relation.name)

    def _statements(self, name: TableName, steps: Sequence[Step]) -> Iterator[sql.Composed]:
        for step in steps:
            yield from _compose(name, step)


def _compose(name: TableName, step: Step) -> Iterator[sql.Composed]:
    table = sql.Identifier(*name)
    if isinstance(step, CreateTable):
        columns = [sql.SQL("{} {}").format(sql.Identifier(c.name), sql_type(c.type, c.modifier)) for c in step.columns]
        if step.key:
            columns.append(sql.SQL("PRIMARY KEY ({})").format(sql.SQL(", ").join(map(sql.Identifier, step.key))))
        yield sql.SQL("CREATE TABLE {} ({})").format(table, sql.SQL(", ").join(columns))
    elif isinstance(step, RenameTable):
        if step.old[1] != name[1]:
            yield sql.SQL("ALTER TABLE {} RENAME TO {}").format(sql.Identifier(*step.old), sql.Identifier(name[1]))
        if step.old[0] != name[0]:
            moved = sql.Identifier(step.old[0], name[1])
            yield sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(moved, sql.Identifier(name[0]))
    elif isinstance(step, AddColumn):
        column, kind = sql.Identifier(step.column.name), sql_type(step.column.type, step.column.modifier)
        if step.missing is None:
            yield sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(table, column, kind)
        else:
            value = sql.SQL("{}::{}").format(sql.Literal(step.missing), kind)
            yield sql.SQL("ALTER TABLE {} ADD COLUMN {} {} DEFAULT {}").format(table, column, kind, value)
            yield sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP DEFAULT").format(table, column)
    elif isinstance(step, DropColumn):
        yield sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(table, sql.Identifier(step.name))
    elif isinstance(step, RenameColumn):
        names = (sql.Identifier(step.old), sql.Identifier(step.new))
        yield sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(table, *names)
    elif isinstance(step, WidenColumn):
        column, kind = sql.Identifier(step.column.name), sql_type(step.column.type, step.column.modifier)
        yield sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {}").format(table, column, kind)

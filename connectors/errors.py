"""What a connector raises when it is the data, not the connection, that is at fault."""

from __future__ import annotations

from pipeline.errors import HeadraceError
from schemas.change_batch import Relation


class RefusedError(Exception):
    """The target refuses the data itself (integrity, data type): the ordered way or an operator decides."""

    def __init__(self, message: str, sqlstate: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class SchemaChangeError(RefusedError):
    """The source's table has changed in a way that the target may not follow by itself. Never poison: it stops."""

    def __init__(self, message: str, relation: Relation) -> None:
        super().__init__(message, "HR010")
        self.relation = relation


class KeyTextError(HeadraceError):
    """A key in a request names no table or does not fit its key columns."""

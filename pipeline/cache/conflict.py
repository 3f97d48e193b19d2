"""Whether a row is still the one that a reader has seen, told from the images of both.

A tag stands for an image: rows of equal tags are equal. A row may get another tag without another value, when its
table's columns are renamed, or sent in another form: a needless conflict, never one that is overlooked.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

from schemas.change_batch import Relation

TAG_BYTES = 16  # two of 2**40 images share one with a probability of 2**-49
NO_ROW = "none"  # the tag of a row that does not exist


class Conflict(StrEnum):
    """What has become of a row since it was seen."""

    DELETED = "deleted"  # it was there
    INSERTED = "inserted"  # there was none
    UPDATED = "updated"


def row_tag(relation: Relation, row: bytes | None) -> str:
    """The tag of a row image and of the columns that it is of."""
    if row is None:
        return NO_ROW
    columns = [(column.name, column.type, column.binary) for column in relation.columns]
    return hashlib.blake2b(repr(columns).encode() + row, digest_size=TAG_BYTES).hexdigest()


def conflict(seen: str, now: str) -> Conflict | None:
    """Compare the tag of the row that was seen with that of the row as it is; None: they are the same row."""
    if seen == now:
        return None
    if now == NO_ROW:
        return Conflict.DELETED
    return Conflict.INSERTED if seen == NO_ROW else Conflict.UPDATED

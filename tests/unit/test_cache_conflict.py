"""When a row counts as another one than was seen; tests/properties/test_cache.py looks at the rows themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.cache.conflict import NO_ROW, Conflict, conflict, row_tag
from schemas.rows import pack_row
from tests.unit.cached import ACCOUNT

RELATION = ACCOUNT.relation
ROW = pack_row([b"\0" * 8, b"x", b"\0\0\0\1"])


@pytest.mark.parametrize(
    ("seen", "now", "kind"),
    [
        ("a", "a", None), (NO_ROW, NO_ROW, None), ("a", "b", Conflict.UPDATED), ("a", NO_ROW, Conflict.DELETED),
        (NO_ROW, "a", Conflict.INSERTED),
    ],
)  # fmt: skip
def test_what_has_become_of_a_row(seen: str, now: str, kind: Conflict | None) -> None:
    assert conflict(seen, now) is kind


@pytest.mark.parametrize("change", [{"name": "n2"}, {"type": "int2"}, {"binary": False}])
def test_a_tag_is_of_a_row_and_of_what_its_bytes_mean(change: dict[str, object]) -> None:
    last = replace(RELATION.columns[-1], **change)  # type: ignore[arg-type]
    assert row_tag(RELATION, ROW) != row_tag(replace(RELATION, columns=(*RELATION.columns[:-1], last)), ROW)
    assert row_tag(RELATION, ROW) != row_tag(RELATION, ROW[:-1] + b"\2")
    assert row_tag(RELATION, None) == NO_ROW


def test_what_only_the_source_knows_of_a_column_makes_no_other_row() -> None:
    """A table's columns as its target tells them, before the log has."""
    columns = tuple(replace(column, number=3, modifier=8, key=True) for column in RELATION.columns)
    assert row_tag(RELATION, ROW) == row_tag(replace(RELATION, columns=columns, identity="f"), ROW)

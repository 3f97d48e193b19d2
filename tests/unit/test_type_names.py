"""Names of types: what the catalogue's expression writes is read back as it was."""

from __future__ import annotations

import pytest

from connectors.postgres.type_names import split_type_name, type_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("int4", ("pg_catalog", "int4")),
        ("kinds.mood", ("kinds", "mood")),
        ("kinds.odd.name", ("kinds", "odd.name")),
        ('"a.b".mood', ("a.b", "mood")),
        ('"a.""b"".c".m.ood', ('a."b".c', "m.ood")),
        ('"""x".mood', ('"x', "mood")),
        ('a"b.mood', ('a"b', "mood")),
    ],
)
def test_a_name_is_split(name: str, parts: tuple[str, str]) -> None:
    assert split_type_name(name) == parts


def test_both_parts_are_quoted() -> None:
    assert type_name('"a.b".m"ood').as_string() == '"a.b"."m""ood"'

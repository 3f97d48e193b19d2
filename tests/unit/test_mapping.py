"""Names and columns on their way to the target."""

from __future__ import annotations

import pytest

from pipeline.definitions import (
    ColumnDefinition,
    ReferenceDefinition,
    TableDefinition,
    TypeDefinition,
    UniqueDefinition,
    mapped_definition,
)  # fmt: skip
from pipeline.errors import ConfigError
from pipeline.mapping import ColumnUse, TableMapping, check_key

MAPPING = TableMapping(
    {"public": "shop", "public.a": "crm.b"}, ("public.*.secret*",), ("*.email", "public.a.secret_but_hashed"), b"key"
)


@pytest.mark.parametrize(
    ("source", "target"),
    [(("public", "a"), ("crm", "b")), (("public", "x"), ("shop", "x")), (("other", "a"), ("other", "a"))],
)
def test_names(source: tuple[str, str], target: tuple[str, str]) -> None:
    assert MAPPING.target_name(source) == target


def test_two_tables_do_not_become_one() -> None:
    MAPPING.require_distinct([("public", "a"), ("public", "b")])
    with pytest.raises(ConfigError, match=r"other.x and public.y would both become other.x"):
        TableMapping({"public.y": "other.x"}).require_distinct([("other", "x"), ("public", "y")])
    with pytest.raises(ConfigError, match=r"no `schema\.table`"):
        TableMapping({"public.y": "x"}).target_name(("public", "y"))


def test_columns() -> None:
    uses = MAPPING.uses(("public", "a"), ["id", "email", "secrets", "secret_but_hashed"])
    assert uses == [ColumnUse.KEEP, ColumnUse.HASH, ColumnUse.LEAVE_OUT, ColumnUse.LEAVE_OUT]
    with pytest.raises(ConfigError, match=r"public.a.secret belongs to the table's key"):
        check_key(("public", "a"), [("id", True), ("secret", True)], MAPPING)
    check_key(("public", "a"), [("id", True), ("secret", False)], MAPPING)


def test_the_secret_is_not_shown() -> None:
    # RFC 4231 has this very pair for HMAC-SHA-256, test case 2.
    jefe = TableMapping(secret=b"Jefe")
    assert jefe.hashed(b"what do ya want for nothing?") == (
        b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    assert "Jefe" not in repr(jefe)


def test_a_definition_under_the_target_s_names() -> None:
    mood = TypeDefinition("public.mood", labels=("sad",))
    table = TableDefinition(
        ("public", "a"),
        (
            ColumnDefinition("id", "int4", -1, not_null=True, sequence=True),
            ColumnDefinition("email", "public.mood", -1, not_null=False, needs=(mood,)),
            ColumnDefinition("secret", "text", -1, not_null=False),
        ),
        (UniqueDefinition(("id",), primary=True), UniqueDefinition(("email",)), UniqueDefinition(("secret",))),
        (
            ReferenceDefinition(("id",), ("public", "c"), ("id",)),
            ReferenceDefinition(("email",), ("public", "c"), ("e",)),
        ),
    )
    found = mapped_definition(table, MAPPING)
    assert found.name == ("crm", "b")
    assert [(c.name, c.type, c.needs) for c in found.columns] == [("id", "int4", ()), ("email", "text", ())]
    assert [key.columns for key in found.uniques] == [("id",), ("email",)]
    assert [(key.columns, key.parent) for key in found.references] == [(("id",), ("shop", "c"))]

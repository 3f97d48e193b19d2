"""Which tables a stream replicates."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.selection import select_tables, selected

THERE = [("public", "b"), ("public", "a"), ("sales", "a"), ("headrace", "lane"), ("pg_catalog", "pg_class")]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*"], [], ["public.a", "public.b", "sales.a"]),
        (["public.*"], [], ["public.a", "public.b"]),
        (["*.a"], [], ["public.a", "sales.a"]),
        (["*"], ["sales.*"], ["public.a", "public.b"]),
        (["public.a", "public.*"], ["public.b"], ["public.a"]),
        (["public.[ab]"], [], ["public.a", "public.b"]),
        (["public.*"], ["*"], []),
    ],
)
def test_patterns(include: list[str], exclude: list[str], expected: list[str]) -> None:
    assert [".".join(name) for name in select_tables(THERE, include, exclude)] == expected


@pytest.mark.parametrize("pattern", ["public.c", "a", "PUBLIC.A", "pg_catalog.*", "headrace.*", "information_schema.*"])
def test_a_pattern_that_chooses_nothing_is_an_error_that_shows_what_there_is(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"public\.a, public\.b") as caught:
        select_tables(THERE, ["public.*", pattern], [])
    assert repr(pattern) in str(caught.value)


def test_an_empty_source_says_so() -> None:
    with pytest.raises(ConfigError, match="none"):
        select_tables([], ["*"], [])


def test_system_tables_are_never_chosen() -> None:
    for schema in ("pg_catalog", "information_schema", "headrace"):
        assert not selected((schema, "t"), ["*"], [])


def test_dots_within_a_name_do_not_hide_a_table() -> None:
    assert selected(("public", "a.b"), ["public.*"], [])
    assert not selected(("public", "a.b"), ["public.a"], [])

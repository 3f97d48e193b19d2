"""The generated page is that of today's model."""

from __future__ import annotations

from pathlib import Path

from headrace.config_docs import configuration_page

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_configuration_page_is_fresh() -> None:
    assert PAGE.read_text("utf-8") == configuration_page(), "python -m headrace.config_docs > docs/configuration.md"


def test_a_switch_is_written_as_toml_has_it() -> None:
    assert "| `enabled` | boolean | `false` |" in configuration_page()

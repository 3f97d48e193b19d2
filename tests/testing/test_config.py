"""Configurations made in a test are read as what they were."""

from __future__ import annotations

import tomllib

import pytest

from headrace.testing.config import stream_config, toml_text
from topologies.settings_file import parse_settings


def test_text_is_read_back_as_the_same_tables() -> None:
    config = stream_config(
        "shop", "kafka:9092", "postgresql://u:p%20w@source/shop", 'host=target dbname="žluť" user=\'u\'',
        source={"tables": ["public.*", 'sales."x"'], "linger_ms": 2.5}, target={"lanes": 2},
    )  # fmt: skip
    config["lag"] = {"window": {"on": True, "names": []}}
    assert tomllib.loads(toml_text(config)) == config


def test_a_stream_is_a_valid_configuration() -> None:
    config = stream_config("shop", "kafka:9092", "postgresql://source/shop", "postgresql://target/shop")
    settings = parse_settings(config, "a test")
    assert settings.topic("changes") == "shop.changes"
    assert settings.stream("shop").target.lanes == 4


def test_what_toml_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be written"):
        toml_text({"kafka": {"options": None}})

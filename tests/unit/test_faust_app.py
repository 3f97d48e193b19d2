"""What `faust -A topologies.ROLE worker` finds."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from pipeline.errors import ConfigError


@pytest.mark.parametrize("role", ["planner", "fusion", "affinity"])
def test_a_role_makes_its_application_from_the_configuration_that_is_named(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"topologies.{role}")
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="set HEADRACE_CONFIG"):
        _ = module.app
    monkeypatch.setenv("HEADRACE_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        _ = module.app
    with pytest.raises(AttributeError, match=f"'topologies.{role}' has no attribute 'apps'"):
        _ = module.apps

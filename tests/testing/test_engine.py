"""Without a container engine tests are skipped with the reason, or fail where one is required."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.testing.engine import IMAGES, engine_missing, image_of
from headrace.testing.fixtures import ENV_REQUIRED, require_engine


@pytest.fixture(autouse=True)
def _nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")


def test_the_reason_names_the_place_and_the_remedy() -> None:
    reason = engine_missing() or ""
    assert "absent.sock" in reason
    assert "docker/engine start" in reason


def test_a_test_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no container engine"):
        require_engine()


def test_a_test_fails_where_an_engine_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="no container engine"):
        require_engine()


def test_images_come_from_the_environment_or_are_public(monkeypatch: pytest.MonkeyPatch) -> None:
    for part, (variable, public) in IMAGES.items():
        monkeypatch.delenv(variable, raising=False)
        assert image_of(part) == public
        monkeypatch.setenv(variable, f"registry.example/{part}:1")
        assert image_of(part) == f"registry.example/{part}:1"

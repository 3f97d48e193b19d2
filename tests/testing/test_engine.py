"""Without a container engine tests are skipped with the reason, or fail where one is required."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.testing.engine import IMAGES, engine_missing, image_of
from headrace.testing.fixtures import ENV_REQUIRED, require_engine
from tests.support.environment import without_headrace

ROOT = Path(__file__).parents[2]
A_TEST_THAT_SKIPS = """
import pytest


@pytest.mark.containers
def test_it():
    pytest.skip("of its own will")
"""


def run_pytest(directory: Path, *, required: str, **variables: str) -> tuple[int, str]:
    """Run a test that skips under the rules of the container tests; returns the exit code and what was said."""
    (directory / "pytest.ini").write_text("[pytest]\nmarkers =\n    containers\n")
    (directory / "conftest.py").write_text(
        "from tests.support.container_skips import pytest_runtest_makereport, pytest_runtest_setup\n"
    )
    (directory / "test_it.py").write_text(A_TEST_THAT_SKIPS)
    # Plug-ins have no part in it, and take seconds to load.
    own = {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", ENV_REQUIRED: required}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "test_it.py"],
        cwd=directory, env={**without_headrace(), **own, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


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


def test_any_skip_is_a_failure_where_an_engine_is_required(tmp_path: Path) -> None:
    code, said = run_pytest(tmp_path, required="0")
    assert (code, "1 skipped" in said) == (0, True), said
    code, said = run_pytest(tmp_path, required="1")
    assert (code, "1 failed" in said, "of its own will" in said) == (1, True, True), said


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [("HEADRACE_SKIP_CONTAINERS", "no engine", "no engine"), ("HEADRACE_CONTAINERS_UNTIL", "1", "is over")],
)
def test_a_skip_on_purpose_is_told_and_none(tmp_path: Path, variable: str, value: str, reason: str) -> None:
    code, said = run_pytest(tmp_path, required="1", **{variable: value})
    assert (code, "1 skipped" in said, reason in said) == (0, True, True), said

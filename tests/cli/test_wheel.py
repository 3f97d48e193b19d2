"""A wheel of the tree works in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree by its own build backend."""
    directory = tmp_path_factory.mktemp("wheel")
    code = f"import hatchling.build as b; print(b.build_wheel({str(directory)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return directory / built.stdout.strip().splitlines()[-1]


def test_the_wheel_holds_the_packages_and_their_data_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"headrace", "topologies", "connectors", "pipeline", "schemas"}
    assert "schemas/change_batch.avsc" in names
    assert any(name.endswith("kafka-jars.lock") for name in names)


def test_the_command_works_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    zipfile.ZipFile(wheel).extractall(site)
    # The dependencies come from this environment; the tree's own packages do not.
    dependencies = sysconfig.get_path("purelib")
    (site / "dependencies.pth").write_text(dependencies)
    code = (
        "import headrace, sys; assert headrace.__file__.startswith(sys.prefix); from headrace.cli import main; main()"
    )
    shown = subprocess.run([python, "-c", code, "--help"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "verify" in shown.stdout

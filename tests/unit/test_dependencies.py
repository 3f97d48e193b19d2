"""What the packages import is declared in pyproject.toml: where only these are installed, every module is found."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("headrace", "topologies", "connectors", "pipeline", "schemas")
# Folders whose users install an extra, or pytest, for their sake.
OF_EXTRAS = {"headrace/embedded": ["embedded", "dev"], "headrace/testing": ["containers", "dev"]}
DISTRIBUTIONS = packages_distributions()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name."""
    return {normalized(re.split(r"[\[><=!~; ]", requirement)[0]) for requirement in requirements}


def normalized(name: str) -> str:
    """A distribution's name as registries compare it."""
    return name.lower().replace("_", "-")


def imported(path: Path) -> Iterator[str]:
    """The top-level packages of others that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found = [node.module]
        for name in found:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in PACKAGES:
                yield top


def undeclared(path: Path, allowed: set[str]) -> set[str]:
    """What a module imports and nobody has to install."""
    return {top for top in imported(path) if not {*map(normalized, DISTRIBUTIONS.get(top, []))} & allowed}


def allowed_in(path: Path) -> set[str]:
    """The distributions that are there when this module is used."""
    folder = path.relative_to(ROOT).as_posix()
    extras = [extra for prefix, found in OF_EXTRAS.items() if folder.startswith(prefix) for extra in found]
    return names(PROJECT["dependencies"]).union(*(names(PROJECT["optional-dependencies"][extra]) for extra in extras))


def test_what_is_imported_is_declared() -> None:
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    found = {
        str(path.relative_to(ROOT)): missing for path in modules if (missing := undeclared(path, allowed_in(path)))
    }
    assert found == {}


def test_what_is_not_declared_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import os, yarl\nfrom psycopg import sql\nfrom headrace import cli\n")
    assert undeclared(module, names(PROJECT["dependencies"])) == {"yarl"}

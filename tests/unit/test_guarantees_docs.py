"""docs/guarantees.md names code and tests; each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"`([\w./]+)`")


def missing(text: str) -> list[str]:
    """The tests, files and folders between backticks that are not in the repository."""
    files = list((ROOT / "tests").rglob("*.py"))
    functions = {name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.M)}
    names = {path.name for path in files}
    found = []
    for name in NAME.findall(text):
        if "/" in name:
            there = (ROOT / name).exists()
        elif name.startswith("test_"):
            there = name in (names if name.endswith(".py") else functions)
        else:
            continue
        if not there:
            found.append(name)
    return found


def test_what_the_guarantees_name_is_there() -> None:
    assert missing((ROOT / "docs/guarantees.md").read_text("utf-8")) == []


def test_what_is_not_there_is_found() -> None:
    text = "`test_nothing_of_this_name`, `test_no_such.py`, `pipeline/none.py`, `test_tidy.py`, `advance`"
    assert missing(text) == ["test_nothing_of_this_name", "test_no_such.py", "pipeline/none.py"]

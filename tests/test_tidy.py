"""The house style that no linter checks: sizes, and what `pipeline/` must not touch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("headrace", "topologies", "connectors", "pipeline", "schemas", "tests", "benchmarks", "examples")
MODULES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
# What `pipeline/` may not name, and what it does instead.
BANNED_IN_PIPELINE = {
    "time.time": "take the time as an argument",
    "time.time_ns": "take the time as an argument",
    "time.monotonic": "take the time as an argument",
    "time.perf_counter": "take the time as an argument",
    "datetime.now": "take the time as an argument",
    "datetime.utcnow": "take the time as an argument",
    "datetime.datetime.now": "take the time as an argument",
    "random": "decide without chance, or take a number as an argument",
    "print": "return what there is to say, or raise it",
    "open": "take the content as an argument",
}
# Names that threading.Thread needs for itself, in some Python from 3.11 on (`_handle` since 3.13, `_context` 3.14).
THREADS_OWN = frozenset({
    "_bootstrap", "_bootstrap_inner", "_context", "_daemonic", "_delete", "_handle", "_ident", "_initialized",
    "_invoke_excepthook", "_is_stopped", "_name", "_native_id", "_os_thread_handle", "_set_ident", "_set_native_id",
    "_started", "_stderr", "_stop", "_tstate_lock",
})  # fmt: skip
Found = Iterator[tuple[int, str]]


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or an attribute, else nothing."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def oversized(source: str, tree: ast.Module) -> Found:
    """Modules and functions that are too long."""
    lines = source.count("\n")
    if lines > MODULE_LINES_MAX:
        yield 1, f"{lines} lines, over {MODULE_LINES_MAX}: divide the module"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {size} lines, over {FUNCTION_LINES_MAX}: divide the function"


def bare_excepts(tree: ast.Module) -> Found:
    """`except:` without a class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "a bare except: name what is expected"


def clashes_with_thread(tree: ast.Module) -> Found:
    """Methods and attributes of a thread's class that some Python's Thread has, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(dotted(base).endswith("Thread") for base in node.bases):
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef):
                    name = inner.name
                elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                    name = inner.attr
                else:
                    continue
                if name in THREADS_OWN:
                    yield inner.lineno, f"{node.name}.{name}: threading.Thread has an attribute of that name"


def banned(tree: ast.Module) -> Found:
    """Clocks, chance and input or output, called or imported."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Name | ast.Attribute):
            names = [dotted(node)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            remedy = BANNED_IN_PIPELINE.get(name) or BANNED_IN_PIPELINE.get(name.partition(".")[0])
            if remedy:
                yield getattr(node, "lineno", 0), f"{name}: {remedy}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_module_is_tidy(path: Path) -> None:
    source = (ROOT / path).read_text("utf-8")
    tree = ast.parse(source)
    found = [*oversized(source, tree), *bare_excepts(tree), *clashes_with_thread(tree)]
    found += banned(tree) if path.parts[0] == "pipeline" else ()
    assert not found, "\n".join(f"{path}:{line}: {text}" for line, text in found)


@pytest.mark.parametrize(
    "line",
    [
        "now = time.time()", "from time import time", "now = datetime.now", "import random", "import random as r",
        "from random import choice", "f = print", "open('x')", "x = random.random()",
    ],
)  # fmt: skip
def test_what_is_banned_is_found(line: str) -> None:
    assert {number for number, _ in banned(ast.parse(f"x = 1\n{line}"))} == {2}


def test_names_that_a_thread_has_are_found() -> None:
    own = "class A(threading.Thread):\n  def _handle(self): self._context = 1\nclass B:\n  def _handle(self): ..."
    assert [line for line, _ in clashes_with_thread(ast.parse(own))] == [2, 2]


def test_long_code_and_bare_excepts_are_found() -> None:
    long_function = "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX
    assert [line for line, _ in oversized(long_function, ast.parse(long_function))] == [1]
    assert not list(oversized("", ast.parse(long_function.removesuffix("    x = 1\n"))))
    long_module = "x = 1\n" * (MODULE_LINES_MAX + 1)
    assert [line for line, _ in oversized(long_module, ast.parse(long_module))] == [1]
    assert [line for line, _ in bare_excepts(ast.parse("try:\n    pass\nexcept:\n    pass"))] == [3]

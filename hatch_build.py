"""Build hook: compiles the hot loops (`*.pyx`) where Cython and a C compiler are, and does without them elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = (
    "connectors/postgres/_pump.pyx", "connectors/postgres/_arrays.pyx", "schemas/_packed.pyx",
    "schemas/_block_columns.pyx",
)  # fmt: skip
BUILD = """
import sys
from Cython.Build import cythonize
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
names = {path: path.removesuffix(".pyx").replace("/", ".") for path in sys.argv[2:]}
extensions = [Extension(name, [path], extra_compile_args=["-O2", "-g0"]) for path, name in names.items()]
command = build_ext(Distribution({"ext_modules": cythonize(extensions, build_dir=sys.argv[1], quiet=True)}))
command.inplace, command.build_temp = True, sys.argv[1]
command.finalize_options()
command.run()
for name in names.values():
    print(command.get_ext_filename(name))
"""


class CompiledLoops(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore] # hatchling is untyped
    """The hook that hatchling looks for in this file."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Compile into the tree. A failure leaves the package pure, with a warning."""
        if version == "editable":
            for source in SOURCES:
                for old in Path(self.root).glob(source.replace(".pyx", ".*.so")):
                    old.unlink()  # of an earlier state of its source
        if os.environ.get("HEADRACE_PURE"):
            return
        with tempfile.TemporaryDirectory() as scratch:
            done = subprocess.run(
                [sys.executable, "-c", BUILD, scratch, *SOURCES], cwd=self.root, capture_output=True, text=True
            )
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            self.app.display_warning(f"the hot loops stay pure Python, they could not be compiled: {reason}")
            return
        built = [line for line in done.stdout.splitlines() if (Path(self.root) / line).exists()]
        if version == "standard":
            build_data["force_include"] = {str(Path(self.root) / name): name for name in built}
            build_data["pure_python"], build_data["infer_tag"] = False, True

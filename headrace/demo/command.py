"""The command `headrace demo`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import FrameType

import psycopg
from rich.console import Console

from headrace.console import EX_FAILURE, EX_OK, report
from headrace.demo.page import write_page
from headrace.demo.results import Result, summary
from headrace.demo.run import Options, run_demo
from headrace.verify import as_table

EX_INTERRUPTED = 130


def demo(options: Options, json_path: Path | None, html_path: Path) -> int:
    """Run the demonstration, print and write its result; 1 when anything differs.

    Raises EmbeddedError, HeadraceError.
    """
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = run_demo(options, console)
    except KeyboardInterrupt:
        console.print("interrupted; everything was stopped")
        return EX_INTERRUPTED
    except psycopg.Error as error:
        report(error, "demo")
        return EX_FAILURE
    console.print(as_table([result.check]))
    console.print(summary(result))
    _write(result, json_path, html_path, console)
    return EX_OK if result.right else EX_FAILURE


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _write(result: Result, json_path: Path | None, html_path: Path, console: Console) -> None:
    if json_path is not None:
        json_path.write_text(json.dumps(result.as_json(), indent=2) + "\n")
    write_page(result, html_path)
    console.print(f"Page with plots: {html_path.absolute()}", soft_wrap=True)

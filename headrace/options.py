"""What several commands share: options, and the console they print to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from topologies.settings_file import ENV_CONFIG

Config = Annotated[
    Path, typer.Option("-c", "--config", envvar=ENV_CONFIG, help="Configuration file (TOML).", show_default=True)
]
Stream = Annotated[str | None, typer.Option("--stream", help="One stream only; default: all of the file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_CONFIG = Path("headrace.toml")
WIDTH_MIN = 120  # of a table that goes to a file or a pipe


def console() -> Console:
    """A console that does not fold tables where there is no terminal."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=max(WIDTH_MIN, made.width))

"""The command line: `headrace COMMAND -c FILE`. Parses arguments; the work is done elsewhere."""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from headrace import commands
from headrace.console import EXPECTED_ERRORS, exit_code, quiet_clients, report
from headrace.dead_letters import app as dead_letters_app
from headrace.directory import app as directory_app
from headrace.options import DEFAULT_CONFIG, Config, Json, Stream
from headrace.roles import run_role

app = typer.Typer(
    help="Replicate one database into another through Apache Kafka, transaction by transaction.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(directory_app, name="directory")


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    """What holds for every command."""
    if show:
        sys.stdout.write(f"headrace {metadata.version('headrace')}\n")
        raise typer.Exit


class ExplainFormat(StrEnum):
    """Forms of `headrace explain`."""

    text = "text"
    dot = "dot"
    svg = "svg"


ROLES = "Roles (started by `run`)"

Verbose = Annotated[bool, typer.Option("--verbose", help="Log more.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for each stream.")]


@app.command()
def run(
    config: Config = DEFAULT_CONFIG,
    apply: Annotated[int, typer.Option("--apply", min=1, max=16, help="Number of apply processes.")] = 1,
    verbose: Verbose = False,
) -> None:
    """Run all roles in the foreground, with the embedded broker if the configuration says so."""
    from headrace.supervisor import supervise

    raise typer.Exit(supervise(config, apply=apply, verbose=verbose))


@app.command(rich_help_panel=ROLES)
def capture(config: Config = DEFAULT_CONFIG, verbose: Verbose = False) -> None:
    """Read the source databases into Kafka."""
    raise typer.Exit(run_role("capture", config, verbose=verbose))


@app.command(rich_help_panel=ROLES)
def plan(config: Config = DEFAULT_CONFIG, verbose: Verbose = False) -> None:
    """Turn change batches into independent units (the Faust application)."""
    raise typer.Exit(run_role("plan", config, verbose=verbose))


@app.command(name="apply", rich_help_panel=ROLES)
def apply_units(config: Config = DEFAULT_CONFIG, verbose: Verbose = False) -> None:
    """Apply units to the target databases; start several to share the lanes."""
    raise typer.Exit(run_role("apply", config, verbose=verbose))


@app.command(rich_help_panel=ROLES)
def monitor(config: Config = DEFAULT_CONFIG, verbose: Verbose = False) -> None:
    """Summarise lag a second per stream and publish it."""
    raise typer.Exit(run_role("monitor", config, verbose=verbose))


@app.command(rich_help_panel=ROLES)
def cache(config: Config = DEFAULT_CONFIG, verbose: Verbose = False) -> None:
    """Keep rows of the cached tables and serve them over HTTP."""
    raise typer.Exit(run_role("cache", config, verbose=verbose))


@app.command(rich_help_panel=ROLES)
def fusion(config: Config = DEFAULT_CONFIG, verbose: Verbose = False) -> None:
    """Keep the newest version of each cached block in Kafka (a Faust application)."""
    raise typer.Exit(run_role("fusion", config, verbose=verbose))


@app.command(rich_help_panel=ROLES)
def affinity(config: Config = DEFAULT_CONFIG, verbose: Verbose = False) -> None:
    """Decide which node masters which rows (a Faust application; with directory.enabled)."""
    raise typer.Exit(run_role("affinity", config, verbose=verbose))


@app.command(rich_help_panel=ROLES)
def kafka(config: Config = DEFAULT_CONFIG, verbose: Verbose = False) -> None:
    """Run the embedded broker alone."""
    from headrace.broker import serve_broker

    raise typer.Exit(serve_broker(config, verbose=verbose))


@app.command()
def wait(config: Config = DEFAULT_CONFIG, stream: Stream = None, timeout: Timeout = 60.0) -> None:
    """Wait until everything committed at the source before now is applied at the target."""
    raise typer.Exit(commands.wait(config, stream, timeout))


@app.command()
def verify(config: Config = DEFAULT_CONFIG, stream: Stream = None, timeout: Timeout = 60.0, json: Json = False) -> None:
    """Wait for the target, then compare every table with the source; exit code 1 when rows differ."""
    raise typer.Exit(commands.verify(config, stream, timeout, as_json_text=json))


@app.command()
def status(
    config: Config = DEFAULT_CONFIG,
    stream: Stream = None,
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until interrupted.")] = False,
) -> None:
    """Show where each stream stands; exit code 1 when one is stopped, or the embedded broker does not run."""
    if watch:
        raise typer.Exit(commands.watch(config, stream))
    raise typer.Exit(commands.status(config, stream, as_json_text=json))


@app.command()
def explain(
    config: Config = DEFAULT_CONFIG,
    stream: Stream = None,
    window: Annotated[
        str | None, typer.Option("--window", help="A position in it; default: the oldest that is not applied.")
    ] = None,
    form: Annotated[
        ExplainFormat, typer.Option("--format", help="Text, or a picture of the graph.")
    ] = ExplainFormat.text,
) -> None:
    """Show what depends on what in a window, and why a transaction is not applied yet."""
    raise typer.Exit(commands.explain_window(config, stream, window, form.value))


@app.command()
def check(config: Config = DEFAULT_CONFIG) -> None:
    """Check servers, privileges, tables and topics before a start (missing topics are created)."""
    raise typer.Exit(commands.check(config))


@app.command()
def sync_sequences(config: Config = DEFAULT_CONFIG, stream: Stream = None) -> None:
    """Set the target's sequences where the source's stand: the last step of a cut-over, after the last write."""
    raise typer.Exit(commands.sync_sequences(config, stream))


@app.command()
def drop(
    config: Config = DEFAULT_CONFIG,
    stream: Stream = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really do it.")] = False,
) -> None:
    """Remove what a stream has created: slot, publications, ledger, topics. Tables and rows stay."""
    raise typer.Exit(commands.drop(config, stream, sure=yes))


@app.command()
def resync(
    config: Config = DEFAULT_CONFIG,
    stream: Stream = None,
    table: Annotated[
        list[str] | None, typer.Option("--table", help="This table alone, as the target calls it; may be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really do it.")] = False,
) -> None:
    """Copy a stream's tables anew: all at the next start (roles stopped), or single ones while the stream goes on."""
    raise typer.Exit(commands.resync(config, stream, table or [], sure=yes))


@app.command()
def demo(
    transactions: Annotated[int, typer.Option("--transactions", min=100, help="Transactions to write.")] = 20_000,
    lanes: Annotated[int, typer.Option("--lanes", min=1, max=16, help="Parallel apply lanes.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Of the workload.")] = 1,
    json: Annotated[Path | None, typer.Option("--json", help="Write the result there.")] = None,
    html: Annotated[Path, typer.Option("--html", help="Page with plots.")] = Path("headrace-demo.html"),
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="An empty directory; default: a new one.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the data directory.")] = False,
) -> None:
    """Replicate a live workload between two PostgreSQL servers, crash on the way, compare every row."""
    from headrace.demo.command import demo as run_it
    from headrace.demo.run import Options

    raise typer.Exit(run_it(Options(transactions, lanes, seed, keep, data_dir), json, html))


def main() -> None:
    """Entry point of the script `headrace`."""
    quiet_clients()
    try:
        app()
    except EXPECTED_ERRORS as error:
        report(error)
        sys.exit(exit_code(error, role=False))


if __name__ == "__main__":
    main()

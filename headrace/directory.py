"""`headrace directory`: hot blocks and their masters, why they moved, and moves by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Column, Table

from headrace.configuration import reachable_settings
from headrace.console import EX_OK
from headrace.directory_view import BlockUse, Transfers, move_block, read_picture, read_transfers
from headrace.options import DEFAULT_CONFIG, Config, Json, console
from pipeline.directory.routes import Outcome
from schemas.grd_affinity import GrdAffinity

app = typer.Typer(help="The resource directory: which node masters which rows, and why.", no_args_is_help=True)
Block = Annotated[str, typer.Argument(help="A block as `top` shows it: stream/schema/table/bucket.")]


@app.command()
def top(
    config: Config = DEFAULT_CONFIG,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="Lines of each table.")] = 20,
    as_json: Json = False,
) -> None:
    """The blocks used most in the last minute, their masters, the newest decisions, how blocks came to nodes."""
    settings = reachable_settings(config)
    picture, transfers = read_picture(settings), read_transfers(settings)
    uses, moves = picture.hottest(count), picture.moves(count)
    if as_json:
        shown = {"members": sorted(picture.directory.nodes()), "blocks": [use_json(use) for use in uses]}
        counts = {node: {way: count for way, (count, _) in ways.items()} for node, ways in transfers.items()}
        shown["transfers"] = counts
        console().print_json(json.dumps({**shown, "moves": [asdict(move) for move in moves]}))
    else:
        console().print(f"members: {', '.join(sorted(picture.directory.nodes())) or 'none yet'}")
        console().print(use_table(uses))
        console().print(moves_table(moves))
        if transfers:
            console().print(transfers_table(transfers))
    raise typer.Exit(EX_OK)


@app.command()
def show(block: Block, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """One block: master, epoch, holders, use by node, and the reason of its newest decision."""
    use = read_picture(reachable_settings(config)).use(block)
    if as_json:
        console().print_json(json.dumps(use_json(use)))
    else:
        console().print(use_table([use]))
        if use.record is not None:
            console().print(moves_table([use.record]))
    raise typer.Exit(EX_OK)


@app.command()
def move(
    block: Block,
    node: Annotated[str, typer.Argument(help="The new master; `-` gives the block back to the hash.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Move a block to a node, and wait until it is decided."""
    record = move_block(reachable_settings(config), block, "" if node == "-" else node)
    console().print(f"block {record.block}: master {record.master or 'by hash'} from epoch {record.epoch} on")
    raise typer.Exit(EX_OK)


def use_json(use: BlockUse) -> dict[str, object]:
    """A block as JSON shows it."""
    return {
        "block": str(use.block), "master": use.owner.node, "epoch": use.owner.epoch, "reads_per_s": use.reads_per_s,
        "writes_per_s": use.writes_per_s, "by_node": use.by_node,
        "record": asdict(use.record) if use.record is not None else None,
    }  # fmt: skip


def _block_column() -> Column:
    """Blocks are never cut: `show` and `move` want them whole."""
    return Column("block", no_wrap=True)


def use_table(uses: Iterable[BlockUse]) -> Table:
    """Blocks as a table."""
    numbers = (Column(name, justify="right") for name in ("reads/s", "writes/s"))
    table = Table(_block_column(), "master", "mode", *numbers, "used by", "epoch", "reason")
    for use in uses:
        record = use.record
        mode = f"shared by {', '.join(record.holders)}" if record is not None and record.read_mostly else "exclusive"
        shown = ", ".join(f"{node} {rate:.1f}" for node, rate in list(use.by_node.items())[:4])
        table.add_row(
            str(use.block), use.owner.node or "nobody", mode,
            f"{use.reads_per_s:.1f}", f"{use.writes_per_s:.1f}", shown, str(use.owner.epoch),
            record.reason if record is not None else "by hash",
        )  # fmt: skip
    return table


def moves_table(moves: Iterable[GrdAffinity]) -> Table:
    """The newest decisions as a table."""
    table = Table("decided (UTC)", _block_column(), "to", "epoch", "reason", title="newest decisions")
    for move in moves:
        decided = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(move.decided_us / 1e6))
        table.add_row(decided, move.block, move.master or "hash", str(move.epoch), move.reason)
    return table


def transfers_table(transfers: Transfers) -> Table:
    """How blocks came to each node since it started."""
    table = Table("node", *(outcome.value for outcome in Outcome), title="transfers of blocks, latency lately")
    for node, ways in transfers.items():
        table.add_row(node, *(_way_text(*ways.get(outcome.value, (0, ""))) for outcome in Outcome))
    return table


def _way_text(count: int, latency: str) -> str:
    return f"{count:,} ({latency})" if latency else f"{count:,}"

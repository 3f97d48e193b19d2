"""What `headrace directory` prints of a picture."""

from __future__ import annotations

import re

from rich.console import Console
from rich.table import Table

from headrace.directory import moves_table, use_table
from headrace.directory_view import Picture
from pipeline.directory.block import BlockId, partition_of
from schemas.grd_accesses import BlockAccesses, GrdAccesses
from schemas.grd_affinity import MEMBERS, GrdAffinity
from topologies.topics import KEYED_PARTITIONS

NAMES = [str(BlockId("orders", "warehouse", "order_lines", bucket)) for bucket in (17, 900, 4)]


def picture() -> Picture:
    moved, shared, unmoved = NAMES
    records = [(number, GrdAffinity(MEMBERS, "", 1, False, ("left", "right"))) for number in range(KEYED_PARTITIONS)]
    decided = [
        GrdAffinity(moved, "left", 7, False, (), {}, "left uses it 12.0 times a second, right 0.1", 2_000_000),
        GrdAffinity(shared, "right", 8, True, ("left", "right"), {}, "1% of the accesses write", 1_000_000),
    ]
    records += [(partition_of(BlockId.parse(record.block), KEYED_PARTITIONS), record) for record in decided]
    uses = [(moved, 600, 60), (shared, 300, 3), (unmoved, 60, 0)]
    reports = [
        GrdAccesses("left", 0, tuple(BlockAccesses(*use) for use in uses)),
        GrdAccesses("right", 0, (BlockAccesses(moved, 0, 0, gone=True),)),
    ]
    return Picture(records, reports, 3_000_000)


def rows(table: Table) -> list[str]:
    """As a terminal of 120 columns shows it, a line a row; what is wrapped is joined with spaces."""
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table)
    found: list[list[str]] = []
    for line in re.findall("\u2502(.*)\u2502", shown.get()):
        cells = [cell.strip() for cell in line.split("\u2502")]
        if cells[0]:
            found.append(cells)
        else:
            found[-1] = [f"{before} {cell}".strip() for before, cell in zip(found[-1], cells, strict=True)]
    return [" | ".join(cells) for cells in found]


def test_blocks_are_shown_whole_with_their_masters_and_holders() -> None:
    moved, shared, unmoved = rows(use_table(picture().hottest(10)))
    assert (
        moved
        == f"{NAMES[0]} | left | exclusive | 10.0 | 1.0 | left 11.0 | 7 | left uses it 12.0 times a second, right 0.1"
    )
    assert shared == f"{NAMES[1]} | right | shared by left, right | 5.0 | 0.1 | left 5.0 | 8 | 1% of the accesses write"
    assert re.fullmatch(rf"{NAMES[2]} \| (left|right) \| exclusive \| 1.0 \| 0.0 \| left 1.0 \| 1 \| by hash", unmoved)


def test_decisions_are_shown_with_their_reasons_the_newest_first() -> None:
    use_table(picture().hottest(10))
    newest, before = rows(moves_table(picture().moves(10)))
    assert newest == f"1970-01-01 00:00:02 | {NAMES[0]} | left | 7 | left uses it 12.0 times a second, right 0.1"
    assert before.startswith(f"1970-01-01 00:00:01 | {NAMES[1]} | right | 8 |")

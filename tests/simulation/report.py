"""Results for people: the table of a run, the history of one seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from schemas.change_batch import TRUNCATE
from tests.properties.model import Change
from tests.simulation.history import Event
from tests.simulation.world import World

Line = tuple[str, int, Counter[str], Counter[str]]  # scenario, repetitions, injected faults, outcomes


def print_table(title: str, lines: Sequence[Line]) -> None:
    """Scenario, repetitions, injected faults, outcome; then the faults by name."""
    print(f"{title}: {'scenario':<10} {'repetitions':>11} {'injected faults':>15}  outcome")
    for scenario, repetitions, faults, outcomes in lines:
        good = ", ".join(f"{count:,} {text}" for text, count in sorted(outcomes.items()))
        bad = repetitions - outcomes.total()
        print(f"{'':{len(title)}}  {scenario:<10} {repetitions:>11,} {faults.total():>15,}  "
              f"{good}{f', {bad:,} BROKEN' if bad else ''}")  # fmt: skip
    for name, count in sorted(sum((line[2] for line in lines), Counter()).items()):
        print(f"{'':{len(title)}}    {count:>9,} x {name}")


def print_history(world: World) -> None:
    """The source's transactions, then every step in order."""
    print("source:")
    for event in world.history.events:
        print(f"  {event.number:>3} {event.name} {event.kind}{' in parts' if event.large else ''}: {_changes(event)}")
    print("steps:")
    for number, text in enumerate(world.trace, start=1):
        print(f"  {number:>4} {text}")


def _changes(event: Event) -> str:
    return "; ".join(_change(change) for change in event.transaction.changes) or "nothing"


def _change(change: Change) -> str:
    if change.op == TRUNCATE:
        return f"truncate {change.table.name}"
    return f"{change.table.name} {change.old} -> {change.new}"

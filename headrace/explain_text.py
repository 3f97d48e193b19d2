"""An explanation for people, as text, DOT or SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from headrace.explain import Explanation
from headrace.status_text import control_text, share_text
from headrace.streams import position_text
from pipeline.graph_picture import dot_text, svg_text
from pipeline.waiting import LaneWait, Waiting

PATH_LINES_MAX = 20
BLOCKERS_MAX = 3


def explanation(found: Explanation, form: str) -> str:
    """`form` is text, dot or svg."""
    if form == "text":
        return "\n".join([*_window(found), *_path(found), *_subject(found), *_controls(found), ""])
    labels = {n: found.text(n) for n in range(len(found.window.batch.positions))}
    draw = dot_text if form == "dot" else svg_text
    return draw(found.graph, labels, found.lanes, f"stream {found.stream.name}, window {_extent(found)}")


def _extent(found: Explanation) -> str:
    count = len(found.window.batch.positions)
    return f"{found.text(0)} .. {found.text(count - 1)}" if count else "without transactions"


def _window(found: Explanation) -> Iterator[str]:
    batch, about = found.window.batch, found.shape
    yield f"stream {found.stream.name}, window {_extent(found)} ({batch.kind})"
    yield f"  record at offset {found.window.offset} of {found.topic}"
    yield f"  {len(batch.positions):,} transactions, {batch.rows():,} row changes; {len(found.done):,} are applied"
    if found.lanes:
        by_lane = sorted(Counter(found.lanes.values()).items())
        yield f"  queued: {', '.join(f'{count:,} in lane {lane}' for lane, count in by_lane)}"
    yield (
        f"  {about.sets:,} independent sets, the largest of {about.largest:,}; critical path of {len(about.path):,}; "
        f"at most {about.width:,} at once"
    )
    if found.stopped:
        yield f"  the stream is stopped: {found.stopped}"


def _path(found: Explanation) -> Iterator[str]:
    path = found.shape.path
    if len(path) < 2:
        return
    yield "critical path:"
    for number, (before, after) in enumerate(pairwise(path)):
        if number == PATH_LINES_MAX:
            yield f"  ... and {len(path) - number - 1:,} more"
            return
        yield f"  {found.text(before)} -> {found.text(after)}: {found.graph.edges[before, after]['key']}"


def _subject(found: Explanation) -> Iterator[str]:
    if found.subject is None:
        everything = len(found.done) == len(found.window.batch.positions)
        yield "every transaction of the window is applied" if everything else "no transaction has exactly that position"
        return
    name = found.text(found.subject)
    before = sorted(found.graph.predecessors(found.subject))
    yield f"transaction {name}:"
    for other in before:
        yield f"  comes after {found.text(other)} of this window: {found.graph.edges[other, found.subject]['key']}"
    if found.subject in found.done:
        yield "  is applied"
    elif found.waiting is None:
        yield "  is captured and in no lane yet: the planner has not reached it, or does not run"
    else:
        yield from _waiting(found, found.waiting)


def _waiting(found: Explanation, waiting: Waiting) -> Iterator[str]:
    yield f"  is in lane {waiting.lane}, unit {waiting.seq}; the lane has applied up to unit {waiting.reached}"
    if waiting.units_before:
        ahead = f"{waiting.units_before:,} units with {waiting.transactions_before:,} transactions"
        yield f"  {ahead} are before it in the lane"
    for wait in waiting.waits:
        yield from _wait(found, "waits", wait)
    for wait in waiting.head_waits:
        yield from _wait(found, "the first unit of the lane waits", wait)
    if not (waiting.units_before or waiting.waits):
        yield "  is next: it is being applied, or the target makes it wait (a lock?)"


def _wait(found: Explanation, who: str, wait: LaneWait) -> Iterator[str]:
    yield f"  {who} for lane {wait.lane} to reach unit {wait.wanted}; it is at {wait.reached}"
    generation = found.window.batch.generation
    for blocker in wait.blockers[:BLOCKERS_MAX]:
        yield f"    for {position_text(found.stream, generation, blocker.position)}: {blocker.key}"
    if len(wait.blockers) > BLOCKERS_MAX:
        yield f"    and {len(wait.blockers) - BLOCKERS_MAX:,} more"


def _controls(found: Explanation) -> Iterator[str]:
    if not found.reports:
        yield "no role has reported in the last minute: does anything run?"
        return
    yield "controllers:"
    for report in found.reports:
        for control in report.controls:
            yield f"  {report.role}: {control_text(control)}"
    yield "buffers:"
    for report in found.reports:
        for buffer in report.buffers:
            yield f"  {report.role}: {buffer.name} {share_text(buffer)}"

"""A small line plot as SVG: linear time, a linear or logarithmic value axis, breaks where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 920, 260
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 34, 44
TICKS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """A series of (seconds, value); None breaks the line. `css` names its class in the page."""

    title: str
    css: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment worth a vertical line, and the span after it that is shaded, in seconds."""

    at_s: float
    until_s: float
    title: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A value axis: its title with unit, and how to write a tick."""

    title: str
    text: Callable[[float], str]
    logarithmic: bool = False


def plot(lines: Sequence[Line], axis: Axis, end_s: float, marks: Sequence[Mark]) -> str:
    """The plot as an SVG element."""
    values = [value for line in lines for _, value in line.points if value is not None]
    low, high, ticks = _log_scale(values) if axis.logarithmic else _linear_scale(values)

    def x(at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at_s / end_s

    def y(value: float) -> float:
        if axis.logarithmic:
            share = math.log10(max(value, low) / low) / math.log10(high / low)
        else:
            share = (value - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(axis.title)} over time">']
    parts += [_mark(mark, x) for mark in marks]
    parts += [_value_tick(y(tick), axis.text(tick)) for tick in ticks]
    parts += [_time_tick(x(tick), tick) for tick in _linear_scale([end_s])[2] if tick <= end_s]
    parts += [_path(line, x, y) for line in lines]
    parts += [f'<text class="title" x="{LEFT}" y="16">{escape(axis.title)}</text>', _legend(lines)]
    under = f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">seconds since the start</text>'
    return "\n".join([*parts, under, "</svg>"])


def _linear_scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Lowest and highest value of the axis, and its ticks at 1, 2 or 5 times a power of ten."""
    top = max(values, default=1.0) or 1.0
    power = 10 ** math.floor(math.log10(top / TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * TICKS >= top)
    count = math.ceil(top / step)
    return 0.0, count * step, [number * step for number in range(count + 1)]


def _log_scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The same with a tick a decade."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    return 10.0**low, 10.0**high, [10.0**power for power in range(low, high + 1)]


def _value_tick(at: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def _time_tick(at: float, seconds: float) -> str:
    bottom = HEIGHT - BOTTOM
    return (
        f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 5}"/>'
        f'<text class="tick" x="{at:.1f}" y="{bottom + 19}" text-anchor="middle">{seconds:g}</text>'
    )


def _path(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    commands, pen_down = [], False
    for at_s, value in line.points:
        if value is not None:
            commands.append(f"{'L' if pen_down else 'M'}{x(at_s):.1f} {y(value):.1f}")
        pen_down = value is not None
    return f'<path class="{line.css}" d="{" ".join(commands)}"/>'


def _mark(mark: Mark, x: Callable[[float], float]) -> str:
    left, right, bottom = x(mark.at_s), x(mark.until_s), HEIGHT - BOTTOM
    return (
        f'<rect class="outage" x="{left:.1f}" y="{TOP}" width="{max(0.0, right - left):.1f}" height="{bottom - TOP}"/>'
        f'<line class="mark" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{bottom}"/>'
        f'<text class="note" x="{left + 4:.1f}" y="{TOP + 12}">{escape(mark.title)}</text>'
    )


def _legend(lines: Sequence[Line]) -> str:
    parts, at = [], WIDTH - RIGHT
    for line in reversed(lines):
        at -= 7 * len(line.title) + 34
        parts.append(f'<path class="{line.css}" d="M{at} 12 h20"/>')
        parts.append(f'<text class="tick" x="{at + 25}" y="16">{escape(line.title)}</text>')
    return "".join(parts)

"""Charts of the results as small SVG files."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pygal
from pygal.style import Style

# pygal's hook for its plug-ins has the form that Python 3.4 replaced: every later import would warn of it.
sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]

FOLDER = Path(__file__).with_name("results")
_STYLE = Style(
    background="white", plot_background="white", font_family="sans-serif", label_font_size=13,
    major_label_font_size=13, value_font_size=12, title_font_size=16, legend_font_size=13,
    colors=("#8a8f98", "#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626"),
)  # fmt: skip
_COMMON = {
    "style": _STYLE, "width": 760, "height": 360, "legend_at_bottom": True, "js": (), "no_prefix": True,
    "explicit_size": True, "disable_xml_declaration": True,
}  # fmt: skip


def bars(name: str, title: str, labels: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> None:
    """Write a bar chart: a group of bars a label, a bar a series."""
    _write(pygal.Bar(**_COMMON, title=title, print_values=True, formatter=_number), name, labels, series)


def lines(
    name: str, title: str, labels: Sequence[str], series: Mapping[str, Sequence[float | None]], *,
    logarithmic: bool = False,
) -> None:  # fmt: skip
    """Write a line chart over the labels."""
    _write(pygal.Line(**_COMMON, title=title, logarithmic=logarithmic, formatter=_number), name, labels, series)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _write(
    chart: pygal.graph.graph.Graph, name: str, labels: Sequence[str], series: Mapping[str, Sequence[float | None]]
) -> None:
    chart.x_labels = list(labels)
    for title, numbers in series.items():
        chart.add(title, list(numbers))
    FOLDER.mkdir(exist_ok=True)
    # The library's note of the day would change pictures whose figures are the same.
    (FOLDER / f"{name}.svg").write_text(re.sub("<!--.*?-->", "", chart.render(), flags=re.DOTALL))

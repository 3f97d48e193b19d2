"""A window's dependency graph as DOT and as SVG: depth from left to right, the critical path in red.

Layered drawing after Sugiyama: the layer of a transaction is its depth, its place in the layer the mean
place of what it comes after. Transactions that depend on nothing are counted instead of drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from pipeline.window_graph import Graph, depths, shape

NODES_MAX = 300  # drawn; of more, the first in source order that depend on each other
COLUMN_PX, ROW_PX, BOX_WIDTH_PX, BOX_HEIGHT_PX, MARGIN_PX = 190, 30, 140, 20, 20
LANE_COLOURS = (
    "#8dd3c7", "#ffffb3", "#bebada", "#fb8072", "#80b1d3", "#fdb462", "#b3de69", "#fccde5",
    "#d9d9d9", "#bc80bd", "#ccebc5", "#ffed6f", "#a6cee3", "#cab2d6", "#fdbf6f", "#b2df8a",
)  # fmt: skip


def drawn(graph: Graph) -> tuple[Graph, str]:
    """The part of `graph` that is worth a picture, and a sentence on what was left out."""
    tied = [node for node in sorted(graph) if graph.degree(node)]
    single, kept = len(graph) - len(tied), tied[:NODES_MAX]
    left = f"; {len(tied) - len(kept)} more that depend on others are left out" if len(kept) < len(tied) else ""
    return graph.subgraph(kept), f"{single} of {len(graph)} transactions depend on none of the others{left}"


def dot_text(graph: Graph, labels: Mapping[int, str], lanes: Mapping[int, int], title: str) -> str:
    """The graph in the DOT language. `labels` and `lanes` are by transaction index; a lane may be missing."""
    part, note = drawn(graph)
    critical = set(pairwise(shape(graph).path))
    lines = ["digraph window {", f"  label={_quoted(f'{title}; {note}')};", "  rankdir=LR; node [shape=box];"]
    for node in sorted(part):
        fill = f", style=filled, fillcolor={_quoted(LANE_COLOURS[lanes[node]])}" if node in lanes else ""
        lines.append(f"  {node} [label={_quoted(labels[node])}{fill}];")
    for before, after, key in sorted(part.edges(data="key")):
        colour = ", color=red, penwidth=2" if (before, after) in critical else ""
        lines.append(f"  {before} -> {after} [label={_quoted(key)}{colour}];")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def places(graph: Graph) -> dict[int, tuple[int, int]]:
    """Transaction -> (layer, row in the layer)."""
    layers: dict[int, list[int]] = {}
    for node, depth in depths(graph).items():
        layers.setdefault(depth, []).append(node)
    row: dict[int, int] = {}
    for depth in sorted(layers):

        def wanted(node: int) -> tuple[float, int]:
            before = [row[other] for other in graph.predecessors(node)]
            return (sum(before) / len(before) if before else node), node

        row.update((node, number) for number, node in enumerate(sorted(layers[depth], key=wanted)))
    return {node: (depth, row[node]) for depth, nodes in layers.items() for node in nodes}


def svg_text(graph: Graph, labels: Mapping[int, str], lanes: Mapping[int, int], title: str) -> str:
    """The graph as an SVG document; keys are the titles of the edges."""
    part, note = drawn(graph)
    at = places(part)
    columns = 1 + max((layer for layer, _ in at.values()), default=0)
    rows = 1 + max((row for _, row in at.values()), default=0)
    width, height = 2 * MARGIN_PX + columns * COLUMN_PX, 3 * MARGIN_PX + 20 + rows * ROW_PX
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(width, 640)}" height="{height}">',
        "<style>text { font-family: sans-serif; font-size: 11px }</style>",
        f'<text x="{MARGIN_PX}" y="{MARGIN_PX}">{escape(title)}</text>',
        f'<text x="{MARGIN_PX}" y="{MARGIN_PX + 18}" fill="#555">{escape(note)}</text>',
    ]
    critical = set(pairwise(shape(graph).path))
    return "\n".join([*head, *_edges(part, at, critical), *_boxes(part, at, labels, lanes), "</svg>", ""])


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    layer, row = place
    return MARGIN_PX + layer * COLUMN_PX, 2 * MARGIN_PX + 20 + row * ROW_PX


def _edges(part: Graph, at: Mapping[int, tuple[int, int]], critical: set[tuple[int, int]]) -> Iterator[str]:
    for before, after, key in sorted(part.edges(data="key")):
        (x1, y1), (x2, y2) = _corner(at[before]), _corner(at[after])
        colour = "#c00" if (before, after) in critical else "#999"
        yield (
            f'<line x1="{x1 + BOX_WIDTH_PX}" y1="{y1 + BOX_HEIGHT_PX // 2}" x2="{x2}" y2="{y2 + BOX_HEIGHT_PX // 2}" '
            f'stroke="{colour}"><title>{escape(key)}</title></line>'
        )


def _boxes(
    part: Graph, at: Mapping[int, tuple[int, int]], labels: Mapping[int, str], lanes: Mapping[int, int]
) -> Iterator[str]:
    for node in sorted(part):
        x, y = _corner(at[node])
        fill = quoteattr(LANE_COLOURS[lanes[node]] if node in lanes else "#fff")
        yield (
            f'<rect x="{x}" y="{y}" width="{BOX_WIDTH_PX}" height="{BOX_HEIGHT_PX}" fill={fill} stroke="#333"/>'
            f'<text x="{x + 5}" y="{y + 14}">{escape(labels[node])}</text>'
        )

"""The demonstration's result as one HTML page without any outside part."""

from __future__ import annotations

from html import escape
from pathlib import Path

from headrace.demo.plot import Axis, Line, Mark, plot
from headrace.demo.results import Result, facts
from headrace.status_text import seconds_text

STYLE = """
:root { --ink: #1d2733; --soft: #5c6b7a; --paper: #ffffff; --rule: #e2e7ec; --one: #1565c0; --two: #e07b00;
        --bad: #c62828; --shade: #c6282818; --good: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa8b5; --paper: #14191f; --rule: #2a333d;
        --one: #64b5f6; --two: #ffb74d; --bad: #ef6c6c; --shade: #ef6c6c22; --good: #81c784; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 960px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p { color: var(--soft); margin-top: 0; } .good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; } td, th { padding: .3rem .6rem; border-bottom: 1px solid var(--rule);
       text-align: left; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; margin-top: 1rem; } svg text { fill: var(--ink); font-size: 13px; }
svg .title { font-weight: 600; } svg .tick { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--soft); }
svg .mark { stroke: var(--bad); stroke-dasharray: 4 3; }
svg .note { fill: var(--bad); font-size: 12px; } svg .outage { fill: var(--shade); }
svg path { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .one { stroke: var(--one); } svg .two { stroke: var(--two); }
"""
_HEAD = f"""<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Headrace demonstration</title><style>{STYLE}</style>"""


def write_page(result: Result, path: Path) -> None:
    """Write the page. Raises OSError."""
    css, verdict = ("good", "the target equals the source") if result.right else ("bad", "THE TARGET DIFFERS")
    body = [
        "<h1>Headrace demonstration</h1>",
        f"<p>Two PostgreSQL servers and one Kafka broker on this machine, {result.lanes} lanes, seed {result.seed}:",
        f'<strong class="{css}">{verdict}</strong>.</p>',
        *_plots(result),
        "<h2>In numbers</h2>",
        _table([("", False), ("", False)], [[escape(name), escape(text)] for name, text in facts(result)]),
        "<h2>Every table compared</h2>",
        _tables(result),
    ]
    content = "\n".join(body)
    path.write_text(f'<!doctype html><html lang="en"><head>{_HEAD}</head><body>\n{content}\n</body></html>\n')


def _plots(result: Result) -> list[str]:
    points, kill = result.points, result.kill
    end_s = max((point.at_s for point in points), default=1.0)
    marks = []
    if kill is not None:
        marks = [Mark(kill.at_s, kill.at_s + (kill.first_commit_s or 0.0), "apply process killed with -9")]
    lag = [
        Line("p50", "one", [(point.at_s, point.lag_p50_s) for point in points]),
        Line("p99", "two", [(point.at_s, point.lag_p99_s) for point in points]),
    ]
    rate = [
        Line("committed at the source", "two", [(point.at_s, point.committed_per_s) for point in points]),
        Line("applied at the target", "one", [(point.at_s, point.applied_per_s) for point in points]),
    ]
    seconds = Axis("Lag, commit at the source to commit at the target", seconds_text, logarithmic=True)
    per_second = Axis("Transactions a second", lambda value: f"{value:,.0f}")
    return [plot(lag, seconds, end_s, marks), plot(rate, per_second, end_s, marks)]


def _tables(result: Result) -> str:
    rows = [
        [escape(table.table), f"{table.source_rows:,}", f"{table.target_rows:,}", f"{table.differences:,}"]
        for table in result.check.tables
    ]
    return _table([("table", False), ("source rows", True), ("target rows", True), ("differences", True)], rows)


def _table(columns: list[tuple[str, bool]], rows: list[list[str]]) -> str:
    """An HTML table of texts that are escaped already; a column is (title, whether it holds numbers)."""
    css = [' class="number"' if number else "" for _, number in columns]
    head = "".join(f"<th{style}>{escape(title)}</th>" for (title, _), style in zip(columns, css, strict=True))
    cells = ["".join(f"<td{style}>{cell}</td>" for style, cell in zip(css, row, strict=True)) for row in rows]
    lines = [f"<tr>{line}</tr>" for line in cells]
    return f"<table>{'<tr>' + head + '</tr>' if any(title for title, _ in columns) else ''}{''.join(lines)}</table>"

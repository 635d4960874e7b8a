"""Results as a table for the terminal, as Markdown, and as a chart (SVG)."""

from __future__ import annotations

from html import escape
from typing import Any

from benchmarks.contenders import OURS
from benchmarks.results import NEAR_FLOOR, Result, Row

_OURS_COLOUR, _PEER_COLOUR, _INK, _QUIET = "#1a7f5a", "#a9b4c0", "#24292f", "#6e7781"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def cells(row: Row, rows: list[Row]) -> list[str]:
    """One row of the table. `x best`: by the fastest peer."""
    if "wall" not in row:
        return [row["name"], "failed", "", "", "", "", ""]
    peers = [r["wall"] for r in rows if r["name"] != OURS and r.get("is_peer", True) and "wall" in r]
    compared = peers and row.get("is_peer", True)
    ratio = row["wall"] / min(peers) if compared else None
    spread = f"{row['wall_min']:.2f}-{row['wall_max']:.2f}" if row["runs"] > 1 else "one run"
    requests = "-" if row["requests"] is None else f"{row['requests']:,}"
    memory = f"{row['peak_bytes'] / 1e6:,.0f}"
    return [row["name"], _number(row["wall"]), spread, _number(row["cpu"]), memory, requests, _number(ratio)]


HEADER = ["", "wall s", "from-to", "processor s", "memory MB", "requests", "x best peer"]


def _said(goal: dict[str, Any]) -> str:
    met = "met" if goal["met"] else "NOT MET"
    return f"{goal['what']} {_number(goal['value'])} ({_limit(goal)}): {met}"


def _limit(goal: dict[str, Any]) -> str:
    """What to reach; if that is missed, also how near the floor is."""
    said = f"<= {goal['limit']:g} {goal['unit']}"
    if "floor" not in goal:
        return said
    return f"{said}, or <= {NEAR_FLOOR:g} x {goal['floor']}, which is {_number(goal['by_floor'])} x"


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for line in table:
        name, *rest = (f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        lines.append("  " + "  ".join([name.strip().ljust(widths[0]), *rest]))
    return lines


def terminal(result: Result) -> str:
    lines = [f"\n{result['title']}" + ("" if result["scale"] == 1 else f"   [scale {result['scale']:g}]")]
    if result["rows"]:
        lines += _aligned([HEADER, *(cells(row, result["rows"]) for row in result["rows"])])
    lines += _aligned(result.get("table", []))
    lines += [f"  {_said(goal)}" for goal in result["targets"]]
    lines += [f"  {note}" for note in result["notes"]]
    return "\n".join(lines)


def markdown(result: Result) -> str:
    lines = [f"### {result['title']}", ""]
    if result["rows"]:
        lines += ["| " + " | ".join(HEADER) + " |", "| --- |" + " ---: |" * (len(HEADER) - 1)]
        for row in result["rows"]:
            bold = "**" if row["name"] == OURS else ""
            found = cells(row, result["rows"])
            lines.append("| " + " | ".join([f"{bold}{found[0]}{bold}", *found[1:]]) + " |")
        lines.append("")
    if result.get("table"):
        head, *rest = result["table"]
        lines += ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
        lines += ["| " + " | ".join(line) + " |" for line in rest]
        lines.append("")
    lines += [f"- {_said(goal)}" for goal in result["targets"]]
    lines += [f"- {note}" for note in result["notes"]]
    return "\n".join([*lines, ""])


def targets_table(results: list[Result]) -> str:
    """Every target of every scenario, one line each."""
    lines = ["| scenario | what | reached | target | |", "| --- | --- | ---: | ---: | --- |"]
    for result in results:
        for goal in result["targets"]:
            met = "met" if goal["met"] else "**not met**"
            reached = _number(goal["value"])
            lines.append(f"| {result['title']} | {goal['what']} | {reached} | {_limit(goal)} | {met} |")
    return "\n".join(lines)


def chart(results: list[Result]) -> str:
    """Horizontal bars of wall time, one group a scenario, each group to the scale of its own slowest."""
    groups = [r for r in results if sum("wall" in row for row in r["rows"]) > 1]
    left, width, line, out, y = 190, 560, 17, [], 34
    for result in groups:
        rows = sorted((row for row in result["rows"] if "wall" in row), key=lambda row: row["wall"])
        most = max(row["wall"] for row in rows)
        out.append(f'<text x="8" y="{y}" font-weight="600" fill="{_INK}">{escape(result["title"])}</text>')
        y += 8
        for row in rows:
            length = max(1.0, row["wall"] / most * (width - 90))
            colour = _OURS_COLOUR if row["name"].startswith(OURS) else _PEER_COLOUR
            weight = "600" if row["name"] == OURS else "400"
            out.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{line - 4}" fill="{colour}"/>')
            out.append(
                f'<text x="{left - 8}" y="{y + 11}" text-anchor="end" font-weight="{weight}"'
                f' fill="{_INK}">{escape(row["name"])}</text>'
            )
            out.append(
                f'<text x="{left + length + 6:.1f}" y="{y + 11}" fill="{_QUIET}">{row["wall"]:.2f} s</text>'
            )
            y += line
        y += 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width} {y}" width="{left + width}"'
        f' height="{y}" font-family="system-ui, sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n'
        f'<text x="8" y="14" fill="{_QUIET}">Median wall time; each group has a scale of its own; shorter is'
        " better</text>\n" + "\n".join(out) + "\n</svg>\n"
    )

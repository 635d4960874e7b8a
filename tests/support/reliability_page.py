"""The tables of docs/reliability.md: read by the tests, and written by them when they are told to.

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`. `make reliability` sets
RELIABILITY=write: each test then notes what it has seen instead of comparing, and `Table.write` puts it all
into the page.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
WRITING = os.environ.get("RELIABILITY") == "write"


class Table:
    """Rows by name, columns by name. What tests see goes into `seen`."""

    def __init__(self, name: str, corner: str, rows: Sequence[str], columns: Sequence[str]) -> None:
        self.name, self.corner = name, corner
        self.rows, self.columns = list(rows), list(columns)
        self.seen: dict[tuple[str, str], str] = {}

    def see(self, row: str, column: str, cell: str) -> None:
        """A cell of the page must say what was seen, unless the page is being written."""
        self.seen[row, column] = cell
        if not WRITING:
            said = self.read().get(row, {}).get(column)
            assert cell == said, f"docs/reliability.md has {said!r} there: make reliability writes it anew"

    def read(self) -> dict[str, dict[str, str]]:
        lines = [line.strip("|").split("|") for line in self._between()[1].strip().splitlines()]
        head, *rows = [[cell.strip() for cell in line] for line in lines]
        return {cells[0]: dict(zip(head[1:], cells[1:], strict=True)) for cells in rows[1:]}

    def check_names(self) -> None:
        """The page has these rows and columns, in this order."""
        page = self.read()
        assert list(page) == self.rows
        assert all(list(cells) == self.columns for cells in page.values())

    def write(self) -> None:
        """What was seen replaces what the page said; cells that nobody saw stay."""
        page = self.read()
        lines = [f"| {' | '.join([self.corner, *self.columns])} |", "| --- " * (len(self.columns) + 1) + "|"]
        for row in self.rows:
            cells = [self.seen.get((row, c)) or page.get(row, {}).get(c, "?") for c in self.columns]
            lines.append(f"| {' | '.join([row, *cells])} |")
        before, _, after = self._between()
        PAGE.write_text(before + "\n".join(["", *lines, ""]) + after)

    def _between(self) -> tuple[str, str, str]:
        begin, end = f"<!-- {self.name} -->", f"<!-- end of {self.name} -->"
        text = PAGE.read_text()
        before, _, rest = text.partition(begin)
        inside, mark, after = rest.partition(end)
        assert mark, f"docs/reliability.md has no {begin} … {end}"
        return before + begin, inside, end + after

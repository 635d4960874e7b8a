"""A job on the screen: a progress bar on a terminal, plain lines when piped, the table of `list`.

Invariants
- A display never harms the job: the screen, which may be closed, full or stopped, is drawn by a thread of its
  own that ends at the first error. The job only puts its newest status into a slot.
- No text is given to rich as markup; the texts come from `formats`, which escapes hostile names.
- rich is imported only where it draws: a worker without a display does not load it.

Nothing here reads job files or decides anything about a job.
"""

from __future__ import annotations

import copy
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self, TextIO

from syncworker import escape
from syncworker.jobs.record import Status
from syncworker.shell import formats

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LINE_SECONDS = 1.0  # between two plain lines
CURRENT_MAX = 4  # keys in flight that the bar names
ERRORS_MAX = 3  # errors that it shows
SPEEDS_MAX = 30  # speeds that it draws, one a second
_CLOSE_SECONDS = 2.0  # a stopped terminal (Ctrl-S) is not waited for longer
_COLOURS = {
    "done": "green",
    "failed": "red",
    "interrupted": "yellow",
    "cancelled": "yellow",
    "waiting": "magenta",
}


class Output:
    """Writes bytes to the descriptor of a stream. `stream` is None if it was closed before the start.

    Writing never raises: the first failure is kept in `error`, and nothing is written after it. There is no
    buffer, so nothing can fail when Python ends.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.error: OSError | None = None
        self._fd = -1 if stream is None else stream.fileno()
        self.encoding = (stream and stream.encoding) or "utf-8"
        self.is_terminal = (
            stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        )

    def write(self, text: str) -> int:
        view = memoryview(text.encode(self.encoding, "backslashreplace"))
        while view and self._fd >= 0 and self.error is None:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # another program made the terminal non-blocking
                select.select([], [self._fd], [])
            except OSError as error:
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Does nothing: there is no buffer."""

    def print(self, text: str) -> None:
        self.write(f"{text}\n")


def console(output: Output) -> Console:
    """Returns rich's console on an Output, without markup, emoji names and highlighting."""
    from rich.console import Console

    return Console(file=output, force_terminal=True, markup=False, emoji=False, highlight=False)  # type: ignore[arg-type]


def print_table(output: Output, statuses: Iterable[Status]) -> None:
    """Prints a table as wide as the terminal; without a terminal, aligned columns of any width."""
    rows = [formats.row(status) for status in statuses]
    if output.is_terminal:
        _print_rich_table(output, rows)
        return
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(formats.HEADER, *rows, strict=True)]
    for cells in (formats.HEADER, *rows):
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
        output.print("  ".join(padded).rstrip())


def _print_rich_table(output: Output, rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in formats.HEADER:
        # The id is never cut, because people copy it.
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=24 if name == "ID" else None)
    for cells in rows:
        texts = [Text(cell) for cell in cells]
        texts[1].stylize(_COLOURS.get(cells[1], "cyan"))
        table.add_row(*texts)
    console(output).print(table)


def panel(status: Status, speeds: Sequence[float] = ()) -> RenderableType:
    """Returns the progress display: two bars, speed, keys in flight, errors. Lines are cut at the terminal's
    width. `speeds`: the latest ones, drawn as a row of bars."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    p = formats.progress(status)

    def text(content: str, style: str = "") -> Text:
        return Text(content, style=style, no_wrap=True, overflow="ellipsis")

    bars = Table.grid(padding=(0, 1), expand=True)
    bars.add_column(no_wrap=True)
    bars.add_column(ratio=1)
    bars.add_column(no_wrap=True)
    for label, done, total, shown_text in (
        ("files", p["files_done"], p["files_total"], formats.files_text(status)),
        ("bytes", p["bytes_done"], p["bytes_total"], formats.bytes_text(status)),
    ):
        # While there is nothing to do yet, the bar is empty, not full.
        bars.add_row(text(label), ProgressBar(total=max(total, 1), completed=done), text(shown_text))
    # Names come last: a narrow terminal cuts them.
    head = filter(None, (formats.activity(status), formats.rate_text(status)))
    names = f"{escape.escape_control(status['source'] or '.')} to {escape.escape_control(status['dest'])}"
    lines = [text(f"{', '.join(head)}: {names}, {formats.duration(p['elapsed_seconds'])}", "bold")]
    if held := formats.delay(status):
        lines.append(text(held, "yellow"))
    tail = [
        text(f"  {formats.operation(item)}", "dim") for item in (status.get("current") or [])[:CURRENT_MAX]
    ]
    if (more := len(status.get("current") or []) - CURRENT_MAX) > 0:
        tail.append(text(f"  and {more} more", "dim"))
    if count := formats.error_count(status):
        tail.append(text(f"{formats.counted(count, 'error')}, the first:", "red"))
        tail += [text(f"  {shown_text}", "red") for shown_text in formats.error_lines(status)[:ERRORS_MAX]]
    if any(speeds):
        bars.add_row(
            text("speed"), text(formats.plot(speeds)), text(f"{formats.size(max(speeds))}/s at most")
        )
    return Group(*lines, bars, *tail)


def _moved(status: Status) -> tuple[object, ...]:
    """Returns what must change before a new plain line is printed: not the time, not the speed."""
    p = formats.progress(status)
    still = ("bytes_per_second", "eta_seconds", "elapsed_seconds")
    return (
        formats.activity(status),
        tuple(value for name, value in p.items() if name not in still),
        [formats.operation(item) for item in status.get("current") or []],
        formats.delay(status),
        formats.error_count(status),
    )


class Display:
    """A context manager that draws the statuses passed to `show`, in a thread of its own.

    `show` never waits for the screen. If statuses come faster than they can be drawn, only the newest is
    drawn. On a terminal the bar is removed at the end.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._latest: Status | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(
            target=self._bar if output.is_terminal else self._lines, name="display", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    def show(self, status: Status) -> None:
        """Copies the status, which the worker goes on changing."""
        with self._changed:
            self._latest = copy.deepcopy(status)
            self._changed.notify()

    def _next(self) -> Status | None:
        """Waits for a status newer than the last one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._closing)
            status, self._latest = self._latest, None
            return None if self._closing else status

    def _lines(self) -> None:
        last: tuple[object, ...] | None = None
        while (status := self._next()) is not None:
            if self._output.error is not None:
                return
            if (moved := _moved(status)) == last:
                continue
            last = moved
            self._output.print(formats.line(status))
            with self._changed:
                self._changed.wait_for(lambda: self._closing, LINE_SECONDS)

    def _bar(self) -> None:
        from rich.live import Live

        # Messages to the same terminal are printed above the bar; a stderr that goes elsewhere stays there.
        same = sys.stderr is not None and sys.stderr.isatty()
        draws = self._output.encoding.lower().replace("-", "") == "utf8"  # others lack the characters
        with Live(
            console=console(self._output),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=same,
        ) as live:
            speeds: deque[float] = deque(maxlen=SPEEDS_MAX)
            drawn_at = 0.0
            while (status := self._next()) is not None and self._output.error is None:
                if draws and (now := time.monotonic()) - drawn_at >= 1.0:
                    drawn_at = now
                    speeds.append(formats.progress(status)["bytes_per_second"])
                live.update(panel(status, speeds), refresh=True)

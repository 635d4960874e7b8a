"""What is said of a job, and that it harms nothing: hostile names, narrow, closed and stopped screens."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import wait_for
from fabricated import HOSTILE, Desk, Terminal, without_escapes
from rich.cells import cell_len
from rich.console import Console

from syncworker import escape
from syncworker.shell import display, formats


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """(read end, write end as a text stream)."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        yield reader, stream
    os.close(reader)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b/ü/日本.jpg", "a b/ü/日本.jpg"),
        ("[bold]x[/]", "[bold]x[/]"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31m\x07\x7f\x9b", "\\x1b[31m\\x07\\x7f\\x9b"),
        ("\u202egpj", "\\u202egpj"),
        ("\u2028\u200b\ufeff", "\\u2028\\u200b\\ufeff"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_a_terminal_would_act_on_is_shown_as_an_escape(text: str, expected: str) -> None:
    assert escape.escape_control(text) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1048575, "1.0 MiB"), (73400320, "70.0 MiB"),
      (3 << 50, "3.0 PiB")],
)  # fmt: skip
def test_sizes_are_in_binary_units(count: int, expected: str) -> None:
    assert formats.size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"),
     (7500, "2 h 05 min"), (90000, "1 d 1 h")],
)  # fmt: skip
def test_durations_have_two_units_at_most(seconds: float, expected: str) -> None:
    assert formats.duration(seconds) == expected


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [([], ""), ([0, 0], "▁▁"), ([0, 1, 2, 4, 8], "▁▂▃▅█"), ([3], "█"), ([1e12, 0.1], "█▁")],
)
def test_speeds_are_drawn_as_bars_under_the_highest(speeds: list[float], expected: str) -> None:
    assert formats.plot(speeds) == expected


def test_the_display_draws_the_speed_and_names_the_first_errors(desk: Desk) -> None:
    errors = [
        {"op": "upload", "key": f"{n}.jpg", "code": "AccessDenied", "message": "refused"} for n in range(5)
    ]
    status = desk.make("running", errors=errors, progress={"bytes_per_second": 2048.0})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(display.panel(status, [0.0, 1024.0, 2048.0]))
    screen = console.export_text()
    assert re.search(r"^speed ▁▅█ +2\.0 KiB/s at most$", screen, re.MULTILINE)
    assert "5 errors, the first:\n  upload 0.jpg: AccessDenied: refused\n" in screen
    assert screen.count("refused") == display.ERRORS_MAX


def test_a_plain_line_says_phase_files_bytes_speed_time_errors_and_key(desk: Desk) -> None:
    status = desk.make(
        "running",
        progress={"scan_complete": True, "files_total": 1200, "files_done": 310, "bytes_total": 73400320,
                  "bytes_done": 12582912, "bytes_per_second": 10485760.0, "eta_seconds": 5.8,
                  "objects_deleted": 3},
        current=[{"op": "upload", "key": "a\nb", "size": 2048, "bytes_done": 1024},
                 {"op": "upload", "key": "c"}],
        errors=[{"op": "upload", "key": "x", "code": "AccessDenied", "message": "no"}],
    )  # fmt: skip
    assert formats.line(status) == (
        "transferring: 310/1200 files, 12.0 MiB of 70.0 MiB, 10.0 MiB/s, 5.8 s left, 3 deleted, 1 error,"
        " upload a\\nb (1.0 KiB of 2.0 KiB) and 1 more"
    )


def test_a_total_that_may_still_grow_is_marked(desk: Desk) -> None:
    status = desk.make("running", progress={"files_total": 10, "files_done": 1})
    assert formats.files_text(status) == "1/10+"
    status["progress"]["scan_complete"] = True
    assert formats.files_text(status) == "1/10"


def test_a_status_of_an_older_version_without_newer_counters_can_be_shown(desk: Desk) -> None:
    status = desk.make("done", progress={"files_done": 3, "files_total": 3})
    del status["progress"]["bytes_resumed"], status["progress"]["files_skipped"]
    assert "3/3 files" in formats.summary(status)
    assert ("state", "done") in formats.details(status)
    assert formats.row(status)[4] == "3/3"


def test_every_text_of_a_hostile_status_is_one_printable_line(desk: Desk) -> None:
    status = desk.make("failed", source="photos")
    status.update(
        source=HOSTILE,
        message=HOSTILE,
        error={"code": HOSTILE, "message": HOSTILE},
        errors=[{"op": HOSTILE, "key": HOSTILE, "code": HOSTILE, "message": HOSTILE}],
        current=[{"op": HOSTILE, "key": HOSTILE}],
    )
    texts = [formats.line(status), formats.summary(status), formats.error_text(status)]
    texts += [
        *formats.error_lines(status),
        *formats.row(status),
        *(text for _, text in formats.details(status)),
    ]
    assert [text for text in texts if not text.isprintable()] == []


def test_of_many_errors_the_first_are_named_and_the_rest_counted(desk: Desk) -> None:
    error = {"op": "upload", "key": "k", "code": "AccessDenied", "message": "no"}
    status = desk.make("failed", errors=[error] * 100, progress={"files_failed": 4321})
    lines = formats.error_lines(status)
    assert len(lines) == formats.ERRORS_MAX + 1
    assert lines[-1].startswith(f"and {4321 - formats.ERRORS_MAX} more: see {status['id']}.report.jsonl")


def test_an_unchanged_status_gives_no_second_line(desk: Desk, pipe: tuple[int, io.TextIOWrapper]) -> None:
    status = desk.make("running", progress={"files_total": 5, "files_done": 1})
    reader, stream = pipe
    output = display.Output(stream)
    with display.Display(output) as shown:
        shown.show(status)
        assert b"1/5" in os.read(reader, 4096)
        status["progress"].update(bytes_per_second=17.0, elapsed_seconds=9.0)
        shown.show(status)
        wait_for(lambda: shown._latest is None, 10, "the second status to be taken")
        status["progress"]["files_done"] = 2
        shown.show(status)
        assert os.read(reader, 4096).count(b"\n") == 1


def test_the_worker_may_go_on_writing_in_a_status_it_has_shown(
    desk: Desk, pipe: tuple[int, io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_draw = threading.Event()
    draw = formats.line
    monkeypatch.setattr(formats, "line", lambda status: may_draw.wait(10) and draw(status))
    status = desk.make("running", progress={"files_total": 5, "files_done": 1})
    reader, stream = pipe
    with display.Display(display.Output(stream)) as shown:
        shown.show(status)
        status["progress"]["files_done"] = 4
        may_draw.set()
        assert b"1/5" in os.read(reader, 4096)


def test_a_stream_that_fails_is_left_alone_and_never_raises(pipe: tuple[int, io.TextIOWrapper]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        output = display.Output(full)
        output.print("x")
        output.print("y")
    assert isinstance(output.error, OSError)
    display.Output(None).print("nobody reads this")


def test_a_text_that_the_encoding_of_the_screen_lacks_is_escaped() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="latin-1") as stream:
        display.Output(stream).print("ü日")
    assert os.read(reader, 100) == b"\xfc\\u65e5\n"
    os.close(reader)


def test_the_bar_fits_the_terminal_and_shows_no_name_raw(desk: Desk, terminal: Terminal) -> None:
    terminal.resize(50)
    desk.environment["KEY"] = os.fsdecode(HOSTILE.encode("utf-8", "surrogateescape"))
    process = desk.popen(
        "start",
        "--source",
        "p",
        "--dest",
        "mybucket",
        stand_in=True,
        stdout=terminal.slave,
        stderr=terminal.slave,
    )
    terminal.leave_to(process)
    terminal.read("9.0 s left")
    desk.go()
    screen = terminal.read()
    assert process.wait(30) == 0
    assert "\x1b[?25l" in screen, "a live display hides the cursor"
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l"), "and gives it back"
    plain = without_escapes(screen)
    for word in ("transferring, ", "files", "/5000", "KiB of 5.0 MiB", "2.0 KiB/s", "9.0 s left"):
        assert word in plain
    assert "upload evil\\x1b]0;owned\\x07" in plain
    assert "\x07" not in screen
    assert "\x9b" not in screen
    frames = plain[plain.index("transferring") : plain.rindex("done: ")]
    too_wide = [text for text in frames.replace("\r", "\n").split("\n") if cell_len(text) > 50]
    assert too_wide == []


def test_a_terminal_that_becomes_narrow_is_drawn_at_its_new_width(desk: Desk, terminal: Terminal) -> None:
    desk.environment["KEY"] = "k" * 200
    process = desk.popen("start", "--source", "p", "--dest", "mybucket", stand_in=True, stdout=terminal.slave)
    terminal.read("upload kkk")
    terminal.resize(40)
    end_of_key = "k…"
    wait_for(lambda: _width_of_next(terminal, end_of_key) == 40, 20, "a line of 40 columns")
    desk.go()
    terminal.leave_to(process)
    terminal.read()
    assert process.wait(30) == 0


def _width_of_next(terminal: Terminal, end: str) -> int:
    """The width of the next line on the screen that ends so."""
    lines = without_escapes(terminal.read_new(end)).replace("\r", "\n").split("\n")
    return next((cell_len(text) for text in lines if text.startswith("  upload") and text.endswith(end)), 0)


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_no_color_is_respected(desk: Desk, terminal: Terminal, no_color: str | None, coloured: bool) -> None:
    desk.make("failed")
    if no_color:
        desk.environment["NO_COLOR"] = no_color
    process = desk.popen("list", "--all", stdout=terminal.slave)
    terminal.leave_to(process)
    screen = terminal.read()
    assert process.wait(30) == 0
    assert ("\x1b[31m" in screen) is coloured
    assert "failed" in screen


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_no_color_is_respected_by_the_bar(
    desk: Desk, terminal: Terminal, no_color: str | None, coloured: bool
) -> None:
    errors = [{"op": "upload", "key": "a", "code": "AccessDenied", "message": "refused"}]
    job = desk.make("running", errors=errors, progress={"files_total": 9, "files_done": 4})
    desk.hold(job["id"])
    if no_color:
        desk.environment["NO_COLOR"] = no_color
    process = desk.popen("show", job["id"], "--follow", stdout=terminal.slave, stderr=terminal.slave)
    terminal.leave_to(process)
    screen = terminal.read("refused")
    process.send_signal(signal.SIGINT)
    screen += terminal.read()
    assert process.wait(30) == 130
    assert bool(re.search(r"\x1b\[([0-9]+;)*(3[0-8]|4[0-8]|9[0-7])[;m]", screen)) is coloured


def test_a_dumb_terminal_gets_plain_lines(desk: Desk, terminal: Terminal) -> None:
    desk.go()
    desk.environment["TERM"] = "dumb"
    process = desk.popen("start", "--source", "p", "--dest", "mybucket", stand_in=True, stdout=terminal.slave)
    terminal.leave_to(process)
    screen = terminal.read()
    assert process.wait(30) == 0
    assert "\x1b" not in screen
    assert "transferring: " in screen


def test_the_table_fits_the_terminal_and_never_cuts_the_id(desk: Desk, terminal: Terminal) -> None:
    terminal.resize(60)
    job = desk.make("done", source="a/very/long/folder/name/that/does/not/fit/on/any/narrow/screen")
    process = desk.popen("list", "--all", stdout=terminal.slave)
    terminal.leave_to(process)
    lines = without_escapes(terminal.read()).replace("\r", "").splitlines()
    assert process.wait(30) == 0
    assert lines[1].startswith(job["id"])
    assert [text for text in lines if cell_len(text) > 60] == []


def test_a_stopped_terminal_does_not_stop_the_job(desk: Desk, terminal: Terminal) -> None:
    """Nobody reads the terminal: its buffer fills, the display hangs in a write, the job goes on."""
    desk.environment["KEY"] = "k" * 500
    terminal.resize(500)
    process = desk.popen("start", "--source", "p", "--dest", "mybucket", stand_in=True, stdout=terminal.slave)
    [job_id] = desk.wait_for_job()
    wait_for(lambda: (desk.jobs.read(job_id) or {})["progress"]["files_done"] > 300, 60, "300 statuses")
    desk.go()
    wait_for(lambda: (desk.jobs.read(job_id) or {})["state"] == "done", 20, "the end of the job")
    assert process.poll() is None, "the display should hang in a full terminal, else this test shows nothing"
    terminal.leave_to(process)
    terminal.read()
    assert process.wait(30) == 0

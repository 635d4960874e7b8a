"""The tutorial is true: every command of docs/tutorial.md is typed again, and prints what the page says.

Ids, times, sizes and speeds differ from run to run, and how often progress is printed; nothing else may.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from bench import PROJECT

sys.path.insert(0, str(PROJECT / "scripts"))
import tutorial

PAGE = (PROJECT / "docs" / "tutorial.md").read_text()
PROGRESS = re.compile(r"(queued|starting|comparing|transferring|deleting|deleting bucket): ")


def shape(page: str) -> list[str]:
    """The page's lines without what differs from run to run."""
    lines = []
    for line in page.splitlines():
        if PROGRESS.match(line):
            continue
        text = tutorial.ID.sub("ID", line)
        text = re.sub(r'"(time|message)": "(?!cancelled)[^"]*"', r'"\1": …', text)
        if not text.startswith("$ "):
            text = re.sub(r"\b[0-9.]+ ?(KiB|MiB|B|s)\b(/s)?", "N", text)
            text = re.sub(r"\b([0-9]+/[0-9]+|[0-9.]+) (unchanged|uploaded)\b", r"N \2", text)
            text = re.sub(r'("(files_done|files_unchanged|seconds)": )[0-9.]+', r"\1N", text)
            text = re.sub(r"^files     [0-9]+/", "files     N/", text)
            text = re.sub(r"  +", "  ", text)
        lines.append(text)
    return lines


def test_every_command_of_the_tutorial_prints_what_the_page_says(tmp_path: Path) -> None:
    again = tutorial.render(PAGE, str(tmp_path))
    assert shape(again) == shape(PAGE)
    assert tutorial.ID.findall(again) != tutorial.ID.findall(PAGE), "it was done again"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"state": "running"', '"state": "queued"'),
        ("12/12 files", "11/12 files"),
        (" 1 deleted", " 0 deleted"),
        ("state     interrupted, attempt 2", "state     interrupted, attempt 1"),
        ("DestinationBusy", "Busy"),
        ('"message": "cancelled"', '"message": "stopped"'),
        ('"op": "delete_bucket"', '"op": "delete"'),
    ],
)
def test_a_page_that_says_something_else_would_be_noticed(before: str, after: str) -> None:
    assert before in PAGE
    assert shape(PAGE.replace(before, after)) != shape(PAGE)


def test_a_command_that_does_not_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tutorial, "COMMAND_SECONDS", 0.3)
    page = "```console\n$ echo begun; sleep 1000\n```\n"
    with pytest.raises(AssertionError, match=r"did not end in 0 s: echo begun; sleep 1000\nbegun"):
        tutorial.render(page, str(tmp_path))


def test_what_a_command_prints_replaces_what_was_below_it(tmp_path: Path) -> None:
    page = "text\n```console\n$ echo one; false\nold\n$ echo $?\n7\n$ true\n```\n```sh\n$ echo not run\n```\n"
    made = "text\n```console\n$ echo one; false\none\n$ echo $?\n1\n$ true\n```\n```sh\n$ echo not run\n```\n"
    assert tutorial.render(page, str(tmp_path)) == made
    assert not os.path.exists(tmp_path / "jobs")

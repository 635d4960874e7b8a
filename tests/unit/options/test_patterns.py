"""Filters, held against git itself: what `git check-ignore` says of random patterns and random trees."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from syncworker.errors import FatalError
from syncworker.options import patterns
from syncworker.options.patterns import Malformed, PathFilter, parse

NAMES = ["a", "b", "ab", "a.b", "x]", "[", "a b", "foo", " c", "d ", "-", "!x", "#y", "\\z", "A", "1"]
ATOMS = [
    "a", "b", "*", "**", "?", "/", "/", "/", "[ab]", "[!a]", "[^b]", "[a-c]", "[[:alpha:]]", "[[:digit:]]",
    "\\*", "\\ ", " ", "foo", ".", "[", "]", "!", "#", "\\", "-", "[]a]", "[a-]", "[-a]", "[z-a]", "[/]",
    "[\\]]", "[[:foo:]]", "[a[:digit:]-]", "[!/]", "***", "\r", "[[:punct:]]", "[[:upper:][:space:]]",
]  # fmt: skip


def _line(chance: random.Random) -> str:
    if chance.random() < 0.5:
        text = chance.choice(["", "/", "**/", "a/"]) + chance.choice(["a", "b", "*b", "a*", "foo", "?", "A"])
        text += chance.choice(["", "", "/", "/**", "/*", "/b"])
    else:
        text = "".join(chance.choice(ATOMS) for _ in range(chance.randint(1, 6)))
    return ("!" if chance.random() < 0.25 else "") + text


def _files(chance: random.Random) -> list[str]:
    paths = {"/".join(chance.choice(NAMES) for _ in range(chance.randint(1, 4))) for _ in range(12)}
    folders = {path[:at] for path in paths for at, c in enumerate(path) if c == "/"}
    return sorted(paths - folders)


def _is_taken(line: str) -> bool:
    try:
        parse(line)
    except Malformed:
        return False
    return True


def ignored_by_git(top: Path, lines: list[str], files: list[str]) -> set[str]:
    """The tree is made for real, because git looks whether a path is a folder."""
    subprocess.run(["git", "init", "-q", top], check=True)
    (top / ".git" / "info" / "exclude").write_bytes("".join(f"{line}\n" for line in lines).encode())
    for file in files:
        (top / file).parent.mkdir(parents=True, exist_ok=True)
        (top / file).touch()
    done = subprocess.run(
        ["git", "-C", top, "check-ignore", "--no-index", "-z", "--stdin"],
        input="\0".join(files).encode(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done
    return set(done.stdout.decode().split("\0")) - {""}


@pytest.mark.parametrize("seed", range(10))
def test_git_ignores_the_same_files(tmp_path: Path, seed: int) -> None:
    """Fifty pattern sets a seed. Lines that are refused stay in git's file: it must ignore them as well."""
    chance = random.Random(seed)
    some = 0
    for number in range(50):
        lines = [_line(chance) for _ in range(chance.randint(1, 5))]
        files = _files(chance)
        ignored = ignored_by_git(tmp_path / str(number), lines, files)
        path_filter = PathFilter([], [line for line in lines if _is_taken(line)])
        assert {file for file in files if path_filter.skips(file)} == ignored, lines
        some += bool(ignored)
    assert some > 10


ROWS = [
    ("*.tmp", "a/b.tmp", True),
    ("*.tmp", "b.tmp.txt", False),
    ("/cache/", "cache/x", True),
    ("/cache/", "a/cache/x", False),
    ("cache/", "a/cache/x", True),
    ("cache/", "cache", False),
    ("a/**/z", "a/z", True),
    ("a/**/z", "a/b/c/z", True),
    ("foo\\ ", "foo ", True),
    ("naïve*", "naïveté", True),
    ("?", "é", True),
    ("[é-ü]x", "öx", True),
    ("*", "new\nline", True),
]


@pytest.mark.parametrize(("line", "path", "skipped"), ROWS)
def test_one_line_and_one_path(line: str, path: str, skipped: bool) -> None:
    assert PathFilter([], [line]).skips(path) == skipped
    assert PathFilter([line], []).skips(path) != skipped
    assert not PathFilter([], [line, f"!{line}"]).skips(path) or "/" in path


def test_include_comes_first_and_exclude_takes_from_it() -> None:
    path_filter = PathFilter(["*.jpg", "/albums/"], ["thumb*", "/albums/private/"])
    kept = ["a.jpg", "x/b.jpg", "albums/notes.txt", "albums/deep/er/x"]
    dropped = ["a.png", "thumb.jpg", "albums/thumbs/x", "albums/private/a.jpg", "x/albums/notes.txt"]
    assert [path for path in kept + dropped if not path_filter.skips(path)] == kept
    assert path_filter.skips_folder("albums/private")
    assert not path_filter.skips_folder("x"), "something in it may be included"


def test_a_key_that_is_not_utf8_is_matched_as_any_other() -> None:
    path_filter = PathFilter([], ["*.tmp", "/cache?/"])
    skipped = ["a\udcff.tmp", "cache\udcff/x", "cache\udcff/", "\ud800.tmp"]
    kept = ["a\udcff.txt", "d\udcff/x.txt", "d\udcff/"]
    assert [path for path in skipped + kept if path_filter.skips(path)] == skipped
    assert PathFilter(["*.txt"], []).skips("a\udcff.tmp")


def test_a_folder_marker_goes_with_its_folder() -> None:
    assert PathFilter([], ["cache/"]).skips("a/cache/")
    assert not PathFilter([], ["cache"]).skips("a/other/")
    assert PathFilter(["*.jpg"], []).skips("a/")


@pytest.mark.parametrize("line", ["[", "a\\", "!", "/", "//", "!/", "[[:foo:]]", "a[", "x\ny", "x\0"])
def test_a_line_that_never_matches_is_refused(line: str) -> None:
    with pytest.raises(Malformed):
        patterns.check([line], may_negate=True)


def test_lists_are_bounded() -> None:
    patterns.check(["a"] * 1000, may_negate=True)
    with pytest.raises(Malformed, match="1000 lines"):
        patterns.check(["a"] * 1001, may_negate=True)
    patterns.check(["a" * (32 << 10)], may_negate=True)
    patterns.check(["a" * 1024] * 32, may_negate=True)
    with pytest.raises(Malformed, match="32768 bytes"):
        patterns.check(["a" * (32 << 10) + "b"], may_negate=True)
    with pytest.raises(Malformed, match="begins with `!`"):
        patterns.check(["ok", "!a"], may_negate=False)


@pytest.mark.parametrize(
    "lines",
    [
        ["*a" * 9 + "*b"],
        ["*a" * 16_000],
        ["**/" * 5000 + "x"],
        ["[a-z]*" * 5000],
        [f"*?*{n}*" for n in range(1000)],
    ],
)
def test_no_pattern_holds_the_interpreter(lines: list[str]) -> None:
    """A backtracking matcher needs seconds for nine stars and 40 characters, and 18 times that for 50."""
    path_filter = PathFilter([], lines)
    began = time.process_time()
    for path in ("a" * 255, "ab" * 120, "abc/" * 60 + "x"):
        path_filter.skips(path)
    assert time.process_time() - began < 2


def test_memory_that_does_not_do_is_an_error_and_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that silently lets everything through would have excluded objects deleted."""
    monkeypatch.setattr(patterns, "_MEMORY_BYTES", 20_000)
    with pytest.raises(Malformed, match="too much memory"):
        patterns.check([f"*{n}?*x*[a-f]" for n in range(200)], may_negate=True)


def test_an_automaton_that_gives_up_fails_the_job_and_lets_nothing_through() -> None:
    """RE2 answers as if nothing had matched. Not seen to happen within its memory; so by a double."""

    class GivenUp:
        def Match(self, _text: str) -> list[int]:
            return []

    path_filter = PathFilter([], ["*.tmp"])
    path_filter._exclude._of_files = GivenUp()
    with pytest.raises(FatalError, match="too much memory"):
        path_filter.skips("a.txt")

"""`mirrors.toml`: which mirrors there are. Read at the start and whenever it changes.

A file with any mistake is not used at all: the last good one holds, and each mistake is reported with its
line. What a table of it may hold is in `mirror`.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from syncworker.mirrors.mirror import Environ, Mirror, Wrong, of_table, shown
from syncworker.settings import Settings

FILE_MAX_BYTES = 1 << 20
_TABLE = re.compile(r"\s*\[\s*[\"']?([^\"'\]]+?)[\"']?\s*\]")
_KEY = re.compile(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=")


@dataclass(frozen=True, slots=True)
class Mistake:
    """`line` counts from 1; None: the whole file."""

    line: int | None
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file says: its mirrors by name, or its mistakes."""

    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    mistakes: tuple[Mistake, ...] = ()


class MirrorFile:
    """The file at `path`. `load` reads it again if it has changed; after a mistake the last good mirrors
    stay."""

    def __init__(self, path: str, settings: Settings, environ: Callable[[], Environ]) -> None:
        self.path = path
        self.mirrors: Mapping[str, Mirror] = {}
        self.mistakes: tuple[Mistake, ...] = ()
        self._settings = settings
        self._environ = environ
        self._stamp: tuple[int, ...] | None = (-1,)

    def load(self) -> bool:
        """Returns whether the file was read again. A missing file has no mirrors."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        found = read(self.path, self._settings, self._environ())
        self.mistakes = found.mistakes
        if not found.mistakes:
            self.mirrors = found.mirrors
        return True

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        # The inode's own time changes with its mode as well: a file that others may read is a mistake.
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def read(path: str, settings: Settings, environ: Environ) -> Contents:
    """Reads the file as it is now; a missing file has no mirrors."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return Contents()
    except OSError as error:
        return Contents(mistakes=(Mistake(None, f"cannot be read: {error.strerror}"),))
    if len(data) > FILE_MAX_BYTES:
        return Contents(mistakes=(Mistake(None, f"is longer than {FILE_MAX_BYTES} bytes"),))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Contents(mistakes=(Mistake(line, "is not valid UTF-8"),))
    found = parse(text, settings, environ)
    of_notify = [line for (_, key), line in _lines(text).items() if key == "notify"]
    if stat.S_IMODE(mode) & 0o004 and of_notify:
        message = "notify: every user may read this file, and addresses are secrets: run `chmod o-r` on it"
        found = Contents(mistakes=(*found.mistakes, Mistake(min(of_notify), message)))
    return found


def parse(text: str, settings: Settings, environ: Environ) -> Contents:
    """The mirrors of a file's text, or every mistake in it."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return Contents(mistakes=(_of_syntax(str(error), text),))
    lines = _lines(text)
    mirrors: dict[str, Mirror] = {}
    mistakes: list[Mistake] = []
    for name, table in tables.items():
        try:
            mirrors[name] = of_table(name, table, settings, environ, lines.get((name, None), 0))
        except Wrong as wrong:
            line = lines.get((name, wrong.key)) or lines.get((name, None))
            mistakes.append(Mistake(line, f"[{shown(name)}] {wrong}"))
    mistakes += _overlaps(mirrors, settings)
    return Contents({} if mistakes else mirrors, tuple(sorted(mistakes, key=lambda each: each.line or 0)))


def _of_syntax(message: str, text: str) -> Mistake:
    """`tomllib` names the line in its message, or the end of the file."""
    found = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    line = int(found[1]) if found else text.count("\n") + 1
    plain = message[: found.start()] if found else message.removesuffix(" (at end of document)")
    return Mistake(line, f"this is not TOML: {plain[:1].lower()}{plain[1:]}")


def _lines(text: str) -> dict[tuple[str | None, str | None], int]:
    """Finds the lines of tables (table, None) and keys (table, key) in the text. It may mistake a line inside
    a long string for one; then only the line number in a message is wrong."""
    lines: dict[tuple[str | None, str | None], int] = {}
    table: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if found := _TABLE.match(line):
            table = found[1]
            lines.setdefault((table, None), number)
        elif found := _KEY.match(line):
            lines.setdefault((table, found[1]), number)
            lines.setdefault((found[1], None), number)  # a key outside of tables is a table's name
    return lines


def _overlaps(mirrors: Mapping[str, Mirror], settings: Settings) -> list[Mistake]:
    """Finds mirrors whose destinations are equal or contain one another: they would delete each other's
    objects."""
    found = []
    seen: list[tuple[str, str, str]] = []  # destination, prefix, name
    for name, mirror in mirrors.items():
        place, prefix = mirror.place(settings)
        for other_place, other_prefix, other in seen:
            if place == other_place and (prefix.startswith(other_prefix) or other_prefix.startswith(prefix)):
                message = f"[{name}] has the destination of [{other}], or one that contains it or lies in it"
                found.append(Mistake(mirror.line, message))
        seen.append((place, prefix, name))
    return found

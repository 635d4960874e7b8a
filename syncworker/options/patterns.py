"""gitignore lines: which paths they match, as git decides it, in time that is linear in the path.

A line is translated into one regular expression of RE2, which has no backtracking, and all lines of a list
are matched at once by one automaton: a thousand lines cost what one does (docs/design.md has the figures).

What git does, as its dir.c and wildmatch.c (2.39) have it:
- blank lines and those that start with `#` mean nothing; spaces at the end go, but for an escaped one;
- `!` re-includes; `/` at the end: folders only; a line without any other `/` is about the name alone,
  wherever it is, else about the whole path from the top;
- `*` and `?` stop at `/`, `**` between slashes does not; `[a-z]`, `[!a]`, `[^a]`, `[[:digit:]]`; a backslash
  escapes;
- of the lines that match a path, the last one decides; what is in an excluded folder is excluded.
One difference: `?` and `[…]` match a character, where git matches a byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import re2

from syncworker.errors import FatalError

LINES_MAX = 1000
BYTES_MAX = 32 << 10
_MEMORY_BYTES = 64 << 20
_CACHED_FOLDERS = 10_000
_LAST = 0x10FFFF
_NOT_TEXT = re.compile("[\ud800-\udfff]")  # of a key that is not UTF-8
_NOTHING = r"[^\x00-\x{10FFFF}]"
_GLOB = frozenset("*?[\\")
_CLASSES = {
    "alnum": "09AZaz",
    "alpha": "AZaz",
    "blank": "\t\t  ",
    "cntrl": "\x00\x1f\x7f\x7f",
    "digit": "09",
    "graph": "!~",
    "lower": "az",
    "print": " ~",
    "punct": "!/:@[`{~",
    "space": "\t\r  ",
    "upper": "AZ",
    "xdigit": "09AFaf",
}


class Malformed(ValueError):
    """A line that can never match, although git accepts it; the message says why."""


class Pattern:
    """A line that is no comment. `regex` matches whole paths without `/` at their end."""

    __slots__ = ("folders_only", "negated", "regex")

    def __init__(self, line: str) -> None:
        self.negated = line.startswith("!")
        text = line[self.negated :]
        self.folders_only = text.endswith("/")
        text = text.removesuffix("/")
        anchored = "/" in text
        text = text.removeprefix("/")
        if not text:
            raise Malformed("names nothing")
        literal = next((at for at, c in enumerate(text) if c in _GLOB), len(text))
        # git compares what is before the first special character by itself: a `**` right behind it counts as
        # one at the beginning.
        rest = _Translation(text[literal:] if anchored else text).regex
        self.regex = f"{_literal(text[:literal])}{rest}" if anchored else f"(?:.*/)?{rest}"


def check(lines: list[str], *, may_negate: bool) -> None:
    """Raises Malformed for the first wrong line, and for a list that is too long."""
    if len(lines) > LINES_MAX or sum(len(line.encode()) for line in lines) > BYTES_MAX:
        raise Malformed(f"more than {LINES_MAX} lines or {BYTES_MAX} bytes")
    for line in lines:
        try:
            pattern = parse(line)
            if pattern is not None and pattern.negated and not may_negate:
                raise Malformed("begins with `!`, which is for exclude")
        except Malformed as error:
            raise Malformed(f"the line {line[:80]!a} {error}") from None
    Patterns(lines)


def parse(line: str) -> Pattern | None:
    """Returns None for a blank line or a comment. Raises Malformed."""
    if "\n" in line or "\0" in line:
        raise Malformed("holds a line end or NUL")
    text = _without_spaces_at_the_end(line.removesuffix("\r"))
    return None if not text or text.startswith("#") else Pattern(text)


def _without_spaces_at_the_end(line: str) -> str:
    """Removes the spaces at the end, except an escaped one."""
    return re.match(r"(?s)(?:\\.|[^\\ ]| +(?=[^ ])|\\\Z)*", line)[0]  # type: ignore[index]


def _literal(text: str) -> str:
    return str(re2.escape(text))


class _Translation:
    """Translates one glob into a regular expression."""

    def __init__(self, glob: str) -> None:
        self._glob, self._at = glob, 0
        parts = []
        while self._at < len(glob):
            parts.append(self._next())
        self.regex = "".join(parts)

    def _next(self) -> str:
        c = self._glob[self._at]
        self._at += 1
        match c:
            case "\\":
                return _literal(self._escaped())
            case "?":
                return "[^/]"
            case "*":
                return self._stars()
            case "[":
                return self._class()
        return _literal(c)

    def _escaped(self) -> str:
        if self._at == len(self._glob):
            raise Malformed("ends in a backslash")
        self._at += 1
        return self._glob[self._at - 1]

    def _stars(self) -> str:
        glob, begin = self._glob, self._at - 1
        while glob.startswith("*", self._at):
            self._at += 1
        after = glob[self._at : self._at + 2]
        whole = self._at - begin > 1 and (not begin or glob[begin - 1] == "/")
        if whole and after.startswith("/"):
            self._at += 1
            return "(?:.*/)?"
        return ".*" if whole and after in ("", "\\/") else "[^/]*"

    def _class(self) -> str:
        glob = self._glob
        negated = glob.startswith(("!", "^"), self._at)
        self._at += negated
        ranges: list[tuple[int, int]] = []
        before: str | None = None
        begin = self._at
        while self._at == begin or not glob.startswith("]", self._at):
            if self._at >= len(glob):
                raise Malformed("has a `[` without its `]`")
            c = glob[self._at]
            self._at += 1
            following = glob[self._at : self._at + 1]
            if c == "\\":
                before = self._escaped()
                ranges.append((ord(before), ord(before)))
            elif c == "-" and before is not None and following not in ("", "]"):
                self._at += 1
                high = self._escaped() if following == "\\" else following
                ranges.append((ord(before), ord(high)))
                before = None
            elif c == "[" and following == ":" and (named := self._named()) is not None:
                ranges += named
                before = None
            else:
                before = c
                ranges.append((ord(c), ord(c)))
        self._at += 1
        return _regex_of(ranges, negated)

    def _named(self) -> list[tuple[int, int]] | None:
        """Parses `[:digit:]` after its `[`. None: this is no class name, and `[` stands for itself."""
        end = self._glob.find("]", self._at + 1)
        if end < 0:
            raise Malformed("has a `[` without its `]`")
        if end - self._at < 2 or self._glob[end - 1] != ":":
            return None
        name = self._glob[self._at + 1 : end - 1]
        if name not in _CLASSES:
            raise Malformed(f"has [:{name}:], which is not a character class")
        self._at = end + 1
        bounds = _CLASSES[name]
        return [(ord(bounds[n]), ord(bounds[n + 1])) for n in range(0, len(bounds), 2)]


def _regex_of(ranges: list[tuple[int, int]], negated: bool) -> str:
    """Returns a character class that never matches `/`."""
    slash = ord("/")
    if negated:
        return f"[^{_class_of([*ranges, (slash, slash)])}]"
    below = [(low, min(high, slash - 1)) for low, high in ranges]
    above = [(max(low, slash + 1), high) for low, high in ranges]
    return f"[{inner}]" if (inner := _class_of(below + above)) else _NOTHING


def _class_of(ranges: list[tuple[int, int]]) -> str:
    return "".join(rf"\x{{{low:x}}}-\x{{{high:x}}}" for low, high in sorted(set(ranges)) if low <= high)


class Patterns:
    """A list of lines. `verdict` judges one path alone, not the folders that it is in."""

    def __init__(self, lines: list[str]) -> None:
        found = [pattern for line in lines if (pattern := parse(line)) is not None]
        self._negated = [False, *(pattern.negated for pattern in found)]
        self._of_files = _compiled(found, folders=False)
        self._of_folders = _compiled(found, folders=True)

    def verdict(self, path: str, *, is_folder: bool) -> bool | None:
        """True: a line matches the path, False: a line re-includes it, None: neither."""
        lines = self._of_folders if is_folder else self._of_files
        try:
            matches = lines.Match(path)
        except UnicodeEncodeError:  # a key that another program made
            matches = lines.Match(_NOT_TEXT.sub("\ufffd", path))
        if not matches:  # the first expression matches everything
            raise FatalError("FilterFailed", "exclude or include needs too much memory: use fewer stars")
        return not self._negated[max(matches)] if len(matches) > 1 else None


def _compiled(patterns: list[Pattern], *, folders: bool) -> re2.Set:
    options = re2.Options()
    options.dot_nl = True
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES
    made = re2.Set.FullMatchSet(options)
    made.Add(".*")
    for pattern in patterns:
        made.Add(pattern.regex if folders or not pattern.folders_only else _NOTHING)
    try:
        made.Compile()
    except re2.error:
        raise Malformed("together the lines need too much memory: use fewer stars") from None
    return made


class PathFilter:
    """Decides which paths belong to the mirror: those that `include` matches (all without `include`), without
    those that `exclude` matches.

    Paths are relative to the source, without `/` at their end. The results of folders are cached: asking for
    the files of one folder together is fastest.
    """

    def __init__(self, include: list[str], exclude: list[str], scope: Sequence[str] = ()) -> None:
        """`scope`: lines that exclude paths, even those that a line of `exclude` re-includes."""
        self.lines = (include, exclude, list(scope))
        self._scope = Patterns(list(scope)) if scope else None
        self._include = Patterns(include) if include else None
        self._exclude = Patterns(exclude)
        self._folders: dict[str, tuple[bool, bool]] = {"": (False, self._include is None)}
        self._last, self._state = "", self._folders[""]

    def skips_folder(self, path: str) -> bool:
        """Whether nothing in this folder belongs to the mirror."""
        return self._of_folder(path)[0]

    def skips_listed(self, path: str) -> bool:
        """For a file, the same as `skips`; for a folder (its path ends in `/`), whether the walk may skip
        it."""
        return self.skips_folder(path[:-1]) if path.endswith("/") else self.skips(path)

    def skips(self, path: str) -> bool:
        """Whether the file, or the object with this key, is outside of the mirror. A key with `/` at its end
        is a folder marker and belongs to its folder."""
        folder = path[: max(0, path.rfind("/"))]
        if folder != self._last:
            self._last, self._state = folder, self._of_folder(folder)
        excluded, included = self._state
        if excluded or folder + "/" == path:
            return excluded or not included
        if not included and self._include and not self._include.verdict(path, is_folder=False):
            return True
        return self._excludes(path, is_folder=False)

    def _excludes(self, path: str, *, is_folder: bool) -> bool:
        if self._scope is not None and self._scope.verdict(path, is_folder=is_folder) is True:
            return True
        return self._exclude.verdict(path, is_folder=is_folder) is True

    def _of_folder(self, path: str) -> tuple[bool, bool]:
        """Returns (excluded, included) of a folder, through itself or a folder that it is in."""
        known = self._folders.get(path)
        if known is not None:
            return known
        excluded, included = self._of_folder(path[: max(0, path.rfind("/"))])
        if not excluded:
            excluded = self._excludes(path, is_folder=True)
            if not included and self._include:
                included = self._include.verdict(path, is_folder=True) is True
        if len(self._folders) > _CACHED_FOLDERS:
            self._folders = {"": self._folders[""]}
        self._folders[path] = excluded, included
        return excluded, included

"""A job's report, page by page, and the end of its log, as HTTP shows them.

A page of the report begins after a number of lines. It ends at its limit, at four megabytes, or, in a search,
after two seconds, and says how many lines come before the next page. The end of each page is remembered, so
that reading on costs nothing. A page has only whole lines: the worker may be writing the last one.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple

from syncworker.history import plan_sums

LINES_DEFAULT, LINES_MAX = 1000, 10_000
LOG_BYTES = 64 << 10
_PAGE_BYTES = 4 << 20
_SEARCH_SECONDS = 2.0
_PLACES_KEPT = 1000
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


_Name = tuple[str, int, str]  # path, inode, and what its keys begin with


class Page(NamedTuple):
    """`lines` are whole JSON lines; `following` is the `after` of the next page, None at the report's end."""

    lines: bytes
    following: int | None


class _Wanted(NamedTuple):
    op: str
    q: str  # case folded
    errors: bool

    def takes(self, line: bytes) -> bool:
        if not any(self):
            return True
        if self.op and self.op.encode() not in line:
            return False  # no need to parse it
        plain = self.q.isascii() and line.isascii() and b"\\" not in line
        if plain and self.q.encode() not in line.lower():
            return False
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # cut by a full disk, long ago
            return False
        if not isinstance(value, dict):
            return False
        if (self.op and value.get("op") != self.op) or (self.errors and not _has_failed(value)):
            return False
        return not self.q or any(self.q in text.casefold() for text in _texts(value))


class ReportReader:
    """Pages of reports. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: OrderedDict[tuple[_Name, int], int] = OrderedDict()  # (name, line) -> offset

    def page(
        self,
        path: str,
        *,
        after: int,
        limit: int,
        op: str = "",
        q: str = "",
        errors: bool = False,
        below: str = "",
    ) -> Page:
        """The next `limit` lines that have this `op`, and `q` in key, code or message, in any case. `errors`:
        only failed operations. `below`: only the lines of a plan whose keys begin so; `after` counts from the
        first of them. No report: an empty page."""
        try:
            file = open(path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return Page(b"", None)
        with file:
            file.seek(plan_sums.first_below(file, below) if below else 0)
            name = (path, os.fstat(file.fileno()).st_ino, below)
            number = self._seek(file, name, after)
            if number < after:
                return Page(b"", None)
            return self._read(file, name, number, limit, _Wanted(op, q.casefold(), errors))

    def _read(self, file: BinaryIO, name: _Name, number: int, limit: int, wanted: _Wanted) -> Page:
        below = plan_sums.escape(name[2])
        until = time.monotonic() + _SEARCH_SECONDS
        matches: list[bytes] = []
        size, begin = 0, number
        place = file.tell()
        for line in file:
            if not line.endswith(b"\n") or (below and not plan_sums.parse(line).is_below(below)):
                return Page(b"".join(matches), None)
            if len(matches) >= limit or size >= _PAGE_BYTES or (number > begin and time.monotonic() > until):
                self._keep(name, number, place)
                return Page(b"".join(matches), number)
            number += 1
            place += len(line)
            if wanted.takes(line):
                matches.append(line)
                size += len(line)
        return Page(b"".join(matches), None)

    def _seek(self, file: BinaryIO, name: _Name, after: int) -> int:
        """Moves to the end of line `after`; returns `after`, or the number of lines if there are fewer."""
        with self._lock:
            place = self._places.get((name, after))
        if place is not None:
            file.seek(place)
            return after
        return sum(line.endswith(b"\n") for line in islice(file, after))

    def _keep(self, name: _Name, number: int, place: int) -> None:
        with self._lock:
            self._places[name, number] = place
            while len(self._places) > _PLACES_KEPT:
                self._places.popitem(last=False)


def _has_failed(value: dict[str, object]) -> bool:
    """A skipped file has its reason in `error`, and is no failure."""
    return isinstance(value.get("error"), dict) and value.get("op") != "skip"


def _texts(value: dict[str, object]) -> Iterator[str]:
    error = value.get("error")
    found = [value.get("key"), *(error.values() if isinstance(error, dict) else [])]
    return (text for text in found if isinstance(text, str))


def log_tail(path: str) -> str:
    """The last 64 KiB of a log from the start of a line, control characters escaped; "" if there is no
    log."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LOG_BYTES))
            data = file.read(LOG_BYTES)
    except FileNotFoundError:
        return ""
    if size > LOG_BYTES:
        data = data[data.find(b"\n") + 1 :]
    text = data.decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)

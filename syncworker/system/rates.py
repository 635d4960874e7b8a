"""Bytes a second: how people write them, and limits that may change while a job runs.

A rate is `500000`, `512K`, `1.5M` or `1G` (of 1,024), `0` for no limit. A limit is what its file says, where
there is one, else a default. A file that is empty or holds nonsense is ignored: what held before holds on.
"""

from __future__ import annotations

import re

from syncworker.system import durable_files

_FRACTION = r"(?:\.[0-9]{1,9})?"
RATE = rf"[0-9]{{1,15}}|[0-9]{{1,12}}{_FRACTION}[Kk]|[0-9]{{1,9}}{_FRACTION}[Mm]|[0-9]{{1,6}}{_FRACTION}[Gg]"
RATE_MAX = 10**15 - 1
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_FILE_MAX = 64


def parse_rate(text: str) -> int:
    """Bytes a second, 0 for no limit. ValueError: it is no rate."""
    if not re.fullmatch(RATE, text):
        raise ValueError("must be bytes a second: 500000, 512K, 1.5M, 1G, or 0 for no limit")
    if text.isdigit():
        return int(text)
    rate = float(text[:-1]) * _UNITS[text[-1].upper()]
    return max(1, int(rate)) if rate else 0


def as_asked(text: str) -> int | str:
    """A rate as a status keeps it: a plain number as a number, one with a unit as its text."""
    parse_rate(text)
    return int(text) if text.isdigit() else text


def read_rate(path: str) -> int | None:
    """The rate in a file. None: there is no file. ValueError: it holds no rate."""
    data = durable_files.read_start(path, _FILE_MAX)
    return None if data is None else parse_rate(data.decode("ascii", "replace").strip())


class Limit:
    """A limit that is looked up again and again. `rate`: bytes a second, 0 for none."""

    def __init__(self, path: str, default: int) -> None:
        self._path, self._default = path, default
        self._complained = False
        self.rate = default

    def look(self) -> str | None:
        """Takes over what the file says now. The first time that it is nonsense: what is wrong."""
        try:
            rate = read_rate(self._path)
        except ValueError as error:
            if self._complained:
                return None
            self._complained = True
            return f"{self._path} is ignored: it {error}"
        self.rate, self._complained = self._default if rate is None else rate, False
        return None

"""Bytes a second: how people write them, and limits that may change while a job runs.

A rate is `500000`, `512K`, `1.5M` or `1G` (of 1,024), `0` for no limit. A limit comes from its file, or is a
default where there is none. A file that is empty or holds no rate is ignored: the last limit stays in force.
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
    """Returns bytes a second, 0 for no limit. ValueError: it is no rate."""
    if not re.fullmatch(RATE, text):
        raise ValueError("must be bytes a second: 500000, 512K, 1.5M, 1G, or 0 for no limit")
    if text.isdigit():
        return int(text)
    rate = float(text[:-1]) * _UNITS[text[-1].upper()]
    return max(1, int(rate)) if rate else 0


class Limit:
    """A limit that is read again and again. `rate`: bytes a second, 0 for none."""

    def __init__(self, path: str, default: int) -> None:
        self._path, self._default = path, default
        self._complained = False
        self.rate = default

    def look(self) -> str | None:
        """Reads the file. Returns what is wrong with it, once, until it is right again."""
        data, had_complained = durable_files.read_start(self._path, _FILE_MAX), self._complained
        self._complained = False
        try:
            self.rate = self._default if data is None else parse_rate(data.decode("ascii", "replace").strip())
        except ValueError as error:
            self._complained = True
            return None if had_complained else f"{self._path} is ignored: it {error}"
        return None

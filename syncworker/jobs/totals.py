"""Counts a job's work over all its attempts, in counts that only grow (a tally). A worker writes its tally to
the status (`metrics`); the server sums all tallies for `/metrics`.

A tally has four groups of names, each with a number. It is read from files, so `clean` checks all of it and
drops values that are negative or not numbers. A group never has many more than NAMES_MAX names beyond the
known ones, because each name becomes a series in a user's database. No input or output here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from syncworker.jobs.known_errors import CODES

Tally = dict[str, dict[str, float]]

GROUPS = ("counts", "errors", "phase_seconds", "requests")
NAMES_MAX = 100
OTHER = "other"
ENDED = "ended_"  # followed by a state: names in `counts`
_MOST = 1 << 62  # more than any count; below it a float is finite
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}(?: [0-9]{3})?")


def empty() -> Tally:
    return {group: {} for group in GROUPS}


def add(total: Tally, more: Mapping[str, Mapping[str, float]]) -> None:
    """Adds in place. Names beyond the limit, and invalid ones, count as `other`."""
    for group in GROUPS:
        known = total[group]
        for name, value in more.get(group, {}).items():
            is_new = name not in known and name not in CODES
            if is_new and (len(known) >= NAMES_MAX or not _NAME.fullmatch(name)):
                name = OTHER  # noqa: PLW2901 - the name that it is counted under
            known[name] = known.get(name, 0) + value


def clean(value: Any) -> Tally:
    """Returns the valid part of a tally that was read from a file."""
    found, groups = empty(), value if isinstance(value, dict) else {}
    for group in GROUPS:
        if isinstance(names := groups.get(group), dict):
            add(found, {group: {str(name): number for name, number in names.items() if _is_count(number)}})
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST

"""The options of a sync: one table of name, parser, flag and JSON Schema, for HTTP, shell, OpenAPI and docs.

`parse` checks what was asked and keeps it as asked (numbers as numbers); an option that was not asked, or is
empty, is left out. A new option is a row here and the code that acts on it. Reads no clock, file or socket.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from syncworker.errors import UsageError

WAIT_MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Option:
    """`parse` takes the text of a query or a flag and raises UsageError. `bare` is the value of a flag that
    is given alone, None where it needs one. `schema` is what JSON may carry, with the description."""

    name: str
    default: str
    parse: Callable[[str], Any]
    help: str
    schema: Mapping[str, Any]
    bare: str | None = None

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def parse_wait(text: str) -> float:
    """Seconds between two operations: 0 to 3600, decimals allowed."""
    try:
        if not re.fullmatch(r"\+?[0-9]*\.?[0-9]*(?:[eE]-?[0-9]+)?", text):
            raise ValueError
        wait = float(text)
    except ValueError:
        wait = math.nan
    if not 0 <= wait <= WAIT_MAX_SECONDS:  # false for nan as well
        raise UsageError("BadWait", "wait must be a number of seconds from 0 to 3600", param="wait")
    return wait


def _one_of(name: str, *numbers: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text not in {str(number) for number in numbers}:
            words = " or ".join(str(number) for number in numbers)
            raise UsageError("BadOption", f"{name} must be {words}", param=name)
        return int(text)

    return parse


TABLE = (
    Option(
        "wait",
        "0",
        parse_wait,
        "seconds between two operations, 0 (default) to 3600",
        {
            "description": "Seconds between two operations, which then run one at a time; 0: full parallel"
            " speed",
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 3600},
                {"type": "string", "pattern": r"^(\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE]-?[0-9]+)?)?$"},
            ],
            "default": 0,
        },
    ),
    Option(
        "forget_mounts",
        "0",
        _one_of("forget_mounts", 0, 1),
        "1: disks that are missing now are gone for good; acts once, a resume does not take it up",
        {
            "description": "1: mounts that are missing now are gone for good. It acts once, on those: a"
            " resume does not take it up",
            "anyOf": [{"type": "integer", "enum": [0, 1]}, {"type": "string", "enum": ["0", "1", ""]}],
            "default": 0,
        },
        bare="1",
    ),
)
NAMES = tuple(option.name for option in TABLE)


def parse(given: Mapping[str, str | None]) -> dict[str, Any]:
    """The options that were asked, by name. Raises UsageError that names the one at fault."""
    return {option.name: option.parse(text) for option in TABLE if (text := given.get(option.name))}

"""Parsers for the values of settings. Each takes a text and raises ValueError that says what it must be."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from syncworker.errors import UsageError
from syncworker.paths import PROJECT
from syncworker.system.rates import parse_rate

N = TypeVar("N", int, float)


def optional(value: str) -> str | None:
    return value or None


def _number(
    kind: Callable[[str], N], noun: str, low: float, high: float, unit: str = ""
) -> Callable[[str], N]:
    def parse(value: str) -> N:
        try:
            number = kind(value)
        except ValueError:
            raise ValueError(f"must be {noun}") from None
        if not low <= number <= high:
            raise ValueError(f"must be between {low:.12g} and {high:.12g}{unit}")
        return number

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    return _number(int, "a whole number", low, high)


def optional_seconds(low: float, high: float) -> Callable[[str], float | None]:
    parse = _number(float, "a number of seconds", low, high, " seconds")
    return lambda value: parse(value) if value else None


def flag(value: str) -> bool:
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("must be 1 or 0")


def _path(what: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if not value or "\0" in value:
            raise ValueError(f"must be {what}")
        return os.path.normpath(os.path.join(PROJECT, os.path.expanduser(value)))

    return parse


folder = _path("a folder")
file = _path("the path of a file")


def rate(value: str) -> int:
    return parse_rate(value) if value else 0


def one_of(*words: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return value

    return parse


_CLUSTER_MOST = 256


def cluster(value: str) -> str:
    kind, _, rest = value.partition(":")
    if not value:
        return ""
    if kind == "local" and rest.isascii() and rest.isdecimal() and 1 <= int(rest) <= _CLUSTER_MOST:
        return f"local:{int(rest)}"
    if kind == "tcp":
        raise ValueError(
            "tcp:// would let whoever can connect run programs as this user and read its keys: use tls://"
            " (`cluster keys` makes the certificates)"
        )
    parts = urlsplit(value)
    try:
        is_place = parts.scheme == "tls" and bool(parts.hostname) and bool(parts.port)
    except ValueError:
        is_place = False
    if not is_place or parts.path or parts.query or parts.username is not None:
        raise ValueError(f"must be local:N (1 to {_CLUSTER_MOST} processes) or tls://HOST:PORT")
    return value


def words(value: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in value.split(",") if item.strip())


def most_deletions(value: str) -> int | str:
    from syncworker.options.table import parse_max_delete

    try:
        limit: int | str = parse_max_delete("max_delete", value) if value else ""
    except UsageError:
        raise ValueError("must be a count, a percentage (10%) or none") from None
    return limit


def url(value: str) -> str | None:
    if not value:
        return None
    from syncworker.storage_url import literal_address, parse_url

    try:
        url = parse_url(value)
    except UsageError as error:
        raise ValueError(error.message) from error
    address = literal_address(urlsplit(url).hostname or "")
    if address is not None and (address.is_link_local or address.is_multicast or address.is_unspecified):
        raise ValueError(f"{address} is a link-local, multicast or unspecified address, never a storage")
    return url

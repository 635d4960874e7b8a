"""One mirror: a table of `mirrors.toml`, each of its values checked.

Its options are checked by the same table as those of `/sync`. The file never holds access keys: `keys` names
variables of the environment or `.env`, `profile` a profile of the AWS configuration. Messages never quote
values: an address in `notify` is a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, timedelta, tzinfo
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from syncworker import request as spec
from syncworker.errors import UsageError
from syncworker.mirrors import schedule
from syncworker.mirrors.schedule import Schedule
from syncworker.options import table as options
from syncworker.request import Request
from syncworker.settings import Settings
from syncworker.storage_url import destination_id

RETRIES_DEFAULT, RETRIES_MAX = 3, 100
NOT_IN_FILE = ("forget_mounts", "plan")  # they act once
OPTION_NAMES = tuple(name for name in options.NAMES if name not in NOT_IN_FILE)
KEYS_IN_FILE = frozenset({*spec.RequestKeys._fields, "api_token", "password"})
_NAME = re.compile(r"[a-z0-9-]{1,40}")
_KEYS_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,60}")
_PROFILE = re.compile(r"[^\x00-\x1f\x7f\[\]]{1,100}")
_OWN = ("source", "dest", "storage_url", "keys", "profile", "cron", "every", "timezone", "watch", "max_age")
NAMES = frozenset({*_OWN, "retries", "notify", *OPTION_NAMES})
Environ = Mapping[str, str | None]


class Wrong(Exception):
    """A mistake at a key of a table; None: at the table itself."""

    def __init__(self, key: str | None, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, slots=True)
class Mirror:
    """One table of the file. `asked` holds the texts of its options, as `options.parse` takes them."""

    name: str
    source: str
    dest: str
    storage_url: str
    asked: Mapping[str, str]
    keys: spec.RequestKeys | None = field(default=None, repr=False)
    profile: str | None = None
    schedule: Schedule = field(default_factory=Schedule)
    watch: bool = False
    max_age: timedelta | None = None
    retries: int = RETRIES_DEFAULT
    notify: tuple[str, ...] = field(default=(), repr=False)
    line: int = 0

    def request(self, settings: Settings) -> Request:
        """Returns the request of a run. Checks it again, as the folder may now be a link out of the uploads
        root. Raises UsageError."""
        return spec.parse(
            settings,
            source=self.source,
            dest=self.dest,
            storage_url=self.storage_url,
            keys=self.keys,
            asked=self.asked,
            mirror=self.name,
            profile=self.profile,
        )

    def url(self, settings: Settings) -> str:
        """Its storage, the configured one when it names none."""
        return self.storage_url or settings.default_storage_url

    def place(self, settings: Settings) -> tuple[str, str]:
        """Its destination, and the prefix below which the mirror lies there."""
        prefix = options.parse({"prefix": self.asked.get("prefix")}).get("prefix", "")
        return destination_id(self.url(settings), self.dest), prefix


def of_table(name: str, table: Any, settings: Settings, environ: Environ, line: int) -> Mirror:
    if not isinstance(table, dict):
        raise Wrong(None, "belongs in the table of a mirror: [photos], for example")
    if not _NAME.fullmatch(name):
        raise Wrong(None, "a mirror's name has 1 to 40 lower-case letters, digits and hyphens")
    _refuse_unknown(table)
    for needed in ("source", "dest"):
        if not table.get(needed):
            raise Wrong(None, f"{needed} is missing")
    mirror = Mirror(
        name,
        _text(table, "source"),
        _text(table, "dest"),
        _text(table, "storage_url"),
        {option: text for option in OPTION_NAMES if (text := _option_text(table, option))},
        _keys(table, environ),
        _profile(table),
        _schedule(table),
        _boolean(table, "watch"),
        _duration(table, "max_age"),
        _retries(table),
        _addresses(table),
        line,
    )
    try:
        mirror.request(settings)
    except UsageError as error:
        if error.code == "MissingParameter":
            raise Wrong(
                "storage_url", "another storage than the configured one needs keys or profile"
            ) from None
        raise Wrong(error.param, error.message) from None
    return mirror


def _refuse_unknown(table: Mapping[str, Any]) -> None:
    for key in table:
        if key in KEYS_IN_FILE:
            raise Wrong(
                key, f'{key}: do not write keys into this file: keys = "OFFSITE" reads them from .env'
            )
        if key in NOT_IN_FILE:
            raise Wrong(key, f"{key} acts once, and is asked for with /sync or start")
        if key not in NAMES:
            raise Wrong(key, f"there is no {shown(key)} here: a mirror takes {', '.join(sorted(NAMES))}")


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise Wrong(key, f"{key} must be text in quotes")
    return value


def _option_text(table: Mapping[str, Any], key: str) -> str:
    """The value of an option, as the text that it has in a query."""
    value = table.get(key, "")
    if isinstance(value, list | str) and key in options.LISTS:
        lines = [value] if isinstance(value, str) else value
        if not all(isinstance(line, str) and "\n" not in line and "\0" not in line for line in lines):
            raise Wrong(key, f"{key} must be a list of texts without line ends")
        return "\n".join(lines)
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, str | int | float):
        raise Wrong(key, f"{key} must be text, a number, true or false")
    text = str(value)
    return text.removesuffix(".0") if isinstance(value, float) else text


def _boolean(table: Mapping[str, Any], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise Wrong(key, f"{key} must be true or false")
    return value


def _duration(table: Mapping[str, Any], key: str) -> timedelta | None:
    text = _text(table, key)
    try:
        return schedule.parse_duration(text) if text else None
    except ValueError as error:
        raise Wrong(key, f"{key} {error}") from None


def _retries(table: Mapping[str, Any]) -> int:
    value = table.get("retries", RETRIES_DEFAULT)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= RETRIES_MAX:
        raise Wrong("retries", f"retries must be a whole number from 0 to {RETRIES_MAX}")
    return value


def _schedule(table: Mapping[str, Any]) -> Schedule:
    line = _text(table, "cron")
    every = _duration(table, "every")
    if line and every:
        raise Wrong("every", "cron and every: give one of them")
    zone = _zone(table)
    try:
        return Schedule(schedule.parse_cron(line) if line else None, every, zone)
    except ValueError as error:
        raise Wrong("cron", f"cron {error}") from None


def _zone(table: Mapping[str, Any]) -> tzinfo:
    name = _text(table, "timezone")
    if not name:
        return local_zone()
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Wrong("timezone", "there is no such time zone: Europe/Berlin, for example") from None


def local_zone(environ: Mapping[str, str] | None = None) -> tzinfo:
    """The machine's time zone, with its summer time; UTC where none is set."""
    name = (os.environ if environ is None else environ).get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with open("/etc/localtime", "rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def _keys(table: Mapping[str, Any], environ: Environ) -> spec.RequestKeys | None:
    name = _text(table, "keys")
    if not name:
        return None
    if table.get("profile"):
        raise Wrong("profile", "keys and profile: give one of them")
    if not _KEYS_NAME.fullmatch(name):
        raise Wrong("keys", "keys must be the beginning of names in .env: OFFSITE for OFFSITE_ACCESS_KEY")
    keys = [environ.get(f"{name}_{field.upper()}") for field in spec.RequestKeys._fields]
    if not all(keys[:2]):
        raise Wrong("keys", f"{name}_ACCESS_KEY and {name}_SECRET_KEY must be set in .env or the environment")
    try:
        return spec.parse_keys(*keys)
    except UsageError:
        raise Wrong("keys", f"the keys under {name} must be printable ASCII without spaces") from None


def _profile(table: Mapping[str, Any]) -> str | None:
    name = _text(table, "profile")
    if name and not _PROFILE.fullmatch(name):
        raise Wrong("profile", "profile must be the name of a profile of the AWS configuration")
    return name or None


def _addresses(table: Mapping[str, Any]) -> tuple[str, ...]:
    value = table.get("notify", [])
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > 10:
        raise Wrong("notify", "notify must be a list of at most ten addresses")
    for text in found:
        if not isinstance(text, str) or not is_address(text):
            raise Wrong("notify", "notify: each address begins with http:// or https:// and names a host")
    return tuple(dict.fromkeys(found))


def is_address(text: str) -> bool:
    """Returns whether it is a usable http or https address with a host."""
    if len(text) > 2048 or not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not parts.fragment


def shown(name: str) -> str:
    return re.sub(r"[^ -~]", "?", name[:40])

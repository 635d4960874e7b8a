"""`mirrors.toml`: which mirrors there are. Read at the start and whenever it changes.

A file with any mistake is not used at all: the last good one holds, and each mistake is reported with its
line. The options of a mirror are checked by the same table as those of `/sync`. Keys never stand in the file:
`keys` names variables of the environment or `.env`, `profile` one of the AWS configuration. Values are never
quoted in a message: an address in `notify` is a secret.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
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

FILE_MAX_BYTES = 1 << 20
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


@dataclass(frozen=True, slots=True)
class Mistake:
    """`line` counts from 1; None: the file as a whole."""

    line: int | None
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


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
        """What a run of it asks for, checked again: a folder may have become a link that leads out. Raises
        UsageError."""
        access_key, secret_key, token = self.keys or (None, None, None)
        return spec.parse(
            settings,
            source=self.source,
            dest=self.dest,
            storage_url=self.storage_url,
            access_key=access_key,
            secret_key=secret_key,
            session_token=token,
            asked=self.asked,
            mirror=self.name,
            profile=self.profile,
        )


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file says: its mirrors by name, or its mistakes."""

    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    mistakes: tuple[Mistake, ...] = ()


class _Wrong(Exception):
    """A mistake at a key of a table, None: at the table itself."""

    def __init__(self, key: str | None, message: str) -> None:
        super().__init__(message)
        self.key = key


class MirrorFile:
    """The file at `path`: `load` reads it again when it has changed, and keeps the last good mirrors."""

    def __init__(self, path: str, settings: Settings, environ: Callable[[], Environ]) -> None:
        self.path = path
        self.mirrors: Mapping[str, Mirror] = {}
        self.mistakes: tuple[Mistake, ...] = ()
        self._settings = settings
        self._environ = environ
        self._stamp: tuple[int, ...] | None = (-1,)

    def load(self) -> bool:
        """Whether the file was read anew. Its absence means that there is no mirror."""
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
    """The file as it is now; no file has no mirrors."""
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
    if stat.S_IMODE(mode) & 0o004 and (line_of_notify := _Lines(text).first("notify")) is not None:
        message = "notify: every user may read this file, and addresses are secrets: run `chmod o-r` on it"
        found = Contents(mistakes=(*found.mistakes, Mistake(line_of_notify, message)))
    return found


def parse(text: str, settings: Settings, environ: Environ) -> Contents:
    """The mirrors of a file's text, or every mistake in it."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return Contents(mistakes=(_of_syntax(str(error), text),))
    lines = _Lines(text)
    mirrors: dict[str, Mirror] = {}
    mistakes: list[Mistake] = []
    for name, table in tables.items():
        try:
            mirrors[name] = _mirror(name, table, settings, environ, lines.line(name, None) or 0)
        except _Wrong as wrong:
            line = lines.line(name, wrong.key) or lines.line(name, None)
            mistakes.append(Mistake(line, f"[{_shown(name)}] {wrong}"))
    mistakes += _overlaps(mirrors, settings)
    return Contents({} if mistakes else mirrors, tuple(sorted(mistakes, key=lambda each: each.line or 0)))


def _shown(name: str) -> str:
    return re.sub(r"[^ -~]", "?", name[:40])


def _of_syntax(message: str, text: str) -> Mistake:
    """`tomllib` names the line in its message, or the end of the file."""
    found = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    line = int(found[1]) if found else text.count("\n") + 1
    plain = message[: found.start()] if found else message.removesuffix(" (at end of document)")
    return Mistake(line, f"this is not TOML: {plain[:1].lower()}{plain[1:]}")


class _Lines:
    """Where tables and their keys stand in the text. A line inside of a long string may be taken for one:
    only a message is then at the wrong line."""

    _TABLE = re.compile(r"\s*\[\s*[\"']?([^\"'\]]+?)[\"']?\s*\]")
    _KEY = re.compile(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=")

    def __init__(self, text: str) -> None:
        self._at: dict[tuple[str | None, str | None], int] = {}
        table: str | None = None
        for number, line in enumerate(text.splitlines(), 1):
            if found := self._TABLE.match(line):
                table = found[1]
                self._at.setdefault((table, None), number)
            elif found := self._KEY.match(line):
                self._at.setdefault((table, found[1]), number)
                self._at.setdefault((found[1], None), number)  # a key outside of tables is a table's name

    def line(self, table: str, key: str | None) -> int | None:
        return self._at.get((table, key))

    def first(self, key: str) -> int | None:
        return min((line for (_, name), line in self._at.items() if name == key), default=None)


def _mirror(name: str, table: Any, settings: Settings, environ: Environ, line: int) -> Mirror:
    if not isinstance(table, dict):
        raise _Wrong(None, "belongs into the table of a mirror: [photos], for example")
    if not _NAME.fullmatch(name):
        raise _Wrong(None, "a mirror's name has 1 to 40 lower-case letters, digits and hyphens")
    _refuse_unknown(table)
    for needed in ("source", "dest"):
        if not table.get(needed):
            raise _Wrong(None, f"{needed} is missing")
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
            raise _Wrong(
                "storage_url", "another storage than the configured one needs keys or profile"
            ) from None
        raise _Wrong(error.param, error.message) from None
    return mirror


def _refuse_unknown(table: Mapping[str, Any]) -> None:
    for key in table:
        if key in KEYS_IN_FILE:
            raise _Wrong(key, f'{key}: keys do not stand in this file: keys = "OFFSITE" reads them from .env')
        if key in NOT_IN_FILE:
            raise _Wrong(key, f"{key} acts once, and is asked for with /sync or start")
        if key not in NAMES:
            raise _Wrong(key, f"there is no {_shown(key)} here: a mirror takes {', '.join(sorted(NAMES))}")


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise _Wrong(key, f"{key} must be text in quotes")
    return value


def _option_text(table: Mapping[str, Any], key: str) -> str:
    """The value of an option as the text that a query would hold."""
    value = table.get(key, "")
    if isinstance(value, list) and key in options.LISTS:
        if not all(isinstance(line, str) and "\n" not in line and "\0" not in line for line in value):
            raise _Wrong(key, f"{key} must be a list of texts without line ends")
        return "\n".join(value)
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, str | int | float):
        raise _Wrong(key, f"{key} must be text, a number, true or false")
    text = str(value)
    if key in options.LISTS and "\n" in text:
        raise _Wrong(key, f"{key} must be a list of texts without line ends")
    return text.removesuffix(".0") if isinstance(value, float) else text


def _boolean(table: Mapping[str, Any], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise _Wrong(key, f"{key} must be true or false")
    return value


def _duration(table: Mapping[str, Any], key: str) -> timedelta | None:
    text = _text(table, key)
    try:
        return schedule.parse_duration(text) if text else None
    except ValueError as error:
        raise _Wrong(key, f"{key} {error}") from None


def _retries(table: Mapping[str, Any]) -> int:
    value = table.get("retries", RETRIES_DEFAULT)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= RETRIES_MAX:
        raise _Wrong("retries", f"retries must be a whole number from 0 to {RETRIES_MAX}")
    return value


def _schedule(table: Mapping[str, Any]) -> Schedule:
    line = _text(table, "cron")
    every = _duration(table, "every")
    if line and every:
        raise _Wrong("every", "cron and every: give one of them")
    zone = _zone(table)
    try:
        return Schedule(schedule.parse_cron(line) if line else None, every, zone)
    except ValueError as error:
        raise _Wrong("cron", f"cron {error}") from None


def _zone(table: Mapping[str, Any]) -> tzinfo:
    name = _text(table, "timezone")
    if not name:
        return local_zone()
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _Wrong("timezone", "there is no such time zone: Europe/Berlin, for example") from None


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
        raise _Wrong("profile", "keys and profile: give one of them")
    if not _KEYS_NAME.fullmatch(name):
        raise _Wrong("keys", "keys must be the beginning of names in .env: OFFSITE for OFFSITE_ACCESS_KEY")
    access, secret, token = (
        environ.get(f"{name}_{end}") or None for end in ("ACCESS_KEY", "SECRET_KEY", "SESSION_TOKEN")
    )
    if not access or not secret:
        raise _Wrong(
            "keys", f"{name}_ACCESS_KEY and {name}_SECRET_KEY must be set in .env or the environment"
        )
    try:
        return spec.parse_keys(access, secret, token)
    except UsageError:
        raise _Wrong("keys", f"the keys under {name} must be printable ASCII without spaces") from None


def _profile(table: Mapping[str, Any]) -> str | None:
    name = _text(table, "profile")
    if name and not _PROFILE.fullmatch(name):
        raise _Wrong("profile", "profile must be the name of a profile of the AWS configuration")
    return name or None


def _addresses(table: Mapping[str, Any]) -> tuple[str, ...]:
    value = table.get("notify", [])
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > 10:
        raise _Wrong("notify", "notify must be a list of at most ten addresses")
    for text in found:
        if not isinstance(text, str) or not is_address(text):
            raise _Wrong("notify", "notify: each address begins with http:// or https:// and names a host")
    return tuple(dict.fromkeys(found))


def is_address(text: str) -> bool:
    """Whether something can be sent to it: http or https, a host, nothing odd in it."""
    if len(text) > 2048 or not text.isascii() or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not parts.fragment


def _overlaps(mirrors: Mapping[str, Mirror], settings: Settings) -> list[Mistake]:
    """Two mirrors whose destinations are one, or lie in one another, would delete each other's objects."""
    found = []
    seen: list[tuple[str, str, str]] = []  # destination, prefix, name
    for name, mirror in mirrors.items():
        place = destination_id(mirror.storage_url or settings.default_storage_url, mirror.dest)
        prefix = mirror.asked.get("prefix", "")
        prefix = options.parse_prefix(prefix) if prefix else ""
        for other_place, other_prefix, other in seen:
            if place == other_place and (prefix.startswith(other_prefix) or other_prefix.startswith(prefix)):
                message = f"[{name}] has the destination of [{other}], or one that contains it or lies in it"
                found.append(Mistake(mirror.line, message))
        seen.append((place, prefix, name))
    return found

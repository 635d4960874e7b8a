"""The parameters of a request: from the query, a form or a JSON object, strictly.

Refused, with the parameter's name: an unknown name, a name that is given twice and is no list, text that is
not UTF-8, a broken percent escape, a control character. Nothing is guessed: two programs that guess
differently are a way around a check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from syncworker import request
from syncworker.errors import UsageError
from syncworker.jobs import ids
from syncworker.options import table
from syncworker.web.http_server import BODY_MAX_BYTES

MAX_PARAMETERS = 32
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_AFTER_SEMICOLON = re.compile(rb";([a-z_]+)=")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MAY_HOLD_CONTROLS = frozenset({"source", *table.LISTS})  # a folder's name may hold all but NUL
_NUMBERS = table.NUMBERS | {"limit", "now", "after", "storage", "errors"}


class UnsupportedBody(UsageError):
    """The body is neither a form nor JSON."""


class BodyTooLong(UsageError):
    """The body is longer than BODY_MAX_BYTES."""


def of_request(environ: dict[str, Any], known: Collection[str]) -> dict[str, str]:
    """Returns all parameters of a request by name; a list's values are lines. Raises UsageError with the name
    of a wrong one."""
    pairs = _pairs(environ.get("QUERY_STRING", "").encode("latin-1"), "the query", known)
    pairs += _body(environ, known)
    if sum(name not in table.LISTS for name, _ in pairs) > MAX_PARAMETERS:
        raise UsageError("TooManyParameters", f"more than {MAX_PARAMETERS} parameters")
    found: dict[str, str] = {}
    for name, text in pairs:
        value = request.without_line_end(text) if name in request.RequestKeys._fields else text
        shown = _CONTROL.sub("?", name[:64])
        if name not in known:
            takes = f"this route takes {', '.join(sorted(known)) or 'none'}"
            why = f"there is no parameter {shown!r} here: {takes}"
            raise UsageError("UnknownParameter", why, param=shown)
        if name in table.LISTS:
            line = table.check_line(name, value)
            found[name] = f"{found[name]}\n{line}" if found.get(name) else line
            continue
        if name in found:
            raise UsageError("RepeatedParameter", f"{name} is given more than once", param=name)
        if name not in MAY_HOLD_CONTROLS and _CONTROL.search(value):
            raise UsageError("BadParameter", f"{name} must not hold control characters", param=name)
        found[name] = value
    return found


def _pairs(data: bytes, where: str, known: Collection[str]) -> list[tuple[str, str]]:
    """`a=1&b=2`, as browsers write forms: `+` is a space, everything percent-encoded UTF-8."""
    for after in _AFTER_SEMICOLON.finditer(data):
        if (name := after[1].decode()) in known:  # else it would become part of the value before it
            raise UsageError(
                "BadEncoding", f"{name}: parameters are separated by `&`, and `;` is written %3B", param=name
            )
    found = []
    for pair in data.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            text = _decode(name, where, None)
            found.append((text, _decode(value, text, text)))
    return found


def _decode(data: bytes, what: str, param: str | None) -> str:
    shown = _CONTROL.sub("?", param[:64]) if param is not None else None
    if _BROKEN_ESCAPE.search(data):
        raise UsageError("BadEncoding", f"{shown or what}: `%` must be written as %25", param=shown)
    try:
        return unquote_to_bytes(data.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise UsageError("BadEncoding", f"{shown or what} is not valid UTF-8", param=shown) from None


def _body(environ: dict[str, Any], known: Collection[str]) -> list[tuple[str, str]]:
    data = environ["wsgi.input"].read(BODY_MAX_BYTES + 1)
    if len(data) > BODY_MAX_BYTES:
        raise BodyTooLong("BodyTooLong", f"the body is longer than {BODY_MAX_BYTES} bytes")
    if not data:
        return []
    kind, _, rest = environ.get("CONTENT_TYPE", "").partition(";")
    charset = re.search(r"charset\s*=\s*\"?([^\";\s]+)", rest, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedBody("UnsupportedBody", "the body must be UTF-8")
    kind = kind.strip().lower()
    if kind == "application/json":
        return _json(data, known)
    if kind == "application/x-www-form-urlencoded":
        return _pairs(data, "the form", known)
    raise UnsupportedBody(
        "UnsupportedBody",
        "the body must be application/x-www-form-urlencoded or application/json, not "
        + (_CONTROL.sub("?", kind[:64]) or "of no type"),
    )


class _Object(list[tuple[str, Any]]):
    """A JSON object as pairs, because a dict would hide a name that is given twice."""


def _json(data: bytes, known: Collection[str]) -> list[tuple[str, str]]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_Object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UsageError("BadJson", "the body is not valid JSON") from None
    if not isinstance(value, _Object):
        raise UsageError("BadJson", "the body must be a JSON object of names and values")
    return [
        (name, "" if items is None or name not in known else _text(name, item))  # null: as if not given
        for name, items in value
        for item in (items if name in table.LISTS and type(items) is list else [items])
    ]


def _refuse_constant(word: str) -> None:
    raise ValueError(word)


def _text(name: str, item: Any) -> str:
    if isinstance(item, str):
        try:
            item.encode()
        except UnicodeEncodeError:
            raise UsageError("BadEncoding", f"{name!r} is not valid UTF-8", param=name[:64]) from None
        return item
    if name in _NUMBERS and isinstance(item, int | float) and not isinstance(item, bool):
        # 5.0 is an integer in JSON Schema, and some languages write every number so.
        return str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)
    wanted = "a number or a string" if name in _NUMBERS else "a string"
    shown = name[:64].encode("utf-8", "replace").decode()
    raise UsageError("BadParameter", f"{shown} must be {wanted}", param=shown)


def job_id(given: Mapping[str, str]) -> str:
    if not given.get("id"):
        raise UsageError("MissingParameter", "id is missing: the id of a job", param="id")
    return ids.check_id(given["id"])


def number(name: str, text: str | None, default: int, low: int, high: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
        raise UsageError("BadNumber", f"{name} must be a whole number from {low} to {high}", param=name)
    return int(text)

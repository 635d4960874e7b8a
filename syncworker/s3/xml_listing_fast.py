"""Hot path: a listing's page read by a regular expression that is made from its first object, a fifth of a
parser's time. It takes only pages whose objects are all written alike and plainly; xml_messages.py reads the
others, and tests want the same answer of both."""

from __future__ import annotations

import functools
import re
from itertools import repeat
from urllib.parse import unquote_plus

from syncworker.model import ObjectEntry

# What a parser refuses, or reads otherwise, each with a byte of it that is rare and found faster.
_NOT_PLAIN = ((b"!", b"<!"), (b"]", b"]]>"), (b"\xef", b"\xef\xbf\xbe"), (b"\xef", b"\xef\xbf\xbf"))
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n")  # a CR, too, is not what it seems
# The elements of an object that are used, as a pattern: one that excludes a single character is the fastest.
_FIELDS = {"Key": "([^<]+)", "LastModified": "([^<]*)", "ETag": "([^<]*)", "Size": "([0-9]{1,18})"}
_QUOTES = ("&quot;", "&#34;", '"', "")
_NOT_IN_ETAG = ("&", '"', "/")  # here: `W/`, say, is for the parser
_CHILD = re.compile(r"<(?!Owner>)(\w+)>[^<]*</\1>|<(Owner)>.*?</Owner>", re.DOTALL)


def split(body: bytes) -> tuple[bytes, list[list[str]]] | None:
    """A listing as its frame, with one empty element for all objects, and the columns of `_FIELDS`, when its
    objects are written alike and plainly: a fifth of a parser's time. None: a parser has to read it."""
    start, end = body.find(b"<Contents>"), body.rfind(b"</Contents>") + len(b"</Contents>")
    if start < 0 or end < start or any(rare in body and odd in body for rare, odd in _NOT_PLAIN):
        return None
    if len(body.translate(None, _CONTROLS)) != len(body):
        return None
    if not body.isascii() and b'encoding="utf-8"' not in body[:100].lower():
        return None
    try:
        text = body[start:end].decode()
    except UnicodeDecodeError:
        return None
    children = _CHILD.findall(text, 0, text.find("</Contents>"))
    names = tuple(owner or name for name, owner in children)
    pattern = _entry_pattern(names)
    if pattern is None:
        return None
    cut: list[str] = pattern.split(text)
    count = len(cut) // (len(_FIELDS) + 1)
    between = cut[:: len(_FIELDS) + 1]
    if count != text.count("<Contents") or "".join(between).strip():
        return None
    order = [name for name in names if name in _FIELDS]
    columns = [cut[1 + order.index(name) :: len(_FIELDS) + 1] for name in _FIELDS]
    etags = columns[list(_FIELDS).index("ETag")]
    quote = next(quote for quote in _QUOTES if etags[0].startswith(quote))
    if text.count("&") != 2 * count * quote.count("&") or not _unquote(etags, quote):
        return None
    return body[:start] + b"<Contents/>" + body[end:], columns


def _unquote(etags: list[str], quote: str) -> bool:
    """Takes the quotes off, in place. False: not all are quoted so, or they hold what means something."""
    if quote:
        if not all(map(str.startswith, etags, repeat(quote))) or not all(
            map(str.endswith, etags, repeat(quote))
        ):
            return False
        size = len(quote)
        etags[:] = [etag[size:-size] for etag in etags]
    joined = "".join(etags)
    return not any(odd in joined for odd in _NOT_IN_ETAG) and "".join(joined.split()) == joined


@functools.lru_cache(maxsize=16)
def _entry_pattern(names: tuple[str, ...]) -> re.Pattern[str] | None:
    """Of one object whose elements are these, in this order."""
    if sorted(name for name in names if name in _FIELDS) != sorted(_FIELDS):
        return None
    parts = [
        f"<{name}>{_FIELDS[name]}</{name}>" if name in _FIELDS
        else "<Owner>(?:<ID>[^<]*</ID>|<DisplayName>[^<]*</DisplayName>)*</Owner>" if name == "Owner"
        else f"<{name}>[^<]*</{name}>"
        for name in names
    ]  # fmt: skip
    return re.compile(r"\s*".join(["<Contents>", *parts, "</Contents>"]))


def entries_of_columns(columns: list[list[str]], *, encoded: bool) -> list[ObjectEntry]:
    keys, times, etags, sizes = columns
    if encoded:
        keys = [decode_key(key) if "%" in key or "+" in key else key for key in keys]
    fields = zip(keys, map(int, sizes), map(str.lower, etags), times, strict=True)
    return list(map(tuple.__new__, repeat(ObjectEntry), fields))


def decode_key(key: str) -> str:
    return unquote_plus(key, errors="surrogateescape")

"""Hot path: parses a page of a listing with a regular expression built from its first object, in a fifth of
an XML parser's time. Accepts only pages whose objects all have the same plain form; xml_messages.py parses
the others. Tests require the same result from both."""

from __future__ import annotations

import functools
import re
from urllib.parse import unquote_plus

from syncworker.model import ObjectEntries

# Sequences that a parser refuses or reads differently, each with a rare byte of it, which is found faster.
_NOT_PLAIN = ((b"!", b"<!"), (b"]", b"]]>"), (b"\xef", b"\xef\xbf\xbe"), (b"\xef", b"\xef\xbf\xbf"))
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n")  # a parser turns a CR into a LF
_BLANK = " \t\n"
# Patterns of the elements that we use, and of any other; patterns that exclude a single character are the
# fastest. Whatever else may not be in an element is searched in a whole column at once.
_FIELDS = {"Key": "([^<]+)", "LastModified": "([^<]*)", "ETag": "([^<]*)", "Size": "([0-9]{1,18})"}
_OTHER = "([^<]*)"
_CHECKED = frozenset({"ETag", "Size"})  # apart from the others, or by the pattern
_BLANK_BETWEEN = re.compile(f">[{_BLANK}]+<")
_OWNER = "<Owner>(?:<ID>{0}</ID>|<DisplayName>{0}</DisplayName>)*</Owner>".format(r"[^<&\x00-\x08\x0b-\x1f]*")
# How ETags are quoted, and the pattern of an ETag in these quotes.
_QUOTES = {"&quot;": "([^&]*)", "&#34;": "([^&]*)", '"': '([^"]*)', "": "([^<]*)"}
_IN_ETAG = b"-"  # besides letters and digits; the parser reads any other, for example `W/`
_CHILD = re.compile(r"<(?!Owner>)([A-Za-z]\w*)>[^<]*</\1>|<(Owner)>.*?</Owner>", re.DOTALL | re.ASCII)


def split(body: bytes) -> tuple[bytes, list[list[str]]] | None:
    """Splits a listing into its frame, with one empty element for all objects, and the columns of `_FIELDS`.
    Returns None if its objects do not all have the same plain form, so that a parser must read it."""
    start, end = body.find(b"<Contents>"), body.rfind(b"</Contents>") + len(b"</Contents>")
    if start < 0 or end < start or any(rare in body and odd in body for rare, odd in _NOT_PLAIN):
        return None
    if not body.isascii() and b'encoding="utf-8"' not in body[:100].lower():
        return None
    try:
        text = str(memoryview(body)[start:end], "utf-8")
    except UnicodeDecodeError:
        return None
    first = text[: text.find("</Contents>")]
    children = _CHILD.findall(first)
    names = tuple(owner or name for name, owner in children)
    etag = first[first.find("<ETag>") + len("<ETag>") :]
    quote = next(quote for quote in _QUOTES if etag.startswith(quote))
    pattern = _entry_pattern(names, quote, has_blanks=_BLANK_BETWEEN.search(first) is not None)
    if pattern is None:
        return None
    cut: list[str] = pattern.split(text)
    order = [name for name in names if name != "Owner"]
    between, *all_columns = (cut[at :: len(order) + 1] for at in range(len(order) + 1))
    if "".join(between).strip(_BLANK):  # something between the objects
        return None
    named = list(zip(order, all_columns, strict=True))
    columns = dict(named)
    etags = "".join(columns["ETag"]).encode().replace(_IN_ETAG, b"")
    if etags and not etags.isalnum():
        return None
    rest = "".join("".join(column) for name, column in named if name not in _CHECKED).encode()
    if b"&" in rest or len(rest.translate(None, _CONTROLS)) != len(rest):
        return None
    return body[:start] + b"<Contents/>" + body[end:], [columns[name] for name in _FIELDS]


@functools.lru_cache(maxsize=16)
def _entry_pattern(names: tuple[str, ...], quote: str, *, has_blanks: bool) -> re.Pattern[str] | None:
    """Returns the pattern of an object with these elements in this order and its ETag in these quotes.
    `has_blanks`: between its elements."""
    if sorted(name for name in names if name in _FIELDS) != sorted(_FIELDS):
        return None
    fields = _FIELDS | {"ETag": f"{quote}{_QUOTES[quote]}{quote}"}
    parts = [
        f"<{name}>{fields[name]}</{name}>" if name in fields
        else _OWNER if name == "Owner"
        else f"<{name}>{_OTHER}</{name}>"
        for name in names
    ]  # fmt: skip
    blank = f"[{_BLANK}]*" if has_blanks else ""
    return re.compile(blank.join(["<Contents>", *parts, "</Contents>"]))


def entries_of_columns(columns: list[list[str]], *, encoded: bool) -> ObjectEntries:
    keys, times, etags, sizes = map(tuple, columns)
    joined = "".join(keys) if encoded else ""
    if "%" in joined or "+" in joined:
        keys = tuple(decode_key(key) if "%" in key or "+" in key else key for key in keys)
    joined = "".join(etags)
    if joined != joined.lower():
        etags = tuple(map(str.lower, etags))
    return ObjectEntries(keys, tuple(map(int, sizes)), etags, times)


def decode_key(key: str) -> str:
    return unquote_plus(key, errors="surrogateescape")

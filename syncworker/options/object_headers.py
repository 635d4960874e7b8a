"""The headers of an object: type, storage class, access, encryption, tags, metadata.

`ObjectHeaders.of` makes the headers of PutObject and CreateMultipartUpload: our own metadata, the type that
belongs to the name, what the job's options ask for, and the `header` lines whose pattern matches the file. Of
two lines with one header name the last wins. An empty value means that the header is not sent.

Sources: Amazon S3 API Reference, PutObject (names, canned ACLs), "Object tagging" (10 tags, 128 and 256
characters), "Working with object metadata" (2 KB).
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from syncworker.errors import FatalError, FileError, RetryError, SyncError
from syncworker.model import UNKNOWN, FileEntry
from syncworker.options.content_types import content_type

if TYPE_CHECKING:
    from syncworker.options.patterns import PathFilter

ACLS = (
    "private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read", "bucket-owner-read",
    "bucket-owner-full-control",
)  # fmt: skip
ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
TAGS_MAX, TAG_KEY_MAX, TAG_VALUE_MAX = 10, 128, 256
HEADERS_MAX_BYTES = 2048
_TEXTS_MAX = 10_000
HEADER_NAMES = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
_OUR_METADATA = frozenset({"x-amz-meta-md5chksum", "x-amz-meta-mtime"})
_META = "x-amz-meta-"
_RULE = re.compile(r"(?P<pattern>(?:\\.|[^\\ ])+) +(?P<name>[^:\s]+) *:(?P<value>.*)", re.DOTALL)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

# The options that are one header each, whatever the file.
OPTION_HEADERS = {
    "storage_class": "x-amz-storage-class",
    "acl": "x-amz-acl",
    "sse": "x-amz-server-side-encryption",
    "sse_kms_key_id": "x-amz-server-side-encryption-aws-kms-key-id",
    "tags": "x-amz-tagging",
}
_SSE_OPTIONS = ("sse", "sse_kms_key_id")
# If the store answers with this error code, it refuses this option.
_ABOUT = {
    "InvalidStorageClass": ("storage_class",),
    "AccessControlListNotSupported": ("acl",),
    "InvalidEncryptionAlgorithmError": ("sse",),
    "InvalidTag": ("tags",),
    "MetadataTooLarge": ("header",),
}
_REFUSALS = frozenset(
    {
        "NotImplemented",
        "InvalidArgument",
        "InvalidRequest",
        "AccessDenied",
        "BadRequest",
        "UnsupportedOperation",
    }
)


class Rule(NamedTuple):
    """A line of `header`: the files that match the pattern get this header. `name` is in lower case."""

    pattern: str
    name: str
    value: str


def parse_rule(line: str) -> Rule:
    """Raises ValueError that says what is wrong."""
    if not line.isascii() or any(ord(c) < 32 or ord(c) == 127 for c in line):
        raise ValueError("holds a character that is not printable ASCII")
    found = _RULE.fullmatch(line)
    if found is None:
        raise ValueError("is not of the form `PATTERN NAME: VALUE`")
    name = found["name"].lower()
    if name in _OUR_METADATA:
        raise ValueError(f"sets {name}, which this service sets itself")
    is_metadata = name.startswith(_META) and len(name) > len(_META) and _TOKEN.fullmatch(name)
    if name not in HEADER_NAMES and not is_metadata:
        raise ValueError(f"sets {name}: only {', '.join(HEADER_NAMES)} and x-amz-meta-… can be set")
    return Rule(found["pattern"], name, " ".join(found["value"].split()))


def parse_rules(lines: list[str]) -> list[Rule]:
    """Raises ValueError for a wrong line, or for more than 2 KB in all."""
    from syncworker.options import patterns

    rules = []
    for line in lines:
        try:
            rules.append(parse_rule(line))
            patterns.check([rules[-1].pattern], may_negate=False)
        except ValueError as error:
            raise ValueError(f"the line {line[:80]!a} {error}") from None
    if sum(len(rule.name) + len(rule.value) for rule in rules) > HEADERS_MAX_BYTES:
        raise ValueError(f"more than {HEADERS_MAX_BYTES} bytes of names and values")
    return rules


def parse_tags(text: str) -> list[tuple[str, str]]:
    """Parses `a=b&c=d`. Raises ValueError that says what is wrong."""
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError("must not hold control characters")
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    if len(pairs) > TAGS_MAX:
        raise ValueError(f"has more than {TAGS_MAX} tags")
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("names a tag twice")
    for key, value in pairs:
        if not 1 <= len(key) <= TAG_KEY_MAX or len(value) > TAG_VALUE_MAX:
            raise ValueError(f"has a key over {TAG_KEY_MAX} or a value over {TAG_VALUE_MAX} characters")
    return pairs


class Given(NamedTuple):
    """What an object was given: hashes of its headers and tags, and the values that a copy has to repeat."""

    headers: str = ""
    tags: str = ""
    storage_class: str = ""
    sse: str = ""
    sse_kms_key_id: str = ""
    acl: str = ""

    @property
    def text(self) -> str:
        given = {name: value for name, value in self._asdict().items() if value}
        return json.dumps(given) if given else ""

    @classmethod
    @lru_cache(maxsize=1000)
    def of(cls, text: str) -> Given:
        try:
            return cls(**json.loads(text)) if text else cls()
        except (ValueError, TypeError):  # written by a later version: at worst the object is updated
            return cls()


def _hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


class ObjectHeaders:
    """The headers of one job's objects."""

    def __init__(self, *, header: Sequence[str] = (), **asked: str) -> None:
        """`asked`: values of OPTION_HEADERS' options, "" for one that was not given."""
        texts, tags = {**asked, "header": ", ".join(header)}, asked.get("tags")
        self._asked = {name: text for name, text in texts.items() if text}  # for messages
        fixed = asked | {"tags": urlencode(parse_tags(tags), quote_via=quote)} if tags else asked
        self._fixed = {OPTION_HEADERS[name]: text for name, text in fixed.items() if text}
        self._rules: list[tuple[PathFilter, str, str]] = []
        self._texts: dict[tuple[int, ...], str] = {}  # by the rules that match
        self.taken = False  # whether the store has accepted an object with these headers
        if header:
            from syncworker.options.patterns import PathFilter

            rules = parse_rules(list(header))
            self._rules = [(PathFilter([rule.pattern], []), rule.name, rule.value) for rule in rules]
        self.any = bool(self._fixed or self._rules)

    @property
    def fingerprint(self) -> str:
        """Identifies what the options ask for. An unfinished upload with another fingerprint is restarted."""
        if not self.any:
            return ""
        rules = [(path_filter.lines, name, value) for path_filter, name, value in self._rules]
        text = json.dumps([self._fixed, rules], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def given(self, key: str) -> str:
        """Returns, as text for the index, what an object is given beyond its own metadata and the type of its
        name; "" for nothing. Values that no update has to carry are hashed."""
        if not self.any:
            return ""
        matched = tuple(n for n, (path_filter, _, _) in enumerate(self._rules) if not path_filter.skips(key))
        text = self._texts.get(matched)
        if text is None:
            if len(self._texts) > _TEXTS_MAX:
                self._texts.clear()
            headers = {name: value for n in matched for _, name, value in (self._rules[n],)}
            given = Given(
                headers=_hashed(sorted(headers.items())) if headers else "",
                tags=_hashed(self._fixed["x-amz-tagging"]) if "x-amz-tagging" in self._fixed else "",
                **{name: self._asked.get(name, "") for name in ("storage_class", "acl", *_SSE_OPTIONS)},
            )
            text = self._texts[matched] = given.text
        return text

    def given_after(self, key: str, before: str) -> str:
        """Returns what an object that was given `before` has been given by an update (`of_copy`)."""
        was, now = Given.of(before), Given.of(self.given(key))
        return now._replace(
            storage_class=now.storage_class or was.storage_class,
            sse=now.sse or was.sse,
            sse_kms_key_id=now.sse_kms_key_id if now.sse else was.sse_kms_key_id,
            acl=now.acl or was.acl,
        ).text

    def differs(self, key: str, given: str) -> bool:
        """Whether an object that was given this has to be updated. The absence of an option is a reason only
        for headers and tags; an ACL is never one."""
        wanted = self.given(key)
        if given in (wanted, UNKNOWN):
            return False
        was, is_to_be = Given.of(given), Given.of(wanted)
        if (was.headers, was.tags) != (is_to_be.headers, is_to_be.tags):
            return True
        names = ("storage_class", *_SSE_OPTIONS)
        return any(getattr(is_to_be, name) not in ("", getattr(was, name)) for name in names)

    def of_copy(self, file: FileEntry, md5: str, given: str, head: Mapping[str, str]) -> dict[str, str]:
        """Returns the headers of a copy of an object onto itself, which resets everything that it is not
        given: those of a PUT, and the object's own class, encryption and ACL unless the options ask for
        others. `md5`: base64, "" if unknown; `head`: the headers of the store's answer to HEAD."""
        was = Given.of(given)
        headers = self.of(file, binascii.a2b_base64(md5))
        stored = head.get("x-amz-storage-class", "")
        kept = {
            "x-amz-storage-class": was.storage_class or (stored if stored != "STANDARD" else ""),
            "x-amz-acl": was.acl,
        }
        if OPTION_HEADERS["sse"] not in headers:
            kept |= {name: head.get(name, "") for name in map(OPTION_HEADERS.__getitem__, _SSE_OPTIONS)}
        headers = {name: value for name, value in kept.items() if value} | headers
        if "x-amz-tagging" in headers or was.tags:
            headers["x-amz-tagging-directive"] = "REPLACE"
        return headers

    def of(self, file: FileEntry, md5: bytes) -> dict[str, str]:
        """Names in lower case. Metadata is in the form that rclone writes and reads: seconds with
        nanoseconds, base64 MD5."""
        headers = {"content-type": content_type(file.key), "x-amz-meta-mtime": _seconds(file.mtime_ns)}
        if md5:
            headers["x-amz-meta-md5chksum"] = binascii.b2a_base64(md5, newline=False).decode()
        if self._fixed:
            headers.update(self._fixed)
        for path_filter, name, value in self._rules:
            if not path_filter.skips(file.key):
                headers[name] = value
        return {name: value for name, value in headers.items() if value} if self._rules else headers

    def blame(self, error: SyncError) -> None:
        """Called with the error of a request that gives an object its headers. If an option caused it, raises
        a fatal error that says so, because no other file fares better."""
        names: Sequence[str]
        if isinstance(error, RetryError):
            # SeaweedFS without keys answers so to every request for encryption.
            names = _SSE_OPTIONS if error.code == "InternalError" and "sse" in self._asked else ()
            names = () if self.taken else names
        elif not isinstance(error, FileError | FatalError):
            return
        elif error.code in _REFUSALS:
            names = tuple(OPTION_HEADERS)
        else:
            names = _SSE_OPTIONS if error.code.startswith("KMS.") else _ABOUT.get(error.code, ())
        asked = ", ".join(f"{name}={self._asked[name]}" for name in names if name in self._asked)
        if asked:
            because = "perhaps because of" if error.code in (*_REFUSALS, "InternalError") else "because of"
            raise FatalError(
                "OptionRefused",
                f"the storage refuses an object, {because} {asked} ({error.code}: {error.message}): sync"
                " without it, or with a value that this storage supports",
            ) from error


def _seconds(mtime_ns: int) -> str:
    if mtime_ns >= 10**9:  # twice as fast, and nearly always so
        digits = str(mtime_ns)
        return f"{digits[:-9]}.{digits[-9:]}"
    seconds, rest = divmod(abs(mtime_ns), 10**9)
    return f"{'-' if mtime_ns < 0 else ''}{seconds}.{rest:09d}"

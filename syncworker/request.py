"""The parameters of a sync, checked before anything is written or started.

A `Request` is valid by construction. Nothing here writes or uses the network: `wire.resolver` checks whether
the storage's address is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from syncworker import storage_url
from syncworker.errors import UsageError
from syncworker.options import table
from syncworker.options.effective import Options
from syncworker.settings import Settings

DEST_DEFAULT = "mybucket"
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")
_KEY_MAX, _TOKEN_MAX = 1024, 8192  # characters
_IPV4 = re.compile(r"\d+\.\d+\.\d+\.\d+")


class RequestKeys(NamedTuple):
    """The keys that a request carries for its own job; temporary keys have a token."""

    access_key: str
    secret_key: str
    session_token: str | None = None

    def __repr__(self) -> str:  # never a secret in a traceback or a log
        return "RequestKeys(...)"


@dataclass(frozen=True, slots=True)
class Request:
    """One sync: the folder below the uploads root, the bucket, the storage, seconds between operations, and
    the other options that were given, by name. `keys` is set only if the request carried its own."""

    source: str
    dest: str
    storage_url: str
    wait: float
    keys: RequestKeys | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    mirror: str | None = None  # the named mirror that this is a run of
    profile: str | None = None  # the profile of the AWS configuration that has its keys
    scope: tuple[str, ...] | None = None  # the only folders below `source` that are mirrored


def parse_source(text: str, uploads_dir: str) -> str:
    """Returns the folder relative to the uploads root, "" for the root itself. It need not exist."""

    def refuse(why: str) -> UsageError:
        return UsageError("BadSource", f"source {why}", param="source")

    if "\0" in text:
        raise refuse("must not contain a NUL character")
    if text.startswith("/"):
        raise refuse("must be relative to the uploads folder, not an absolute path")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refuse("must be valid UTF-8") from None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refuse("must not contain `..`")
    if len(text.encode()) > 4000:
        raise refuse("is longer than a path can be")
    source = "/".join(parts)
    root = os.path.realpath(uploads_dir)
    try:
        real = os.path.realpath(os.path.join(root, source))
    except OSError as error:
        raise refuse(f"cannot be resolved: {error.strerror}") from error
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise refuse("leads out of the uploads folder through a symbolic link")
    return source


def parse_dest(text: str) -> str:
    """Returns the bucket name, DEST_DEFAULT for "". Names that only old buckets have (capitals, underscores,
    up to 255 characters) are accepted: the job uses such a bucket if it exists, and never creates it."""
    if not text:
        return DEST_DEFAULT
    broken = None
    if not _BUCKET.fullmatch(text):
        broken = "has 3 to 63 lower-case letters, digits, dots and hyphens (old ones: capitals and _ too)"
    elif ".." in text:
        broken = "has no two dots in a row"
    elif _IPV4.fullmatch(text):
        broken = "is not an IP address"
    if broken:
        raise UsageError("BadBucketName", f"dest must be a bucket name, which {broken}", param="dest")
    return text


def without_line_end(key: str) -> str:
    """Returns the key without the line end of the file that it was read from."""
    return key.removesuffix("\n").removesuffix("\r") if key.endswith("\n") else key


def parse_keys(
    access_key: str | None, secret_key: str | None, session_token: str | None = None
) -> RequestKeys | None:
    """Returns both keys, with a token if there is one, or None if nothing is given. Raises UsageError, also
    for characters that a header or a credential scope cannot hold."""
    given = {"access_key": access_key, "secret_key": secret_key, "session_token": session_token}
    values = {name: without_line_end(value) for name, value in given.items() if value}
    for name, value in values.items():
        longest = _TOKEN_MAX if name == "session_token" else _KEY_MAX
        if len(value) > longest or not value.isascii() or not value.isprintable() or " " in value:
            raise UsageError("BadKey", f"{name} must be printable ASCII without spaces", param=name)
        if name == "access_key" and ("/" in value or "," in value):
            raise UsageError("BadKey", "access_key must not contain `/` or `,`", param=name)
    access, secret, token = (values.get(name) or None for name in given)
    if access and secret:
        return RequestKeys(access, secret, token)
    if not (access or secret or token):
        return None
    missing = "secret_key" if access else "access_key"
    with_token = " with session_token" if token else " or none"
    raise UsageError("MissingParameter", f"{missing} is missing: give both keys{with_token}", param=missing)


def parse_storage_url(text: str | None, settings: Settings) -> str:
    """Returns the storage's URL, the configured one if none is given. It resolves no name."""
    if not text:
        return settings.default_storage_url
    url = storage_url.parse_url(text)
    allowed = settings.allowed_storage_urls
    if not settings.is_own(url) and allowed and not any(_below(url, prefix) for prefix in allowed):
        raise UsageError(
            "StorageUrlNotAllowed", "storage_url is not one of ALLOWED_STORAGE_URLS", param="storage_url"
        )
    return url


def _below(url: str, prefix: str) -> bool:
    """Whether a URL is the prefix or continues it at a boundary: https://a does not cover https://a.evil."""
    prefix = prefix.rstrip("/")
    return url == prefix or url.startswith((f"{prefix}/", f"{prefix}:"))


def parse(
    settings: Settings,
    *,
    source: str | None = None,
    dest: str | None = None,
    storage_url: str | None = None,
    keys: RequestKeys | None = None,
    asked: Mapping[str, str | None] | None = None,
    mirror: str | None = None,
    profile: str | None = None,
) -> Request:
    """Checks all parameters of a sync together; `asked` has the texts of its options, by name. What is empty
    or None has its default. Raises UsageError that names the parameter."""
    url = parse_storage_url(storage_url, settings)
    if keys is None and profile is None and not settings.is_own(url):
        raise UsageError(
            "MissingParameter",
            "access_key and secret_key are needed for a storage_url other than the configured one: the"
            " server's own keys go to its own storage only",
            param="access_key",
        )
    options = table.parse(asked or {})
    wait = options.pop("wait", 0.0)
    folder = parse_source(source or "", settings.uploads_dir)
    return Request(folder, parse_dest(dest or ""), url, wait, keys, options, mirror, profile)


def warn_of_empty(source: str | None, dest: str | None) -> list[str]:
    """Returns what an empty value means: a script's variable was often not set. None: not given."""
    meanings = {
        "source was empty: it means the whole uploads folder": source,
        f"dest was empty: it means the bucket {DEST_DEFAULT}": dest,
    }
    return [meaning for meaning, value in meanings.items() if value == ""]


def warn_of_missing(request: Request, settings: Settings) -> list[str]:
    """Returns what a sync of a folder that does not exist will do: its name was often mistyped."""
    if not request.source or os.path.lexists(os.path.join(settings.uploads_dir, request.source)):
        return []
    return [f"the folder {request.source} does not exist: {_cost_of_missing(request, settings)}"]


def _cost_of_missing(request: Request, settings: Settings) -> str:
    asked = Options.of_status({"options": request.options})
    still = "if that is still so when the job begins,"
    if not asked.delete:
        return f"{still} nothing is sent"
    if settings.bucket_delete == "refuse":
        return f"{still} the job fails, because BUCKET_DELETE=refuse"
    if asked.is_partial:
        return f"{still} the mirror's objects in bucket {request.dest} are deleted"
    return f"{still} bucket {request.dest} and all its objects are deleted"

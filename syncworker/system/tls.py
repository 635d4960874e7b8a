"""TLS: which authorities are trusted (AWS_CA_BUNDLE and the like, else the system's), and starting without
`ssl` where nothing needs it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from syncworker.errors import FatalError

if TYPE_CHECKING:
    import ssl


def import_asyncio(url: str, *, with_tls: bool = False) -> None:
    """Imports asyncio for a storage at `url`. For plain http it does so without `ssl`, which takes a tenth of
    a small job's start: asyncio then behaves as in a Python built without TLS. `ssl` itself stays importable
    (boto3 imports it). `with_tls`: something else needs TLS."""
    if with_tls or url.startswith("https:") or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment] # makes `import ssl` fail, as the import system promises
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


def ca_bundle_of() -> str | None:
    """The file of authorities that boto3 would use: AWS_CA_BUNDLE, `ca_bundle` of the profile in
    ~/.aws/config, REQUESTS_CA_BUNDLE. None: the system's."""
    if named := os.environ.get("AWS_CA_BUNDLE"):
        return named
    import configparser  # costs each start, and only https asks for it

    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    config = configparser.RawConfigParser(strict=False)
    try:
        config.read(
            os.path.expanduser(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"), encoding="utf-8"
        )
    except (OSError, configparser.Error, UnicodeDecodeError):
        config.clear()  # whoever reads the keys from there reports it
    for section in (f"profile {profile}", profile):
        if found := config.get(section, "ca_bundle", fallback=None):
            return os.path.expanduser(found)
    return os.environ.get("REQUESTS_CA_BUNDLE") or None


def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Returns a context that always checks certificates: against `ca_bundle`, or else the system's."""
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as error:
        raise FatalError(
            "BadCaBundle",
            f"AWS_CA_BUNDLE (or ca_bundle in ~/.aws/config) {ca_bundle} cannot be read: {error}",
        ) from error
    context.set_alpn_protocols(["http/1.1"])
    return context

"""Turns a failure to connect into an error that says what to do about it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from syncworker.errors import FatalError, RetryError, SyncError
from syncworker.wire.proxy import Proxy

if TYPE_CHECKING:
    import ssl

_CERTIFICATES = {  # X509_V_ERR_…: what is wrong, and its cure
    9: ("is not valid yet", "set this machine's clock, or wait"),
    10: ("has expired", "renew it at the storage, or set this machine's clock"),
    18: ("is self-signed", "set AWS_CA_BUNDLE to a copy of it"),
    19: ("comes from a private authority", "set AWS_CA_BUNDLE to that authority's file"),
    62: (
        "is for another name",
        "use a name in storage_url that it has, or give the storage one for this name",
    ),
    64: ("is for another address", "use a name in storage_url that it has, or give the storage one for this"),
    66: ("has a key that is too weak", "give the storage one with a longer key"),
    67: ("has an authority whose key is too weak", "give the storage one of another authority"),
    68: ("is signed in a way that is too weak", "give the storage one that is signed with SHA-256"),
} | dict.fromkeys(
    (2, 20, 21),
    ("is from an authority that this machine does not know", "set AWS_CA_BUNDLE to that authority's file"),
)


def connect_error(
    error: OSError, host: str, port: int, proxy: Proxy | None, seconds: float, *, answered: bool
) -> SyncError:
    """`seconds`: what connecting may take. `answered`: the storage has answered at least once."""
    import ssl  # costs each start (system/tls.py), and few connections fail

    if isinstance(error, TimeoutError):
        return RetryError("ConnectTimeout", f"no connection to {proxy or host} within {seconds:g} s")
    if isinstance(error, ssl.SSLCertVerificationError):
        return _about_certificate(host, error)
    if isinstance(error, ssl.SSLError):
        return RetryError("TlsError", f"no TLS with {host}: {error.reason}")
    if isinstance(error, socket.gaierror):
        no_such = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
        if error.errno in no_such and not answered:
            where = proxy.variable if proxy else "storage_url"
            return FatalError("NoSuchHost", f"there is no host {proxy or host}: check {where}")
        return RetryError("DnsError", f"the address of {proxy or host} cannot be looked up now")
    # asyncio's own text has the address and leaves the reason to the number.
    reason = os.strerror(error.errno) if error.errno else str(error) or error.__class__.__name__
    if proxy:
        return RetryError("ProxyUnreachable", f"no connection to {proxy}: {reason}")
    return RetryError("ConnectFailed", f"no connection to {host}:{port}: {reason}")


def _about_certificate(host: str, error: ssl.SSLCertVerificationError) -> FatalError:
    what, cure = _CERTIFICATES.get(error.verify_code, ("is not trusted", "give the storage another"))
    return FatalError("TlsError", f"the certificate of {host} {what} ({error.verify_message}): {cure}")


def refused_by(proxy: Proxy) -> FatalError:
    return FatalError(
        "ProxyRefused",
        f"{proxy} requires a user name and a password, or rejected those it was given (407): put them into"
        f" {proxy.variable}",
    )

"""Checks whether the storage answers: one HEAD of its root, without keys. Only a server error counts as no.

`/healthz?storage=1` calls it, so anybody may, and often: a check takes two seconds at most, its result is
cached for ten, one check runs at a time, and only a few requests wait for it. Its messages contain no name
and no address. It does not check keys and buckets: a sync does.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable

from syncworker.errors import SyncError, UsageError
from syncworker.settings import Settings
from syncworker.system.tls import ca_bundle_of, tls_context
from syncworker.wire import resolver
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.proxy import proxy_of

CHECK_SECONDS = 2.0
CACHED_SECONDS = 10.0
RESOLVE_SECONDS = 2.0
_RESOLVING = threading.BoundedSemaphore(4)  # fewer than the threads that answer
_WAITING_MAX = 4  # fewer than the threads that answer

# A connection, and the target and headers of the request on it.
Connection = tuple[http.client.HTTPConnection, str, dict[str, str]]


class StorageCheck:
    """`connect` takes the time limit in seconds and returns a connection, the target and the headers of the
    request. It may raise SyncError if the settings allow no connection. Safe to use from any thread."""

    def __init__(
        self, connect: Callable[[float], Connection], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._checking = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_WAITING_MAX)
        self._thread: threading.Thread | None = None  # of the last check, which may not have ended
        self._result: str | None = None
        self._checked_at = -CACHED_SECONDS

    def trouble(self) -> str | None:
        """Returns what is wrong; None: the storage answers. Raises Busy if too many requests wait for the
        result."""
        if self._is_fresh():
            return self._result
        if not self._waiting.acquire(blocking=False):
            raise SyncError("Busy", "the storage is already being checked: try again")
        try:
            with self._checking:
                if not self._is_fresh():
                    self._result = self._check()
                    self._checked_at = self._clock()
                return self._result
        finally:
            self._waiting.release()

    def _is_fresh(self) -> bool:
        return self._clock() - self._checked_at < CACHED_SECONDS

    def _check(self) -> str | None:
        if self._thread is None or not self._thread.is_alive():
            found: list[str | None] = []
            self._thread = threading.Thread(
                target=lambda: found.append(_ask(self._connect)), name="storage check", daemon=True
            )
            self._thread.start()
            self._thread.join(CHECK_SECONDS)
            if found:
                return found[0]
        return f"the storage does not answer within {CHECK_SECONDS:g} seconds"  # perhaps its name server


def _ask(connect: Callable[[float], Connection]) -> str | None:
    try:
        connection, target, headers = connect(CHECK_SECONDS)
    except (SyncError, OSError):
        return "the settings of the storage do not work: start a sync to see the error"
    try:
        connection.request("HEAD", target, headers=headers)
        status = connection.getresponse().status
    except socket.gaierror:
        return "the name of the storage cannot be resolved"
    except ConnectionRefusedError:
        return "the storage refuses connections"
    except TimeoutError:
        return f"the storage does not answer within {CHECK_SECONDS:g} seconds"
    except (OSError, http.client.HTTPException):
        return "the connection to the storage fails: start a sync to see the error"
    finally:
        connection.close()
    if status == http.client.PROXY_AUTHENTICATION_REQUIRED:
        return "the proxy requires other credentials"
    # 501: it answers, although it does not support this HEAD.
    return f"the storage answers with {status}" if status >= 500 and status != 501 else None


def connect(config: Settings, limit: float) -> Connection:
    """Connects to the configured storage as a worker does, with the same proxy and certificates. Returns the
    target and the headers of the request as well."""
    place = Endpoint.of(config.default_storage_url, config.aws_region)
    proxy = proxy_of(place.scheme, place.host, place.port) if config.storage_url else None
    host, port = (proxy.host, proxy.port) if proxy else (place.host, place.port)
    headers = {"Host": place.host_header(place.host)}
    target = f"{place.base_path}/"
    to_proxy = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
    if place.scheme == "http":
        connection = http.client.HTTPConnection(host, port, timeout=limit)
        return connection, place.url + "/" if proxy else target, headers | to_proxy
    context = tls_context(ca_bundle_of())
    secured = http.client.HTTPSConnection(host, port, timeout=limit, context=context)
    if proxy:
        secured.set_tunnel(place.host, place.port, headers=to_proxy)
    return secured, target, headers


def check_storage_url(url: str) -> None:
    """Calls `resolver.check_storage_url` with a time limit, in its own thread, in case the name server does
    not answer. A name that is not resolved in time is accepted, because the worker checks the address it
    connects to. Only a few names are resolved at once, so that slow ones do not delay other requests."""
    if not _RESOLVING.acquire(blocking=False):
        raise SyncError("Busy", "the names of other storages are still being looked up: try again")
    refused: list[UsageError] = []

    def check() -> None:
        try:
            resolver.check_storage_url(url)
        except UsageError as error:
            refused.append(error)
        finally:
            _RESOLVING.release()

    thread = threading.Thread(target=check, name="resolve", daemon=True)
    thread.start()
    thread.join(RESOLVE_SECONDS)
    if refused:
        raise refused[0]

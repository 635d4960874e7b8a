"""Is the storage there? One HEAD of its root, without keys: any answer but a server error means yes.

It is what `/healthz?storage=1` asks, so anybody may ask, and often: a check takes two seconds at most, its
result holds for ten, one check runs at a time, and only a few requests wait for it. What is wrong is said
without a name or an address. It says nothing of keys and buckets: a sync finds out.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable

from syncworker.errors import SyncError

CHECK_SECONDS = 2.0
CACHED_SECONDS = 10.0
_WAITING_MAX = 4  # fewer than the threads that answer

Connect = Callable[[float], tuple[http.client.HTTPConnection, str, dict[str, str]]]


class StorageCheck:
    """`connect` takes the limit in seconds; its connection, what to ask for there, with which headers. It
    may raise SyncError: that there is no way to the storage as it is set. Safe to use from any thread."""

    def __init__(self, connect: Connect, clock: Callable[[], float] = time.monotonic) -> None:
        self._connect = connect
        self._clock = clock
        self._checking = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_WAITING_MAX)
        self._thread: threading.Thread | None = None  # of the last check, which may not have ended
        self._result: str | None = None
        self._checked_at = -CACHED_SECONDS

    def trouble(self) -> str | None:
        """What is wrong, None: it answers. Busy: too many ask, and none knows yet."""
        if self._is_fresh():
            return self._result
        if not self._waiting.acquire(blocking=False):
            raise SyncError("Busy", "the storage is being asked whether it is there: try again")
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


def _ask(connect: Connect) -> str | None:
    try:
        connection, target, headers = connect(CHECK_SECONDS)
    except (SyncError, OSError):
        return "the storage cannot be reached as it is set: a sync says why"
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
        return "the connection to the storage fails: a sync says why"
    finally:
        connection.close()
    if status == http.client.PROXY_AUTHENTICATION_REQUIRED:
        return "the proxy wants other keys"
    # 501: it does not know such a HEAD, and is there all the same.
    return f"the storage answers with {status}" if status >= 500 and status != 501 else None

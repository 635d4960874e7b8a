"""The pool of connections to one storage: opens, reuses, watches and closes them.

Invariants
- Every wait has an end: connecting (`connect_seconds`), and silence (connection.py; the caller of `exchange`
  says how long it may last). One watchdog checks all connections each second; if it dies, all are closed: the
  pool's owner looks at `watchdog`. After a request to stop, exchanges that only read and connections that are
  being made end at once; writes end when nobody waits for them any more (`give_up`).
- An address that resolver.py refuses is never connected to.
- If the server closed a connection while it was idle, the exchange is made once more on a new one. Nothing
  else is retried here, and nothing is known of S3.
- Proxies are those of the environment (proxy.py).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import socket
from asyncio import staggered
from collections.abc import Callable, Sequence
from typing import NamedTuple

from syncworker.errors import FatalError, RetryError, UsageError
from syncworker.system.bandwidth import Bandwidth, Turn
from syncworker.system.daemon_call import call_in_daemon
from syncworker.system.tls import tls_context
from syncworker.wire import resolver
from syncworker.wire.body import CHUNK, Body
from syncworker.wire.connect_errors import connect_error, refused_by
from syncworker.wire.connection import Connection, Response
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.proxy import proxy_of

_ADDRESS_SECONDS = 30.0
_NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305, "Connection Attempt Delay"
_PROXY_TARGET_SECONDS = 2.0
READS = frozenset({"GET", "HEAD"})


class Limits(NamedTuple):
    """How long connecting may take, and how long a request may be silent: most of them, a listing, and one
    that completes an upload. An answer that has begun must come at `FLOOR` bytes a second, on average over
    `floor_seconds` or over the silence that is allowed, whichever is longer."""

    connect_seconds: float = 10.0
    idle_seconds: float = 60.0
    listing_seconds: float = 120.0
    completing_seconds: float = 600.0
    floor_seconds: float = 60.0

    @classmethod
    def of(cls, storage_timeout: float | None) -> Limits:
        """The limits by kind of request, or the one that STORAGE_TIMEOUT sets for all."""
        if storage_timeout is None:
            return cls()
        return cls(10.0, storage_timeout, storage_timeout, storage_timeout)


_USUAL = Limits()


class ConnectionPool:
    """The connections to one storage. Use it as `async with`; all calls in one event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        ca_bundle: str | None,
        limits: Limits = _USUAL,
        *,
        use_proxies: bool = True,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.bandwidth = bandwidth or Bandwidth()
        self.limits = limits
        self.tls = tls_context(ca_bundle) if endpoint.scheme == "https" else None
        self.proxy = proxy_of(endpoint.scheme, endpoint.host, endpoint.port) if use_proxies else None
        self.answered = False  # the storage has answered at least once
        self._buffer = memoryview(bytearray(CHUNK))
        self._idle: dict[str, list[Connection]] = {}
        self._all: set[Connection] = set()
        self._checked: set[str] = set()  # hosts that a proxy may connect to
        self._addresses: dict[str, tuple[float, list[resolver.Address]]] = {}
        self._lookups: dict[str, asyncio.Future[list[resolver.Address]]] = {}
        self.watchdog: asyncio.Task[None] | None = None  # it ends only when it fails
        self._closed = False
        self._opening: dict[asyncio.Timeout, bool] = {}  # connections that are being made -> `settles`
        self._given_up = False

    async def __aenter__(self) -> ConnectionPool:
        self.watchdog = asyncio.create_task(self._watch(), name="connection watchdog")
        self.watchdog.add_done_callback(lambda _: self.close())  # nothing may run without time limits
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.watchdog is not None:
            self.watchdog.cancel()
        self.close()

    def close(self) -> None:
        """Ends all exchanges. No other can begin."""
        self._closed = True
        for connection in list(self._all):
            connection.close()
        self._end_opening(lambda _: True)

    def _end_opening(self, ends: Callable[[bool], bool]) -> None:
        now = asyncio.get_running_loop().time()
        for opening, settles in self._opening.items():
            if ends(settles) and not opening.expired():
                opening.reschedule(now)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self.limits.idle_seconds / 4))
            for connection in list(self._all):
                connection.check(loop.time())
            self._all = {c for c in self._all if not c.lost}

    def close_idle(self) -> None:
        """Closes the connections that no request is using."""
        for connections in self._idle.values():
            while connections:
                connection = connections.pop()
                connection.close()
                self._all.discard(connection)

    def silent_seconds(self) -> float:
        """Returns how long no byte has moved on any connection that waits for an answer; 0 if none waits."""
        moved = [connection.active_at for connection in self._all if connection.is_busy()]
        return asyncio.get_running_loop().time() - max(moved) if moved else 0.0

    def give_up(self, *, writes: bool) -> None:
        """Ends, for a stop, every exchange that only reads, and connections that are being made. A write, or
        a request that `settles` one, goes on; with `writes` it ends as well."""
        self._given_up = True
        for connection in list(self._all):
            waited_for = connection.settles or connection.method not in READS
            if connection.is_busy() and (writes or not waited_for):
                connection.fail(RetryError("Dropped", "aborted, because the job is stopping"))
        self._end_opening(lambda settles: writes or not settles)

    async def exchange(
        self,
        host: str,
        method: str,
        head: bytes,
        body: bytes | Body = b"",
        *,
        max_body: int = 8 << 20,
        may_repeat: bool = True,
        settles: bool = False,
        idle_seconds: float | None = None,
        blanks: bool = False,
        turn: Turn | None = None,
        paces_answer: bool = False,
    ) -> Response:
        """Sends a request and returns its answer. Raises RetryError if it may work later, FatalError if it
        will not. `may_repeat`: a repetition does no harm if the store has carried it out although the
        connection was lost. `settles`: a stop waits for it as for a write. `blanks`: white space before the
        answer's document shows that the store is at work. `turn`: the body's turn, which ends with the body.
        `paces_answer`: the answer counts towards the bandwidth, too."""
        while True:
            idle = self._idle_one(host)
            connection = idle or await self._connect(host, settles=settles)
            connection.settles, connection.blanks = settles, blanks
            connection.paces_answer = paces_answer
            connection.idle_seconds = self.limits.idle_seconds if idle_seconds is None else idle_seconds
            try:
                response = await connection.exchange(method, head, body, max_body, turn)
            except RetryError as error:
                idled = idle and error.code == "ConnectionLost" and not connection.answered_bytes
                if may_repeat and idled and (settles or not self._given_up):
                    continue  # the server had closed it while it was idle
                raise
            if self.proxy is not None and response.status == 407:
                connection.close()
                raise refused_by(self.proxy)
            self.answered = True
            if connection.keep and not connection.lost:
                self._idle.setdefault(host, []).append(connection)
            else:
                connection.close()
                self._all.discard(connection)
            return response

    def _idle_one(self, host: str) -> Connection | None:
        if self._closed:
            raise RetryError("ConnectionLost", "the connections are closed: the job ends")
        idle = self._idle.get(host)
        while idle:
            connection = idle.pop()
            if not connection.lost and connection.transport and not connection.transport.is_closing():
                return connection
        return None

    async def _connect(self, host: str, *, settles: bool) -> Connection:
        try:
            async with asyncio.timeout(self.limits.connect_seconds) as limit:
                self._opening[limit] = settles
                try:
                    connection = await self._open(host)
                finally:
                    del self._opening[limit]
        except OSError as error:  # TimeoutError, gaierror and SSLError among them
            port, seconds = self.endpoint.port, self.limits.connect_seconds
            raise connect_error(error, host, port, self.proxy, seconds, answered=self.answered) from error
        self._all.add(connection)
        return connection

    async def _open(self, host: str) -> Connection:
        loop = asyncio.get_running_loop()
        target, port = (self.proxy.host, self.proxy.port) if self.proxy else (host, self.endpoint.port)
        if self.proxy is not None and host not in self._checked:
            await self._check_proxy_target(host)
        addresses = await self._resolve(target, port)
        sock, first = await _connect_first(addresses)
        addresses.sort(key=lambda address: address != first)  # others begin with the one that has answered
        tls = self.tls if self.proxy is None else None
        _, connection = await loop.create_connection(
            self._new_connection, sock=sock, ssl=tls, server_hostname=host if tls else None
        )
        if self.proxy is not None and self.tls is not None:
            await self._tunnel(connection, host)
        return connection

    def _new_connection(self) -> Connection:
        connection = Connection(asyncio.get_running_loop(), self._buffer, self.bandwidth)
        connection.idle_seconds = self.limits.idle_seconds
        connection.floor_seconds = self.limits.floor_seconds
        return connection

    async def _check_proxy_target(self, host: str) -> None:
        """Refuses to have a proxy connect to a metadata service, if the name can be looked up here."""
        check = call_in_daemon("names", resolver.check_known, host, self.endpoint.port)
        try:
            await asyncio.wait_for(check, _PROXY_TARGET_SECONDS)
        except UsageError as error:
            raise FatalError(error.code, error.message) from error
        except TimeoutError:
            pass  # no name server answers here: only the proxy knows the name
        self._checked.add(host)

    async def _resolve(self, host: str, port: int) -> list[resolver.Address]:
        loop = asyncio.get_running_loop()
        at, addresses = self._addresses.get(host, (-math.inf, []))
        if loop.time() - at > _ADDRESS_SECONDS:
            check = resolver.resolve if self.proxy is None else resolver.resolve_any
            if host not in self._lookups:  # one at a time: it may outlive its caller
                self._lookups[host] = call_in_daemon("names", check, host, port)
                self._lookups[host].add_done_callback(lambda _: self._lookups.pop(host))
            try:
                addresses = await asyncio.shield(self._lookups[host])
            except UsageError as error:
                raise FatalError(error.code, error.message) from error
            self._addresses[host] = (loop.time(), addresses)
        return addresses

    async def _tunnel(self, connection: Connection, host: str) -> None:
        """CONNECT through the proxy, then TLS with the storage itself."""
        assert self.proxy is not None
        assert self.tls is not None
        name = f"[{host}]" if ":" in host else host
        lines = [f"CONNECT {name}:{self.endpoint.port} HTTP/1.1", f"Host: {name}:{self.endpoint.port}"]
        if self.proxy.authorization:
            lines.append(f"Proxy-Authorization: {self.proxy.authorization}")
        # The answer to CONNECT has no body, whatever its headers say: read it as that of a HEAD.
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        answer = await connection.exchange("HEAD", head, b"", CHUNK)
        if answer.status != 200:
            connection.close()
            said = f"{self.proxy} answered {answer.status} to CONNECT {host}"
            if answer.status >= 500:
                raise RetryError("ProxyFailed", said)
            raise refused_by(self.proxy) if answer.status == 407 else FatalError("ProxyRefused", said)
        loop = asyncio.get_running_loop()
        assert connection.transport is not None
        transport = await loop.start_tls(connection.transport, connection, self.tls, server_hostname=host)
        if transport is None:
            raise RetryError("TlsError", f"the proxy closed the connection to {host}")
        connection.connection_made(transport)


async def _connect_first(addresses: Sequence[resolver.Address]) -> tuple[socket.socket, resolver.Address]:
    """Connects to one of the addresses, by Happy Eyeballs (RFC 8305): the families in turn, the next one
    tried as soon as one has failed or has taken a quarter of a second. Raises OSError if none answers."""
    loop = asyncio.get_running_loop()
    made: list[socket.socket] = []

    async def connect(address: resolver.Address) -> socket.socket:
        sock = socket.socket(address[0], socket.SOCK_STREAM)
        made.append(sock)
        sock.setblocking(False)
        await loop.sock_connect(sock, address[1])
        return sock

    in_turn = _interleaved(addresses)
    tries = [functools.partial(connect, address) for address in in_turn]
    winner: socket.socket | None = None
    try:
        winner, index, errors = await staggered.staggered_race(tries, _NEXT_ADDRESS_SECONDS)
    finally:
        for sock in made:
            if sock is not winner:
                sock.close()
    if winner is None or index is None:
        raise next(error for error in reversed(errors) if error is not None)
    return winner, in_turn[index]


def _interleaved(addresses: Sequence[resolver.Address]) -> list[resolver.Address]:
    """Returns the addresses with the families in turn, beginning with the first one's (RFC 8305, section
    4)."""
    one = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for pair in itertools.zip_longest(one, other) for address in pair if address is not None]

"""HTTP/1.1 to one storage: connections that are kept, bodies that are streamed, waits that always end.

Why not a library: 10,000 PUTs of 4 KiB cost 1.9 s of processor time with awscrt, 28 s with boto3 and 0.6 s
with asyncio, httptools and one signature (docs/design.md has the measurement and its command).

Invariants
- Every wait has an end: connecting (`connect_seconds`), and silence (no byte in either direction while an
  exchange is under way; how long, its caller says). A trickle is a silence: an answer has to come at 1 KiB/s,
  but for blanks where the caller expects them. A body that moves has no other limit. A byte has gone out when
  the other side has acknowledged it: on a slow line the kernel holds megabytes for minutes. One watchdog
  looks at all connections each second; when it dies, all are closed: who opened the wire looks at `watchdog`.
  Once somebody wants to stop, what only reads and connections that are being made end at once, and what
  writes when it is no more waited for (`give_up`).
- Redirects are never followed, and an address that endpoint.py refuses is never connected to.
- A failed exchange closes its connection, and so does an answer behind which more may come. A connection that
  its server closed while it lay idle is not an error: the exchange is made once more on a new one.
- Proxies are those of the environment (proxy.py).

This module knows nothing of S3 and retries nothing that reached the store.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import socket
import ssl
import struct
from asyncio import staggered
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar, cast

import httptools

from syncworker.errors import FatalError, RetryError, UsageError
from syncworker.s3 import endpoint
from syncworker.s3.proxy import Proxy, proxy_of
from syncworker.system.bandwidth import Bandwidth, Turn
from syncworker.system.daemon_call import call_in_daemon
from syncworker.system.tls import tls_context

T = TypeVar("T")

CHUNK = 256 << 10
MAX_HEADER_BYTES = 64 << 10
FLOOR = 1024
_BLANKS_SECONDS = 3600.0  # of an answer that has nothing but blanks: they keep a connection, not for ever
_ADDRESS_SECONDS = 30.0
_NEXT_ADDRESS_SECONDS = 0.25  # RFC 8305, "Connection Attempt Delay"
_JUDGE_SECONDS = 2.0
_READS = frozenset({"GET", "HEAD"})
_FRAMED = frozenset({"content-length", "transfer-encoding"})
_NAMES: dict[bytes, str] = {}  # headers as they were sent -> in lower case
_NAMES_MAX = 200
_OVERHEAD = 8  # times the body: as much may chunks of one byte cost


class Response(NamedTuple):
    """`headers` have lower-case names; a repeated one keeps its last value. `body` is whole."""

    status: int
    headers: dict[str, str]
    body: bytes


class Body(Protocol):
    """A body that is sent in pieces. `chunks` starts anew at each call, so an exchange can be repeated."""

    size: int

    def chunks(self) -> Iterator[bytes]: ...


class Limits(NamedTuple):
    """How long connecting may take, and a silence: of most requests, of a listing, of what completes an
    upload. An answer that has begun needs `FLOOR` bytes a second over `floor_seconds`, or over a silence that
    is allowed to be longer."""

    connect_seconds: float = 10.0
    idle_seconds: float = 60.0
    listing_seconds: float = 120.0
    completing_seconds: float = 600.0
    floor_seconds: float = 60.0

    @classmethod
    def of(cls, storage_timeout: float | None) -> Limits:
        """By kind of request, or the one silence that the settings allow for all of them."""
        if storage_timeout is None:
            return cls()
        return cls(10.0, storage_timeout, storage_timeout, storage_timeout)


_USUAL = Limits()

_CERTIFICATES = {  # X509_V_ERR_…: what is wrong, and its cure
    9: ("is not valid yet", "set this machine's clock, or wait"),
    10: ("has expired", "renew it at the storage, or set this machine's clock"),
    18: ("is signed by itself", "set AWS_CA_BUNDLE to a copy of it"),
    19: ("comes from an authority of its own", "set AWS_CA_BUNDLE to that authority's file"),
    62: (
        "is for another name",
        "use a name in storage_url that it has, or give the storage one for this name",
    ),
    64: ("is for another address", "use a name in storage_url that it has, or give the storage one for this"),
    66: ("has a key that is too weak", "give the storage one with a longer key"),
    67: ("has an authority whose key is too weak", "give the storage one of another authority"),
    68: ("is signed in a way that is too weak", "give the storage one that is signed with SHA-256"),
}
_UNKNOWN = ("is of an authority that is not known here", "set AWS_CA_BUNDLE to that authority's file")


def _about_certificate(host: str, error: ssl.SSLCertVerificationError) -> FatalError:
    known = dict.fromkeys((2, 20, 21), _UNKNOWN) | _CERTIFICATES
    what, cure = known.get(error.verify_code, ("is not trusted", "give the storage another"))
    return FatalError("TlsError", f"the certificate of {host} {what} ({error.verify_message}): {cure}")


def _refused_by(proxy: Proxy) -> FatalError:
    return FatalError(
        "ProxyRefused",
        f"{proxy} wants a user name and a password, or others than it was given (407): put them into"
        f" {proxy.variable}",
    )


class _Connection(asyncio.BufferedProtocol):
    """One connection: at most one exchange at a time. `buffer` takes what comes in and may be shared by all
    connections of a loop: it is read before the loop goes on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, buffer: memoryview, bandwidth: Bandwidth) -> None:
        self.loop = loop
        self.bandwidth = bandwidth
        self.paces_answer = False
        self.pausing: asyncio.Task[None] | None = None
        self.buffer = buffer
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[Response] | None = None
        self.writable: asyncio.Future[None] | None = None
        self.lost = False
        self.answered_bytes = False  # a byte of the answer has come
        self.active_at = 0.0
        self.outgoing = (0, 0)  # unsent, acknowledged
        self.method = ""
        self.settles = False
        self.max_body = 0
        self.idle_seconds = self.floor_seconds = 0.0
        self.blanks = False
        self._reset()

    def _reset(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.headers: dict[str, str] = {}
        self.header_bytes = 0
        self.received = 0
        self.marked_at, self.marked = 0.0, 0  # where the rate of the answer is measured from
        self.only_blanks = True
        self.headers_complete = False
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.keep = False
        self.resets = False  # closed by RST: all that was asked for is here

    # -- asyncio.BufferedProtocol: a new buffer for each answer would cost three system calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=2 * CHUNK)

    def pause_writing(self) -> None:
        self.writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    def get_buffer(self, sizehint: int) -> memoryview:
        if self.paces_answer and self.bandwidth.on:
            return self.buffer[: self.bandwidth.piece]
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.active_at = self.loop.time()
        if self.answer is None or self.answer.done():
            self.close()  # a byte that nobody asked for: never let it become the next answer
            return
        if not self.answered_bytes:
            self.answered_bytes, self.marked_at = True, self.active_at
        self.received += nbytes
        if self.paces_answer and self.bandwidth.on and self.transport is not None:
            self.transport.pause_reading()
            self.pausing = self.loop.create_task(self._go_on_reading(nbytes))
        try:
            self.parser.feed_data(self.buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(RetryError("BadAnswer", f"the storage sent no valid HTTP: {error.__class__.__name__}"))
            return
        # The parser hands out a header when it is whole, so one without an end has to be counted here.
        if not self.headers_complete and self.received > MAX_HEADER_BYTES:
            self.fail(RetryError("BadAnswer", "the storage sent too many headers"))
        elif self.received > MAX_HEADER_BYTES + _OVERHEAD * (CHUNK + self.max_body):
            self.fail(RetryError("BadAnswer", "the storage sent a larger answer than was asked for"))

    async def _go_on_reading(self, nbytes: int) -> None:
        """What has come counts as well: the next is read when there is room for this."""
        await self.bandwidth.take(nbytes, lambda: self.lost or not self.is_busy())
        if self.transport is not None and not self.transport.is_closing():
            self.active_at = self.loop.time()
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.resume_writing()
        if error is None and self.headers_complete and not _FRAMED & self.headers.keys():
            # An old proxy's error page ends with the connection. Only a refusal: nobody relies on its end.
            status = self.parser.get_status_code()
            if status >= 300:
                self._finish(status)
        self.fail(
            RetryError("ConnectionLost", "the storage closed the connection before its answer was whole")
        )

    # -- httptools callbacks
    def on_message_begin(self) -> None:
        if self.answer is None or self.answer.done():
            self.close()  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self.header_bytes += len(name) + len(value)
        if self.header_bytes > MAX_HEADER_BYTES:
            self.fail(RetryError("BadAnswer", "the storage sent too many headers"))
            return
        known = _NAMES.get(name)
        if known is None:
            known = name.decode("latin-1").lower()
            if len(_NAMES) < _NAMES_MAX:
                _NAMES[name] = known
        self.headers[known] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        self.headers_complete = status >= 200
        if status >= 200 and self.method == "HEAD":
            # The parser would wait for the body whose length a HEAD announces: this answer ends here.
            self._end_without_body(status)
            self.parser = httptools.HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if self.body_bytes > self.max_body:
            self.fail(RetryError("BadAnswer", "the storage sent a larger answer than was asked for"))
            return
        if self.only_blanks and data.strip():
            self.only_blanks, self.marked_at, self.marked = False, self.active_at, self.received
        self.body.append(data)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:  # 100 Continue and the like come before the answer
            self.headers = {}
            return
        if status in (204, 304):
            self._end_without_body(status)
            return
        self.keep = self.parser.should_keep_alive()
        self._finish(status)

    def _end_without_body(self, status: int) -> None:
        """A body that is announced must not come, yet some send it, late: a connection that may still bring
        one is used no more, or it would be the next request's answer."""
        announced = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers
        self.keep = self.parser.should_keep_alive() and not announced
        self.resets = announced
        self._finish(status)

    def _finish(self, status: int) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(Response(status, self.headers, b"".join(self.body)))
            self.headers, self.body = {}, []
            self.resume_writing()  # who still sends the body must see that there is an answer

    # -- exchange
    def fail(self, error: Exception) -> None:
        """Ends the exchange under way with an error, and the connection with it."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
        self.close()

    def is_busy(self) -> bool:
        return self.answer is not None and not self.answer.done()

    def close(self) -> None:
        if self.transport is None:
            return
        if self.resets and (sock := self.transport.get_extra_info("socket")) is not None:
            # Without this, thousands of closed connections would hold this machine's ports for a minute.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def exchange(
        self,
        method: str,
        head: bytes,
        body: bytes | Body,
        max_body: int,
        on_sent: Callable[[int], None] | None,
        turn: Turn | None = None,
    ) -> Response:
        assert self.transport is not None
        self._reset()
        self.method, self.max_body = method, max_body
        self.answered_bytes = False
        self.active_at = self.loop.time()
        self.answer = self.loop.create_future()
        try:
            if isinstance(body, bytes) and (not body or (len(body) <= CHUNK and not self.bandwidth.on)):
                self.transport.write(head + body if body else head)
            else:
                await self._send(head, body, on_sent, turn)
            return await self.answer
        except BaseException:
            self.close()
            raise
        finally:
            if self.answer.done() and not self.answer.cancelled():
                self.answer.exception()  # seen here, whoever looks
            self.answer = None

    async def _send(
        self, head: bytes, body: bytes | Body, on_sent: Callable[[int], None] | None, turn: Turn | None
    ) -> None:
        assert self.transport is not None
        assert self.answer is not None
        self.transport.write(head)
        for piece in self._pieces(body):
            if self.bandwidth.on:
                await self.bandwidth.take(len(piece), self.answer.done)
            if turn is not None:
                turn.used(len(piece))
            if self.answer.done() or self.transport.is_closing():  # refused or lost: the rest is of no use
                self.keep = False
                return
            self.transport.write(piece)
            if self.writable is not None:
                await self.writable
                self.active_at = self.loop.time()
            if on_sent is not None:
                on_sent(len(piece))
        if turn is not None:
            turn.leave()

    def _pieces(self, body: bytes | Body) -> Iterator[bytes | memoryview]:
        for chunk in _slices(body) if isinstance(body, bytes) else body.chunks():
            if self.bandwidth.on:
                yield from self.bandwidth.pieces(chunk)
            else:
                yield chunk

    def check(self, now: float) -> None:
        """The watchdog's question: has a byte moved lately, and an answer come at a rate that is one?"""
        if self.answer is None or self.answer.done() or self.transport is None:
            return
        outgoing = (self.transport.get_write_buffer_size(), _acknowledged(self.transport))
        if outgoing != self.outgoing:
            self.outgoing, self.active_at = outgoing, now
        if now - self.active_at > self.idle_seconds:
            self._time_out(f"was silent for {self.idle_seconds:g} s in the middle of a request")
        elif self.answered_bytes and not (self.paces_answer and self.bandwidth.on):
            self._check_rate(now)

    def _check_rate(self, now: float) -> None:
        seconds = max(self.floor_seconds, self.idle_seconds)
        if self.blanks and self.only_blanks:
            if now - self.marked_at > max(_BLANKS_SECONDS, seconds):
                self._time_out(f"sent nothing but blanks for {_BLANKS_SECONDS:g} s")
        elif self.received - self.marked >= FLOOR * seconds:
            self.marked_at, self.marked = now, self.received
        elif now - self.marked_at > seconds:
            self._time_out(f"sent less than 1 KiB/s for {seconds:g} s in the middle of an answer")

    def _time_out(self, what: str) -> None:
        self.fail(RetryError("Timeout", f"the storage {what} (STORAGE_TIMEOUT allows longer waits)"))


def _acknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the other side's kernel has confirmed (Linux, `struct tcp_info`: tcpi_bytes_acked)."""
    try:
        sock = transport.get_extra_info("socket")
        if sock is None:  # a TLS connection that was lost just now, of which its protocol is yet to be told
            return 0
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        return int(struct.unpack_from("=Q", info, 120)[0])
    except (OSError, struct.error):
        return 0


def _slices(body: bytes) -> Iterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), CHUNK):
        yield view[start : start + CHUNK]  # type: ignore[misc]


class Wire:
    """The connections to one storage. Use it as `async with`; all calls in one event loop."""

    def __init__(
        self,
        place: endpoint.Endpoint,
        ca_bundle: str | None,
        limits: Limits = _USUAL,
        *,
        use_proxies: bool = True,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self.place = place
        self.bandwidth = bandwidth or Bandwidth()
        self.limits = limits
        self.tls = tls_context(ca_bundle) if place.scheme == "https" else None
        self.proxy = proxy_of(place.scheme, place.host, place.port) if use_proxies else None
        self.answered = False  # the storage has answered at least once
        self._buffer = memoryview(bytearray(CHUNK))
        self._idle: dict[str, list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._judged: set[str] = set()  # names that a proxy may be asked for
        self._addresses: dict[str, tuple[float, list[endpoint.Address]]] = {}
        self._lookups: dict[str, asyncio.Future[list[endpoint.Address]]] = {}
        self.watchdog: asyncio.Task[None] | None = None  # it ends only when it fails
        self._closed = False
        self._opening: dict[asyncio.Timeout, bool] = {}  # connections that are being made: for what settles?
        self._given_up = False

    async def __aenter__(self) -> Wire:
        self.watchdog = asyncio.create_task(self._watch(), name="watchdog of connections")
        self.watchdog.add_done_callback(lambda _: self.close())  # nothing goes on with no limit of time
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.watchdog is not None:
            self.watchdog.cancel()
        self.close()

    def close(self) -> None:
        """Ends all that is under way; nothing can be begun any more."""
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
        """For how long no byte has moved on any connection that waits for an answer; 0 when none does."""
        moved = [connection.active_at for connection in self._all if connection.is_busy()]
        return asyncio.get_running_loop().time() - max(moved) if moved else 0.0

    def give_up(self, *, writes: bool) -> None:
        """Somebody wants to stop: ends every exchange that only reads, and what is still being connected.
        What writes, or `settles` that, goes on; with `writes` it ends as well."""
        self._given_up = True
        for connection in list(self._all):
            waited_for = connection.settles or connection.method not in _READS
            if connection.is_busy() and (writes or not waited_for):
                connection.fail(RetryError("Dropped", "given up, because the job is to stop"))
        self._end_opening(lambda settles: writes or not settles)

    async def exchange(
        self,
        host: str,
        method: str,
        head: bytes,
        body: bytes | Body = b"",
        *,
        max_body: int = 8 << 20,
        on_sent: Callable[[int], None] | None = None,
        may_repeat: bool = True,
        settles: bool = False,
        idle_seconds: float | None = None,
        blanks: bool = False,
        turn: Turn | None = None,
        paces_answer: bool = False,
    ) -> Response:
        """One request and its answer. RetryError: it may work later. FatalError: it will not. `may_repeat`:
        it does no harm when the store has carried it out although the connection was lost. `settles`: a stop
        waits for it as for what writes. `blanks`: white space before the answer's document shows that
        the store is at work. `turn`: the body's, which is over with it. `paces_answer`: what comes counts
        towards the bandwidth, too."""
        while True:
            connection = self._idle_one(host)
            reused = connection is not None
            if connection is None:
                connection = await self._connect(host, settles=settles)
            connection.settles, connection.blanks = settles, blanks
            connection.paces_answer = paces_answer
            connection.idle_seconds = self.limits.idle_seconds if idle_seconds is None else idle_seconds
            try:
                response = await connection.exchange(method, head, body, max_body, on_sent, turn)
            except RetryError as error:
                idled = reused and error.code == "ConnectionLost" and not connection.answered_bytes
                if may_repeat and idled and (settles or not self._given_up):
                    continue  # the server had closed it while it lay idle
                raise
            if self.proxy is not None and response.status == 407:
                connection.close()
                raise _refused_by(self.proxy)
            self.answered = True
            if connection.keep and not connection.lost:
                self._idle.setdefault(host, []).append(connection)
            else:
                connection.close()
                self._all.discard(connection)
            return response

    def _idle_one(self, host: str) -> _Connection | None:
        if self._closed:
            raise RetryError("ConnectionLost", "the connections are closed: the job ends")
        idle = self._idle.get(host)
        while idle:
            connection = idle.pop()
            if not connection.lost and connection.transport and not connection.transport.is_closing():
                return connection
        return None

    async def _connect(self, host: str, *, settles: bool) -> _Connection:
        try:
            async with asyncio.timeout(self.limits.connect_seconds) as limit:
                self._opening[limit] = settles
                try:
                    connection = await self._open(host)
                finally:
                    del self._opening[limit]
        except TimeoutError as error:
            raise RetryError(
                "ConnectTimeout",
                f"no connection to {self.proxy or host} within {self.limits.connect_seconds:g} s",
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise _about_certificate(host, error) from error
        except ssl.SSLError as error:
            raise RetryError("TlsError", f"no TLS with {host}: {error.reason}") from error
        except socket.gaierror as error:
            no_such = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
            if error.errno in no_such and not self.answered:
                where = self.proxy.variable if self.proxy else "storage_url"
                raise FatalError(
                    "NoSuchHost", f"there is no host {self.proxy or host}: check {where}"
                ) from error
            raise RetryError(
                "DnsError", f"the address of {self.proxy or host} cannot be looked up now"
            ) from error
        except OSError as error:
            # asyncio's own text has the address and leaves the reason to the number.
            reason = os.strerror(error.errno) if error.errno else str(error) or error.__class__.__name__
            if self.proxy:
                raise RetryError("ProxyUnreachable", f"no connection to {self.proxy}: {reason}") from error
            raise RetryError(
                "ConnectFailed", f"no connection to {host}:{self.place.port}: {reason}"
            ) from error
        self._all.add(connection)
        return connection

    async def _open(self, host: str) -> _Connection:
        loop = asyncio.get_running_loop()
        target, port = (self.proxy.host, self.proxy.port) if self.proxy else (host, self.place.port)
        direct_tls = self.tls if self.proxy is None else None
        if self.proxy is not None and host not in self._judged:
            await self._judge(host)
        addresses = await self._resolve(target, port)
        sock, first = await _connect_first(addresses)
        addresses.remove(first)
        addresses.insert(0, first)  # others begin with the one that has answered
        _, connection = await loop.create_connection(
            self._new_connection,
            sock=sock,
            ssl=direct_tls,
            server_hostname=host if direct_tls else None,
        )
        if self.proxy is not None and self.tls is not None:
            await self._tunnel(connection, host)
        return connection

    def _new_connection(self) -> _Connection:
        connection = _Connection(asyncio.get_running_loop(), self._buffer, self.bandwidth)
        connection.idle_seconds = self.limits.idle_seconds
        connection.floor_seconds = self.limits.floor_seconds
        return connection

    async def _judge(self, host: str) -> None:
        """Refuses to have a proxy connect to a metadata service, as far as names can be looked up here."""
        look = call_in_daemon("names", endpoint.refuse_behind_proxy, host, self.place.port)
        try:
            await asyncio.wait_for(look, _JUDGE_SECONDS)
        except UsageError as error:
            raise FatalError(error.code, error.message) from error
        except TimeoutError:
            pass  # no name server answers here: only the proxy knows the name
        self._judged.add(host)

    async def _resolve(self, host: str, port: int) -> list[endpoint.Address]:
        loop = asyncio.get_running_loop()
        known = self._addresses.get(host)
        if known is None or loop.time() - known[0] > _ADDRESS_SECONDS:
            check = endpoint.resolve if self.proxy is None else endpoint.resolve_any
            if host not in self._lookups:  # one at a time: it may outlive who asked
                self._lookups[host] = call_in_daemon("names", check, host, port)
                self._lookups[host].add_done_callback(lambda _: self._lookups.pop(host))
            try:
                found = await asyncio.shield(self._lookups[host])
            except UsageError as error:
                raise FatalError(error.code, error.message) from error
            known = self._addresses[host] = (loop.time(), found)
        return known[1]

    async def _tunnel(self, connection: _Connection, host: str) -> None:
        """CONNECT through the proxy, then TLS with the storage itself."""
        assert self.proxy is not None
        assert self.tls is not None
        name = f"[{host}]" if ":" in host else host
        lines = [f"CONNECT {name}:{self.place.port} HTTP/1.1", f"Host: {name}:{self.place.port}"]
        if self.proxy.authorization:
            lines.append(f"Proxy-Authorization: {self.proxy.authorization}")
        # The answer to CONNECT has no body, whatever its headers say: read it as that of a HEAD.
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        answer = await connection.exchange("HEAD", head, b"", CHUNK, None)
        if answer.status != 200:
            connection.close()
            said = f"{self.proxy} answered {answer.status} to CONNECT {host}"
            if answer.status >= 500:
                raise RetryError("ProxyFailed", said)
            raise _refused_by(self.proxy) if answer.status == 407 else FatalError("ProxyRefused", said)
        loop = asyncio.get_running_loop()
        assert connection.transport is not None
        transport = await loop.start_tls(connection.transport, connection, self.tls, server_hostname=host)
        if transport is None:
            raise RetryError("TlsError", f"the proxy closed the connection to {host}")
        connection.connection_made(transport)


async def _connect_first(addresses: Sequence[endpoint.Address]) -> tuple[socket.socket, endpoint.Address]:
    """A connection to one of them, by Happy Eyeballs (RFC 8305): the families in turn, the next one begun as
    soon as one has failed or has taken a quarter of a second. OSError: none of them answers."""
    loop = asyncio.get_running_loop()
    made: list[socket.socket] = []

    async def connect(address: endpoint.Address) -> socket.socket:
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


def _interleaved(addresses: Sequence[endpoint.Address]) -> list[endpoint.Address]:
    """One of the first address's family, one of the other, and so on (RFC 8305, section 4)."""
    one = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for pair in itertools.zip_longest(one, other) for address in pair if address is not None]


class FileSlice:
    """A range of an open file as a body. Raises EOFError when the file has become shorter."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self.fd, self.offset, self.size = fd, offset, size

    def chunks(self) -> Iterator[bytes]:
        position, end = self.offset, self.offset + self.size
        while position < end:
            piece = os.pread(self.fd, min(CHUNK, end - position), position)
            if not piece:
                raise EOFError
            position += len(piece)
            yield piece

"""HTTP/1.1 on one connection: bodies that are streamed, waits that always end.

Why not a library: 10,000 PUTs of 4 KiB cost 1.9 s of processor time with awscrt, 28 s with boto3 and 0.6 s
with asyncio, httptools and one signature (docs/design.md has the measurement and its command).

Invariants
- An exchange in which no byte moves in either direction fails after a while. So does one whose answer comes
  at less than 1 KiB/s, except for blanks where the caller expects them. A body that moves has no other limit.
  A byte counts as sent when the other side has acknowledged it: on a slow line the kernel holds megabytes for
  minutes. The pool's watchdog (pool.py) calls `check` each second.
- Redirects are never followed.
- A failed exchange closes its connection, and so does an answer that more bytes may follow. Nothing of its
  request leaves after that.

This module knows nothing of S3 and retries nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, cast

import httptools

from syncworker.errors import RetryError
from syncworker.system.bandwidth import Bandwidth, Turn
from syncworker.wire.body import CHUNK, Body, Chunk, FileRange, slices

MAX_HEADER_BYTES = 64 << 10
FLOOR = 1024
_BLANKS_SECONDS = 3600.0  # how long an answer may consist of nothing but blanks
_FRAMED = frozenset({"content-length", "transfer-encoding"})
_NAMES: dict[bytes, str] = {}  # headers as they were sent -> in lower case
_NAMES_MAX = 200
_TOO_MANY = "the storage sent too many headers"
_TOO_LARGE = "the storage sent a larger answer than was asked for"
_OVERHEAD = 8  # times the body: what chunks of one byte cost


class Response(NamedTuple):
    """`headers` have lower-case names; a repeated one keeps its last value. `body` is whole."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection(asyncio.BufferedProtocol):
    """One connection: at most one exchange at a time. `buffer` receives the bytes; all connections of a loop
    may share it, because it is read before the loop goes on."""

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
        self.is_cut = False  # bytes of the body are missing
        self.active_at = 0.0
        self.outgoing = (0, 0)  # unsent, acknowledged
        self.method = ""
        self.settles = False
        self.max_body = 0
        self.idle_seconds = self.floor_seconds = 0.0
        self.blanks = False
        self.headers: list[tuple[bytes, bytes]] = []  # of the answer, as they came
        self.parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self.headers.clear()
        self.received = 0
        self.marked_at, self.marked = 0.0, 0  # where the rate of the answer is measured from
        self.only_blanks = True
        self.headers_complete = False
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.keep = False

    # -- asyncio.BufferedProtocol: a new buffer for each answer would cost three system calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=2 * CHUNK)
        # Closed by RST, also when this process is killed: what has not left by then never arrives, although
        # the kernel may hold megabytes. Besides, closed connections do not hold ports for a minute.
        if (sock := self.transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

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
        if self.received > MAX_HEADER_BYTES and (not self.headers_complete or self._has_too_many_headers()):
            self.fail(RetryError("BadAnswer", _TOO_MANY))
        elif self.received > MAX_HEADER_BYTES + _OVERHEAD * (CHUNK + self.max_body):
            self.fail(RetryError("BadAnswer", _TOO_LARGE))

    async def _go_on_reading(self, nbytes: int) -> None:
        """Limits the rate of answers: resumes reading when the bandwidth allows the bytes that have come."""
        await self.bandwidth.take(nbytes, lambda: self.lost or not self.is_busy())
        if self.transport is not None and not self.transport.is_closing():
            self.active_at = self.loop.time()
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.resume_writing()
        if error is None and self.headers_complete and not _FRAMED & self._named_headers().keys():
            # An old proxy's error page ends with the connection. Accepted of refusals only: nobody relies on
            # their being whole.
            status = self.parser.get_status_code()
            if status >= 300:
                self._finish(status)
        self.fail(
            RetryError("ConnectionLost", "the storage closed the connection before its answer was complete")
        )

    # -- httptools callbacks
    def on_message_begin(self) -> None:
        if self.answer is None or self.answer.done():
            self.close()  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        self.headers_complete = status >= 200
        if self.received > MAX_HEADER_BYTES and self._has_too_many_headers():
            self.fail(RetryError("BadAnswer", _TOO_MANY))
        elif status >= 200 and self.method == "HEAD":
            # The parser would wait for the body whose length a HEAD announces: this answer ends here.
            self._end_without_body(status)
            self.parser = httptools.HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if self.body_bytes > self.max_body:
            self.fail(RetryError("BadAnswer", _TOO_LARGE))
            return
        if self.only_blanks and data.strip():
            self.only_blanks, self.marked_at, self.marked = False, self.active_at, self.received
        self.body.append(data)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:  # 100 Continue and the like come before the answer
            self.headers.clear()
        elif self.received > MAX_HEADER_BYTES and self._has_too_many_headers():
            self.fail(RetryError("BadAnswer", _TOO_MANY))  # some came after the body
        elif status in (204, 304):
            self._end_without_body(status)
        else:
            self.keep = self.parser.should_keep_alive()
            self._finish(status)

    def _end_without_body(self, status: int) -> None:
        """Ends an answer that must have no body. Some servers announce one and send it late: such a
        connection is not used again, or that body would be taken for the next request's answer."""
        headers = self._named_headers()
        announced = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self.keep = self.parser.should_keep_alive() and not announced
        self._finish(status)

    def _finish(self, status: int) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(Response(status, self._named_headers(), b"".join(self.body)))
            self.body = []
            self.resume_writing()  # a task that still sends the body must see the answer

    def _named_headers(self) -> dict[str, str]:
        return {_NAMES.get(name) or _named(name): value.decode("latin-1") for name, value in self.headers}

    def _has_too_many_headers(self) -> bool:
        """Counts those after the body, too."""
        return sum(len(name) + len(value) for name, value in self.headers) > MAX_HEADER_BYTES

    # -- exchange
    def fail(self, error: Exception) -> None:
        """Ends the exchange under way with an error, and the connection with it."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
        self.close()

    def is_busy(self) -> bool:
        return self.answer is not None and not self.answer.done()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def exchange(
        self, method: str, head: bytes, body: bytes | Body, max_body: int, turn: Turn | None = None
    ) -> Response:
        assert self.transport is not None
        self._reset()
        self.method, self.max_body = method, max_body
        self.answered_bytes = self.is_cut = False
        self.active_at = self.loop.time()
        self.answer = self.loop.create_future()
        try:
            if isinstance(body, bytes) and (not body or (len(body) <= CHUNK and not self.bandwidth.on)):
                self.transport.write(head + body if body else head)
            else:
                await self._send(head, body, turn)
            response = await self.answer
            # Refused early. The memory of a body that has not left may be used again.
            if self.is_cut or self.transport.get_write_buffer_size():
                self.keep = False
            return response
        except BaseException:
            self.close()
            raise
        finally:
            if self.answer.done() and not self.answer.cancelled():
                self.answer.exception()  # marks it as seen
            self.answer = None

    async def _send(self, head: bytes, body: bytes | Body, turn: Turn | None) -> None:
        assert self.transport is not None
        assert self.answer is not None
        self.transport.write(head)
        for piece in self._pieces(body):
            if self.bandwidth.on:
                await self.bandwidth.take(len(piece), self.answer.done)
            if turn is not None:
                turn.used(len(piece))
            if self.is_cut or self.answer.done() or self.transport.is_closing():
                self.is_cut = True  # refused or lost: the rest is of no use
                return
            if isinstance(piece, FileRange):
                await self._send_range(piece)
            else:
                await self._write(piece)
        if turn is not None:
            turn.leave()

    async def _write(self, piece: bytes | memoryview) -> None:
        assert self.transport is not None
        self.transport.write(piece)
        if self.writable is not None:
            await self.writable
            self.active_at = self.loop.time()

    async def _send_range(self, part: FileRange) -> None:
        """Sends a range of a file by sendfile(2), which saves a fifth of the processor time of sending it
        from this process's memory. What has to be encrypted, or to wait for other bytes, is read."""
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        is_plain = sock is not None and self.transport.get_extra_info("sslcontext") is None
        if not is_plain or self.transport.get_write_buffer_size():
            await self._write(part.read())
            return
        done = 0
        while done < part.size:
            if self.lost or self.transport.is_closing() or self.answer is None or self.answer.done():
                self.is_cut = True
                return
            try:
                sent = os.sendfile(sock.fileno(), part.fd, part.offset + done, part.size - done)
            except BlockingIOError:
                await self._until_writable(sock.fileno())
                continue
            except ConnectionError:
                self.is_cut = True  # the storage's answer, or that it has gone, is still to be read
                return
            except OSError:  # of the file or the network, or the file system has no sendfile
                await self._write(FileRange(part.fd, part.offset + done, part.size - done).read())
                return
            if not sent:
                raise EOFError
            done += sent
            self.active_at = self.loop.time()
        await asyncio.sleep(0)  # a storage that takes all at once would keep the loop from everything else

    async def _until_writable(self, fd: int) -> None:
        """Returns when the socket takes more bytes, the answer has come or the connection is lost."""
        writable = self.writable = self.loop.create_future()
        watched = os.dup(fd)  # the loop allows nobody to wait for a transport's own descriptor
        try:
            self.loop.add_writer(watched, self.resume_writing)
            await writable
        finally:
            self.loop.remove_writer(watched)
            os.close(watched)

    def _pieces(self, body: bytes | Body) -> Iterator[Chunk]:
        for chunk in slices(body) if isinstance(body, bytes) else body.chunks():
            if self.bandwidth.on:
                yield from self.bandwidth.pieces(chunk.read() if isinstance(chunk, FileRange) else chunk)
            else:
                yield chunk

    def check(self, now: float) -> None:
        """Fails an exchange in which no byte moved lately, or whose answer is too slow. For the watchdog."""
        if not self.is_busy() or self.transport is None:
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
                self._time_out(f"sent only whitespace for {_BLANKS_SECONDS:g} s")
        elif self.received - self.marked >= FLOOR * seconds:
            self.marked_at, self.marked = now, self.received
        elif now - self.marked_at > seconds:
            self._time_out(f"sent less than 1 KiB/s for {seconds:g} s in the middle of an answer")

    def _time_out(self, what: str) -> None:
        self.fail(RetryError("Timeout", f"the storage {what} (STORAGE_TIMEOUT allows longer waits)"))


def _named(name: bytes) -> str:
    lower = name.decode("latin-1").lower()
    if len(_NAMES) < _NAMES_MAX:
        _NAMES[name] = lower
    return lower


def _acknowledged(transport: asyncio.Transport) -> int:
    """Returns how many bytes the other side has acknowledged (Linux, `struct tcp_info`: tcpi_bytes_acked)."""
    try:
        sock = transport.get_extra_info("socket")
        if sock is None:  # a TLS connection that is lost; `connection_lost` is still to be called
            return 0
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        return int(struct.unpack_from("=Q", info, 120)[0])
    except (OSError, struct.error):
        return 0

"""The HTTP server below the routes: waitress, with limits that keep one bad client from stopping the rest.

Set here: small headers and bodies, many connections (poll instead of select), no name of the software. Added
here, because waitress lacks it:
- a deadline for a request that arrives slowly: each byte resets waitress's own timeout, so that one header
  line a second holds a connection without end;
- a client that sends requests and reads no answer is cut when 4 MB wait for it, and one that reads nothing of
  a waiting answer after half a minute: in waitress each blocks a thread without end;
- near the limit of connections, silent ones are closed first;
- errors found while parsing look like all others (`problem_details.py`);
- after such an error the connection is closed only when the client has stopped sending (two seconds at most):
  if it were closed at once, the kernel would discard the answer;
- what takes less time than waking a thread (`QUICK_PATHS`) is answered by the thread that reads requests.

Handlers must return at once: there are eight threads.
"""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import BadRequest

from syncworker.web.problem_details import SECURITY_HEADERS, problem

BODY_MAX_BYTES = 256 * 1024  # two lists of 32 KiB, three characters a byte: percent-encoded, or as \u00e9
HEADER_MAX_BYTES = 16 * 1024
CONNECTIONS = 1000
THREADS = 8  # for answers
HEADER_SECONDS = 5.0
BODY_SECONDS = 20.0
LINGER_SECONDS = 2.0
UNREAD_SECONDS = 30.0
UNREAD_MAX_BYTES = 4 << 20  # of earlier answers, when the next one is begun; one answer may be longer
QUICK_PATHS = frozenset({"get", "runnings"})  # their last part; answered from memory or a file
_TRANSFER_ENCODING = re.compile(rb"(?im)^transfer-encoding:[ \t]*([^\r\n]*?)[ \t]*\r?$")
_DETAILS = {
    400: "the request is not valid HTTP",
    413: f"the body is longer than {BODY_MAX_BYTES} bytes",
    431: f"the headers (the address included) are longer than {HEADER_MAX_BYTES} bytes",
    500: "internal error: see the server's log",
    501: "this transfer encoding is not supported",
}


class _Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        # Requests that a proxy in front may understand differently: with both lengths, with an encoding given
        # twice, or with one in a version that has none.
        encodings = _TRANSFER_ENCODING.findall(header_plus)
        if encodings and (
            "CONTENT_LENGTH" in self.headers
            or [encoding.lower() for encoding in encodings] != [b"chunked"]
            or self.version != "1.1"
        ):
            self.error = BadRequest("Transfer-Encoding that is not plain")
            self.completed = True


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    def execute(self) -> None:
        status = int(self.request.error.code)
        detail = _DETAILS.get(status, self.request.error.reason)
        body, self.status, headers = problem(status, self.request.error.reason.replace(" ", ""), detail)
        self.response_headers.extend(headers + list(SECURITY_HEADERS))
        self.channel.lingers = True
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    error_task_class = _ErrorTask
    lingers = False  # after an error: read on for a moment before closing
    lingering_since = 0.0
    receiving: Any = None  # the request that was arriving at the last check
    receiving_since = 0.0
    overfull = False
    unread = 0  # bytes of answers that waited for the client at the last check; unread_since: unchanged since
    unread_since = 0.0

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Called before an answer is queued behind others. Waitress would block one of its few threads until
        the client reads; here the connection is given up, and `check` closes it."""
        if self.total_outbufs_len > UNREAD_MAX_BYTES:
            self.overfull = True
            self.connected = False  # nothing more is written, and no further request is handled

    def handle_close(self) -> None:
        if self.lingers and not self.lingering_since and self.connected:
            self.will_close = False
            self.lingering_since = time.time()
            with contextlib.suppress(OSError):  # closed already: the next read reports it
                self.socket.shutdown(socket.SHUT_WR)
            return
        super().handle_close()

    def handle_read(self) -> None:
        if not self.lingering_since:
            self.server.read(super().handle_read, self.service)
            return
        try:
            data = self.recv(65536)  # closes the channel when the client has ended
        except OSError:
            data = b""
        if not data:
            self.will_close = True

    def check(self, now: float) -> None:
        """Closes the connection if one of its time limits is over."""
        if self.lingering_since:
            if now - self.lingering_since > LINGER_SECONDS:
                self.will_close = True
            return
        if self.overfull or self._is_stalled(now):
            # `will_close` takes effect when the socket becomes writable, which this one never does.
            super().handle_close()
            return
        request = self.request
        if request is None or request.completed:
            self.receiving = None
        elif self.receiving is not request:
            self.receiving, self.receiving_since = request, now
        elif now - self.receiving_since > (BODY_SECONDS if request.headers_finished else HEADER_SECONDS):
            self.will_close = True

    def _is_stalled(self, now: float) -> bool:
        waiting = self.total_outbufs_len
        if not waiting or waiting != self.unread:
            self.unread, self.unread_since = waiting, now
        return now - self.unread_since > UNREAD_SECONDS


def _is_quick(request: HTTPRequestParser) -> bool:
    """Returns whether the answer waits for nothing but memory and the folder of jobs. `/healthz` is not among
    them: it is to tell when no thread is left."""
    is_plain = request.error is None and request.body_rcv is None and request.command in ("GET", "HEAD")
    return is_plain and request.path.rpartition("/")[2] in QUICK_PATHS


class _Server(TcpWSGIServer):  # type: ignore[misc]
    channel_class = _Channel
    quick: Callable[[], bool]  # set by `Server.run`, before anything is read
    _reader = 0  # the thread that reads a connection just now
    _held = False  # its request is quick
    _answers = False  # the thread that reads answers: it polls again in any case

    def read(self, receive: Callable[[], None], answer: Callable[[], None]) -> None:
        """Receives what has arrived. Answers the first request itself if it is quick; others get threads."""
        self._reader, self._held = threading.get_ident(), False
        try:
            receive()
        finally:
            self._reader = 0
        if self._held:
            self._held, self._answers = False, True
            try:
                answer()
            finally:
                self._answers = False

    def add_task(self, task: _Channel) -> None:
        if self._reader == threading.get_ident() and _is_quick(task.requests[0]) and self.quick():
            self._held = True  # `task` holds its lock now, which the answer needs
        else:
            super().add_task(task)

    def pull_trigger(self) -> None:
        if not self._answers:
            super().pull_trigger()

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        channels = list(self.active_channels.values())
        for channel in channels:
            channel.check(now)
        if len(channels) > CONNECTIONS * 0.8:
            silent = [c for c in channels if not c.requests and c.request is None]
            silent.sort(key=lambda channel: channel.last_activity)
            for channel in silent[: len(channels) // 4]:
                channel.will_close = True


class Server:
    """Listens from construction on (OSError: the port is taken), but accepts connections only in `run`."""

    def __init__(self, host: str, port: int) -> None:
        _allow_open_files(4 * CONNECTIONS)
        adjustments = Adjustments(
            host=host.strip("[]"),
            port=port,
            ident=None,
            connection_limit=CONNECTIONS,
            asyncore_use_poll=True,
            cleanup_interval=1,
            channel_timeout=10,
            max_request_header_size=HEADER_MAX_BYTES,
            max_request_body_size=BODY_MAX_BYTES + 1,
            clear_untrusted_proxy_headers=False,  # `forwarded` reads and removes them
        )
        self._map: dict[int, Any] = {}
        self._dispatcher = ThreadedTaskDispatcher()
        self._stopping = False
        self._closed = False
        self._closing = threading.RLock()  # a signal handler may come while its own thread holds it
        self._listeners: list[Any] = []
        try:
            for sockinfo in adjustments.listen:
                listener = _Server(
                    None, self._map, dispatcher=self._dispatcher, adj=adjustments, sockinfo=sockinfo
                )
                self._listeners.append(listener)
        except BaseException:
            wasyncore.close_all(self._map)
            raise
        self.port = int(self._listeners[0].effective_port)

    def run(self, application: Any, quick: Callable[[], bool]) -> None:
        """Serves until `stop`, then finishes open answers for two seconds at most and returns. `quick`:
        whether `QUICK_PATHS` are read from memory."""
        for listener in self._listeners:
            listener.application, listener.quick = application, quick
        self._dispatcher.set_thread_count(THREADS)
        while not self._stopping:
            wasyncore.loop(timeout=1.0, map=self._map, use_poll=True, count=1)
        channels = [item for item in self._map.values() if isinstance(item, _Channel)]
        for listener in self._listeners:
            listener.accepting = False
            listener.socket.close()
            listener.del_channel()
        deadline = time.monotonic() + 2.0
        while any(c.requests or c.total_outbufs_len for c in channels) and time.monotonic() < deadline:
            wasyncore.loop(timeout=0.05, map=self._map, use_poll=True, count=1)
        self._dispatcher.shutdown(timeout=2)
        with self._closing:
            self._closed = True
            wasyncore.close_all(self._map, ignore_all=True)

    def stop(self) -> None:
        """Sets a flag and wakes `run`. For signal handlers and other threads."""
        with self._closing:
            self._stopping = True
            if not self._closed:  # else the pipe's number may belong to another file
                self._listeners[0].pull_trigger()


def _allow_open_files(wanted: int) -> None:
    """Raises the soft limit, often 1,024 and too low for our connections, up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))

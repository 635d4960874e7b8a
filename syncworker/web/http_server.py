"""The HTTP server below the routes: waitress, with limits that keep one bad client from stopping the rest.

Set here: small headers and bodies, many connections (poll instead of select), no name of the software. Added
here, because waitress has none of it:
- a deadline for a request that comes in slowly: each byte resets waitress's own timeout, so one header line a
  second holds a connection for ever;
- a client that asks on and on and reads no answer is cut when 4 MB wait for it, and one that reads nothing of
  a waiting answer after half a minute: waitress would let each block a thread, for ever;
- near the limit of connections, those that say nothing are closed first;
- errors found while parsing look like all others (`problem_details.py`);
- after such an error the connection is closed only when the client has stopped sending (two seconds at most):
  closing at once would make the kernel throw away the answer that says why.

Handlers must return at once: there are eight threads.
"""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import threading
import time
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
THREADS = 8  # that answer
HEADER_SECONDS = 5.0
BODY_SECONDS = 20.0
LINGER_SECONDS = 2.0
UNREAD_SECONDS = 30.0
UNREAD_MAX_BYTES = 4 << 20  # of earlier answers, when the next one is begun; one answer may be longer
_TRANSFER_ENCODING = re.compile(rb"(?im)^transfer-encoding:[ \t]*([^\r\n]*?)[ \t]*\r?$")
_DETAILS = {
    400: "the request is not valid HTTP",
    413: f"the body is longer than {BODY_MAX_BYTES} bytes",
    431: f"the headers (the address included) are longer than {HEADER_MAX_BYTES} bytes",
    500: "something went wrong here: the server's log says what",
    501: "this transfer encoding is not supported",
}


class _Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        # What a proxy in front may read as another request than we do: both lengths in one request, an
        # encoding that is named twice or in a version that has none.
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
    lingers = False  # an error was answered: read on for a moment before closing
    lingering_since = 0.0
    receiving: Any = None  # the request that was coming in at the last look
    receiving_since = 0.0
    overfull = False
    unread = 0  # bytes of answers that waited for the client at the last look, and since when none has gone
    unread_since = 0.0

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Called before an answer is queued behind others. Waitress would block one of its few threads here
        until the client reads; we give the connection up, and `check` closes it."""
        if self.total_outbufs_len > UNREAD_MAX_BYTES:
            self.overfull = True
            self.connected = False  # nothing more is written, and no further request of it is begun

    def handle_close(self) -> None:
        if self.lingers and not self.lingering_since and self.connected:
            self.will_close = False
            self.lingering_since = time.time()
            with contextlib.suppress(OSError):  # gone already: the next read says so
                self.socket.shutdown(socket.SHUT_WR)
            return
        super().handle_close()

    def handle_read(self) -> None:
        if not self.lingering_since:
            super().handle_read()
            return
        try:
            data = self.recv(65536)  # closes the channel when the client has ended
        except OSError:
            data = b""
        if not data:
            self.will_close = True

    def check(self, now: float) -> None:
        """Closes the connection when its time is over."""
        if self.lingering_since:
            if now - self.lingering_since > LINGER_SECONDS:
                self.will_close = True
            return
        if self.overfull or self._is_stalled(now):
            # `will_close` is acted on when the socket can be written to, which this one never can.
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


class _Server(TcpWSGIServer):  # type: ignore[misc]
    channel_class = _Channel

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
    """Listens from construction on (OSError: the port is taken); `run` serves until `stop`."""

    def __init__(self, application: Any, host: str, port: int) -> None:
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
            clear_untrusted_proxy_headers=False,  # `forwarded` takes them, and takes them away
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
                    application, self._map, dispatcher=self._dispatcher, adj=adjustments, sockinfo=sockinfo
                )
                self._listeners.append(listener)
        except BaseException:
            wasyncore.close_all(self._map)
            raise
        self.port = int(self._listeners[0].effective_port)

    def run(self) -> None:
        """Serves until `stop`, then finishes open answers for two seconds at most and returns."""
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
        """For signal handlers and other threads: only a flag and a wake-up."""
        with self._closing:
            self._stopping = True
            if not self._closed:  # else the pipe is closed, and its number perhaps another file's
                self._listeners[0].pull_trigger()


def _allow_open_files(wanted: int) -> None:
    """Raises the soft limit, often 1,024 and too low for our connections, up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))

"""A recording HTTP proxy: what a client really sends to an S3 server, and a place to interfere.

The client is given the proxy's address as its `storage_url`. Every byte of request and answer is passed on
as it came (signatures cover the `Host` header, so it stays what the client wrote); only the connection is
another. Bodies are streamed, in both directions, and never held. Keep-alive, `Content-Length` and chunked
bodies, `Expect: 100-continue`, answers without a body (HEAD, 204, 304) and answers that end with the
connection are understood.

A *hook* (`on_request`) sees each request when its head has arrived and decides: `None` passes it on, an
`Answer` is sent instead (the server never hears of the request), a `Cut` ends the connection at a chosen
byte, a `Toxic` (`toxics.py`) lets it pass disturbed. A hook runs in the thread of its connection, so it may
wait: that request waits, the others go on. `refuse` and `listen` play a server that dies and comes back.

Not done: TLS, HTTP/2, pipelining, upgrades.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, unquote

from toxics import Flow, Toxic

_CHUNK = 64 * 1024
_HEAD_LIMIT = 256 * 1024
_KEPT_BODY = (
    2 * 1024 * 1024
)  # of POST requests (DeleteObjects, CompleteMultipartUpload), for a test to look at
_CONTINUE_SECONDS = 1.0  # how long a server may take to say 100; then the proxy says it
_IDLE_SECONDS = 120.0


class Target(Protocol):
    port: int


@dataclass(slots=True)
class Request:
    """One request as it passed. The last six fields are filled while it is being forwarded."""

    method: str
    target: str
    headers: dict[str, str]
    bucket: str
    key: str
    query: dict[str, str]
    kind: str
    started: float
    body_bytes: int = 0
    body: bytes = b""
    status: int | None = None
    answered: float | None = None
    finished: float | None = None
    flipped: bool = False  # a bit of its body or of its answer was turned on the way

    def note_answer(self, status: int) -> None:
        """The store has answered, and the answer has not gone on yet."""
        self.status, self.answered = status, time.monotonic()

    @property
    def part(self) -> int | None:
        number = self.query.get("partNumber")
        return int(number) if number and number.isdigit() else None


@dataclass(frozen=True, slots=True)
class Answer:
    """Sent to the client instead of the server's. `content_length=False` leaves the header out."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_length: bool = True
    close: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connection. With neither number: before anything was forwarded. `body_bytes`: after that much
    of the request's body reached the server. `answer_bytes`: the server did it all, and the client gets only
    so much of the answer (0: it never learns). `reset`: with RST and not FIN."""

    body_bytes: int | None = None
    answer_bytes: int | None = None
    reset: bool = True


Hook = Callable[[Request], Answer | Cut | Toxic | None]
_UNDISTURBED = Toxic()


class _CutNowError(Exception):
    pass


def s3_error(status: int, code: str, message: str = "made up by the test", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, {"Content-Type": "application/xml", **headers}, body.encode())


def kind_of(method: str, bucket: str, key: str, query: dict[str, str]) -> str:
    """The name of the S3 operation, LIST for both versions of listing, PUT/GET/HEAD/DELETE for an object."""
    for sub in (
        "versioning",
        "location",
        "policy",
        "object-lock",
        "lifecycle",
        "acl",
        "tagging",
        "encryption",
    ):
        if sub in query:
            return f"{method.title()}{'Object' if key else 'Bucket'}{sub.title()}"
    if not bucket:
        return "ListBuckets" if method == "GET" else method
    if not key:
        if method == "GET":
            if "uploads" in query:
                return "ListMultipartUploads"
            return "ListObjectVersions" if "versions" in query else "LIST"
        if method == "POST" and "delete" in query:
            return "DeleteObjects"
        names = {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}
        return names.get(method, method)
    if "uploads" in query and method == "POST":
        return "CreateMultipartUpload"
    if "uploadId" in query:
        names = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "GET": "ListParts"}
        return {**names, "DELETE": "AbortMultipartUpload"}.get(method, method)
    return method


class RecordingProxy:
    """Listens on a port of its own from the moment it is made; `close` ends it and every connection."""

    def __init__(self, store: Target) -> None:
        self._upstream_port = store.port
        self._hooks: list[Hook] = []
        self._requests: list[Request] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.closed = threading.Event()
        self.port = 0
        self.listen()
        self.url = f"http://127.0.0.1:{self.port}"

    # -- what it saw ------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[Request]:
        with self._lock:
            return list(self._requests)

    def reset(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._requests.clear()

    def of_kind(self, *kinds: str) -> list[Request]:
        return [request for request in self.requests if request.kind in kinds]

    def counts(self) -> Counter[tuple[str, str]]:
        """Requests by (method, kind)."""
        return Counter((request.method, request.kind) for request in self.requests)

    def kinds(self) -> Counter[str]:
        return Counter(request.kind for request in self.requests)

    def bytes_sent(self) -> Counter[tuple[str, int | None]]:
        """Bytes of body sent by key and part number (None: a single PUT), every try added up."""
        sent: Counter[tuple[str, int | None]] = Counter()
        for request in self.requests:
            if request.kind in ("PUT", "UploadPart"):
                sent[(request.key, request.part)] += request.body_bytes
        return sent

    # -- interfering ------------------------------------------------------------------------------------

    def on_request(self, hook: Hook) -> None:
        """Ask `hook` about every request from now on; the first hook that does not say None decides."""
        self._hooks.append(hook)

    def clear_hooks(self) -> None:
        self._hooks.clear()

    def refuse(self) -> None:
        """Nobody listens any more, and every connection ends: the server has died."""
        with self._lock:
            self._refuses = True
            sockets = [self._listener, *self._open]
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def listen(self) -> None:
        """Take connections, on the port there was before, if any: the server is back."""
        self._refuses = False
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), name="proxy", daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self.refuse()

    # -- connections ------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while not self.closed.is_set():
            try:
                sock, _address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), name="proxy-connection", daemon=True).start()

    @contextlib.contextmanager
    def _tracked(self, sock: socket.socket) -> Iterator[socket.socket]:
        with self._lock:
            self._open.add(sock)
            if self._refuses:  # accepted at the very moment
                sock.close()
        try:
            yield sock
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _serve(self, sock: socket.socket) -> None:
        with self._tracked(sock):
            upstream: _Connection | None = None
            try:
                client = _Connection(sock)  # closed already, if the proxy has ended meanwhile
                while not self.closed.is_set() and (head := client.read_head()):
                    if upstream is not None and upstream.has_ended():
                        upstream.close()
                        upstream = None
                    exchange = _Exchange(self, client, upstream, head)
                    keep = exchange.run()
                    upstream = exchange.upstream
                    if not keep:
                        break
            except _CutNowError:
                pass
            except OSError:  # either side went away: so does the other
                pass
            finally:
                if upstream is not None:
                    upstream.close()

    def _connect(self) -> _Connection:
        return _Connection(socket.create_connection(("127.0.0.1", self._upstream_port), timeout=10))

    def _decide(self, request: Request) -> Answer | Cut | Toxic | None:
        with self._lock:
            self._requests.append(request)
        for hook in list(self._hooks):
            decision = hook(request)
            if decision is not None:
                return decision
        return None


class _Connection:
    """A socket with a read buffer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        sock.settimeout(_IDLE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, most: int = _CHUNK) -> bytes:
        if self._buffer:
            data, self._buffer = self._buffer[:most], self._buffer[most:]
            return data
        return self.sock.recv(min(most, _CHUNK))

    def read_head(self) -> bytes:
        """Everything up to and with the empty line; b"" when the connection ended before."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            data = self.sock.recv(_CHUNK)
            if not data or len(self._buffer) > _HEAD_LIMIT:
                return b""
            self._buffer += data
        head, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
        return head

    def read_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            data = self.sock.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("ended within a chunked body")
            self._buffer += data
        line, self._buffer = self._buffer[: end + 1], self._buffer[end + 1 :]
        return line

    def readable(self, seconds: float = 0) -> bool:
        return bool(self._buffer) or bool(select.select([self.sock], [], [], seconds)[0])

    def has_ended(self) -> bool:
        """An idle connection that has something to read is one that the other side has closed."""
        return self.readable()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, proxy: RecordingProxy, client: _Connection, upstream: _Connection | None, head: bytes
    ) -> None:
        self.proxy, self.client, self.upstream, self.head = proxy, client, upstream, head
        method, target, self.version = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        self.headers = _headers(head)
        path, _, query_text = target.partition("?")
        bucket, _, key = path.lstrip("/").partition("/")
        query = dict(parse_qsl(query_text, keep_blank_values=True))
        key = unquote(key)
        kind = kind_of(method, bucket, key, query)
        copies = {"PUT": "CopyObject", "UploadPart": "UploadPartCopy"}
        self.request = Request(
            method,
            target,
            self.headers,
            bucket,
            key,
            query,
            copies.get(kind, kind) if "x-amz-copy-source" in self.headers else kind,
            time.monotonic(),
        )
        self.cut: Cut | None = None
        self.toxic = _UNDISTURBED
        self._continue_sent = False

    def run(self) -> bool:
        """Do it; True when the client's connection may carry another request."""
        decision = self.proxy._decide(self.request)
        try:
            if isinstance(decision, Answer):
                return self._answer(decision)
            if isinstance(decision, Cut):
                self.cut = decision
                if decision.body_bytes is None and decision.answer_bytes is None:
                    self._cut_now()
            if isinstance(decision, Toxic):
                self.toxic = decision
            keep = self._forward()
            time.sleep(self.toxic.slow_close_seconds)
            return keep and not self.toxic.slow_close_seconds
        finally:
            self.request.finished = time.monotonic()

    # -- the request ------------------------------------------------------------------------------------

    def _body(self) -> Iterator[tuple[bytes, int]]:
        """The body as it stands on the wire: (raw bytes, how many of them are payload)."""
        yield from _framed(self.client, self.headers, none_without_length=True)

    def _answer(self, answer: Answer) -> bool:
        expects = "100-continue" in self.headers.get("expect", "").lower()
        if not expects:
            for _raw, payload in self._body():
                self.request.body_bytes += payload
        lines = [f"HTTP/1.1 {answer.status} Made-Up"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.content_length and "content-length" not in {name.lower() for name in answer.headers}:
            lines.append(f"Content-Length: {len(answer.body)}")
        close = answer.close or expects or not answer.content_length
        lines.append("Connection: close" if close else "Connection: keep-alive")
        body = b"" if self.request.method == "HEAD" else answer.body
        self.request.note_answer(answer.status)
        self.client.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        return not close

    def _forward(self) -> bool:
        if self.upstream is None:
            self.upstream = self.proxy._connect()
        self.upstream.send(self.head)
        early = False
        if "100-continue" in self.headers.get("expect", "").lower():
            early = not self._invited()
        whole = not early and self._send_body()
        keep = self._relay_answer()
        if not whole:  # the server answered before the end of the body: the rest would be read as a request
            self._drain_client()
            return False
        return keep

    def _invited(self) -> bool:
        """Whether the client may send its body: the server says so, or says nothing for a while."""
        assert self.upstream is not None
        if self.upstream.readable(_CONTINUE_SECONDS):
            head = self.upstream.read_head()
            if not re.match(rb"HTTP/1\.[01] 100\b", head):
                self.upstream._buffer = head + self.upstream._buffer
                return False
        self.client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._continue_sent = True
        return True

    def _send_body(self) -> bool:
        """Pass the body on; False when the server answered or went away before its end."""
        assert self.upstream is not None
        request = self.request
        limit = self.cut.body_bytes if self.cut else None
        flow = Flow(self.toxic, self.upstream.send, self.toxic.flip_body)
        if limit == 0:
            self._cut_now()
        for number, (raw, payload) in enumerate(self._body()):
            # Asked before a piece, never after the last one: then an answer is in its time.
            if number and self.upstream.readable() and not self._is_only_continue():
                return False
            if limit is not None and request.body_bytes + payload > limit:
                keep = raw[: max(0, limit - request.body_bytes)]
                self.upstream.send(keep)
                request.body_bytes += len(keep)
                self._cut_now()
            try:
                flow.pass_on(raw, payload)
            except OSError:
                return False
            request.body_bytes += payload
            request.flipped |= flow.flipped
            if payload and request.method == "POST" and len(request.body) < _KEPT_BODY:
                request.body += raw[:payload]
        if limit is not None:
            self._cut_now()
        return True

    def _is_only_continue(self) -> bool:
        """Swallow a late `100 Continue`; anything else stays in the buffer."""
        assert self.upstream is not None
        head = self.upstream.read_head()
        if re.match(rb"HTTP/1\.[01] 1\d\d\b", head):
            return True
        self.upstream._buffer = head + self.upstream._buffer
        return False

    def _drain_client(self) -> None:
        """Let the client finish, so that it reads the answer and not a reset."""
        with contextlib.suppress(OSError):
            self.client.sock.shutdown(socket.SHUT_WR)
            self.client.sock.settimeout(2)
            while self.client.read():
                pass

    # -- the answer -------------------------------------------------------------------------------------

    def _relay_answer(self) -> bool:
        assert self.upstream is not None
        while True:
            head = self.upstream.read_head()
            if not head:
                raise ConnectionResetError("the server ended the connection without an answer")
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                break
            if not self._continue_sent:
                self.client.send(head)
        headers = _headers(head)
        self.request.note_answer(status)
        bodiless = self.request.method == "HEAD" or status in (204, 304)
        pieces = iter(()) if bodiless else _framed(self.upstream, headers, none_without_length=False)
        time.sleep(self.toxic.delay())
        flow = Flow(self.toxic, self._send_answer, self.toxic.flip_answer, self.toxic.stall_at)
        if self.toxic.edit is not None:
            flow.pass_on(self.toxic.edit(head, b"".join(raw for raw, _payload in pieces)), 0)
        else:
            flow.pass_on(head, 0)
            for raw, payload in pieces:
                flow.pass_on(raw, payload)
        self.request.flipped |= flow.flipped
        if self.cut is not None and self.cut.answer_bytes is not None:
            self._cut_now()
        framed = bodiless or "content-length" in headers or "chunked" in headers.get("transfer-encoding", "")
        keep = framed and _keeps_open(head, headers) and _keeps_open(self.head, self.headers)
        if not keep:
            self.upstream.close()
            self.upstream = None
        return keep

    def _send_answer(self, data: bytes) -> None:
        limit = self.cut.answer_bytes if self.cut else None
        if limit is None:
            self.client.send(data)
            return
        self._answered = getattr(self, "_answered", 0)
        self.client.send(data[: max(0, limit - self._answered)])
        self._answered += len(data)

    def _cut_now(self) -> None:
        assert self.cut is not None
        if self.cut.reset:
            self.client.reset()
            if self.upstream is not None:
                self.upstream.reset()
        raise _CutNowError


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip().lower()] = value.strip()
    return found


def _keeps_open(head: bytes, headers: dict[str, str]) -> bool:
    connection = headers.get("connection", "").lower()
    first = head.split(b"\r\n", 1)[0]
    return "close" not in connection and (b"HTTP/1.1" in first or "keep-alive" in connection)


def _framed(
    source: _Connection, headers: dict[str, str], *, none_without_length: bool
) -> Iterator[tuple[bytes, int]]:
    """A message body piece by piece, with its framing: (bytes as on the wire, how many are payload)."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        while True:
            line = source.read_line()
            size = int(line.split(b";")[0], 16)
            yield line, 0
            if size == 0:
                while (trailer := source.read_line()) not in (b"\r\n", b"\n"):
                    yield trailer, 0
                yield trailer, 0
                return
            yield from _exactly(source, size)
            yield source.read_line(), 0
    elif "content-length" in headers:
        yield from _exactly(source, int(headers["content-length"]))
    elif not none_without_length:
        while data := source.read():
            yield data, len(data)


def _exactly(source: _Connection, size: int) -> Iterator[tuple[bytes, int]]:
    while size:
        data = source.read(size)
        if not data:
            raise ConnectionResetError("ended within a body")
        size -= len(data)
        yield data, len(data)

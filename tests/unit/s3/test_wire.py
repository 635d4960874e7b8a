"""The transport against servers that do what servers do: well, slowly, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncworker.errors import FatalError, RetryError
from syncworker.wire import connection, pool, resolver
from syncworker.wire import proxy as proxies
from syncworker.wire.body import FileSlice
from syncworker.wire.connection import Response
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.pool import ConnectionPool, Limits

QUICK = Limits(connect_seconds=1.0, idle_seconds=0.5)
PATIENT = Limits(connect_seconds=5.0, idle_seconds=20.0)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 1 << 20


class Peer:
    """One accepted connection, as a script uses it."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock, self.number = sock, number
        self._buffer = b""

    def head(self) -> bytes:
        """The next request's head; b"" when the client has gone."""
        while b"\r\n\r\n" not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                return b""
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    def body(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.sock.recv(1 << 20)
            if not data:
                break
            self._buffer += data
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return body

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait_closed(self) -> None:
        """Until the client closes its side, whatever it sends before."""
        with contextlib.suppress(OSError):
            while self.sock.recv(1 << 20):
                pass

    def reset(self) -> None:
        """Close at once, with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


Script = Callable[[Peer], None]


class Server:
    """Runs a script for each connection, in a thread of its own."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.peers: list[Peer] = []
        self.problems: list[BaseException] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        return len(self.peers)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            peer = Peer(sock, len(self.peers))
            self.peers.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: Peer) -> None:
        try:
            self._script(peer)
        except OSError:
            pass  # the client has gone
        except BaseException as error:
            self.problems.append(error)
        finally:
            peer.sock.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        assert self.problems == []


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Server]]:
    made: list[Server] = []

    def make(script: Script) -> Server:
        made.append(Server(script))
        return made[-1]

    yield make
    for server in made:
        server.close()


def answers(*replies: bytes) -> Script:
    """Each request of a connection gets the next of these, then the connection is left open."""

    def script(peer: Peer) -> None:
        for reply in replies:
            if not peer.head():
                return
            peer.send(reply)
        peer.wait_closed()

    return script


def always(reply: bytes) -> Script:
    def script(peer: Peer) -> None:
        while peer.head():
            peer.send(reply)

    return script


Ask = Callable[..., Any]


def talk(server: Server | int, limits: Limits, *asks: tuple[str, Any] | str, **options: Any) -> list[Any]:
    """Sends the requests one after the other; answers and errors in order. Bounded itself."""
    port = server if isinstance(server, int) else server.port

    async def run() -> list[Any]:
        found: list[Any] = []
        async with ConnectionPool(
            Endpoint.of(f"http://127.0.0.1:{port}", "us-east-1"), None, limits
        ) as connections:
            for ask in asks:
                method, body = (ask, b"") if isinstance(ask, str) else ask
                found.append(await exchange(connections, method, body, **options))
        return found

    return asyncio.run(asyncio.wait_for(run(), 30))


def pool_to(port: int, limits: Limits = PATIENT) -> ConnectionPool:
    return ConnectionPool(Endpoint.of(f"http://127.0.0.1:{port}", "us-east-1"), None, limits)


async def exchange(connections: ConnectionPool, method: str, body: Any = b"", **options: Any) -> Any:
    size = len(body) if isinstance(body, bytes) else body.size
    head = f"{method} /k HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
    try:
        return await connections.exchange("127.0.0.1", method, head, body, **options)
    except (RetryError, FatalError) as error:
        return error


def one(
    server: Server | int, limits: Limits = PATIENT, method: str = "GET", body: Any = b"", **options: Any
) -> Any:
    return talk(server, limits, (method, body), **options)[0]


def codes(found: list[Any]) -> list[Any]:
    return [f.status if isinstance(f, Response) else f.code for f in found]


# -- answers as they should be


def test_an_answer_comes_whole_with_its_headers(serve: Callable[[Script], Server]) -> None:
    server = serve(
        always(b'HTTP/1.1 201 Made\r\nETag: "Ab"\r\nX-AMZ-Meta-M: \xe9\r\nContent-Length: 3\r\n\r\nabc')
    )
    found = one(server)
    assert (found.status, found.body) == (201, b"abc")
    assert found.headers["etag"] == '"Ab"'
    assert found.headers["x-amz-meta-m"] == "\u00e9"


@pytest.mark.parametrize("pause", [0, 3])
def test_a_chunked_answer_is_put_together_however_it_is_cut(
    serve: Callable[[Script], Server], pause: int
) -> None:
    body = b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body

    def script(peer: Peer) -> None:
        while peer.head():
            for at in range(0, len(reply), pause or len(reply)):
                peer.send(reply[at : at + (pause or len(reply))])

    found = talk(serve(script), PATIENT, "GET", "GET")
    assert [f.body for f in found] == [b"abcde"] * 2


def test_connections_are_kept_and_used_again(serve: Callable[[Script], Server]) -> None:
    server = serve(always(OK))
    found = talk(server, PATIENT, *["GET"] * 50)
    assert codes(found) == [200] * 50
    assert server.connections == 1


ODD_ANSWERS: dict[bytes, tuple[int, dict[str, str], bytes]] = {
    b"HTTP/1.1 200 OK\r\nETag: a\r\nX-Only: 1\r\nContent-Length: 2\r\n\r\nok": (200, {"etag": "a"}, b"ok"),
    b"HTTP/1.1 100 Continue\r\nETag: early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": (
        200,
        {},
        b"",
    ),
    b"HTTP/1.1 204 None\r\nX-Deleted: 1\r\n\r\n": (204, {"x-deleted": "1"}, b""),
    b"HTTP/1.1 304 Same\r\nETag: b\r\n\r\n": (304, {"etag": "b"}, b""),
    b"HTTP/1.1 404 None\r\nContent-Length: 3\r\n\r\nNo!": (404, {}, b"No!"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nETag: after\r\n\r\n": (
        200,
        {"etag": "after"},
        b"ok",
    ),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": (200, {}, b""),
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nX-Empty:\r\nContent-Length: 1\r\n\r\nz": (
        200,
        {"x-empty": ""},
        b"z",
    ),
}


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_of_an_answer_shows_in_the_next_one(serve: Callable[[Script], Server], whole: bool) -> None:
    """Each answer follows each other one on one connection."""
    order = [reply for first in ODD_ANSWERS for second in ODD_ANSWERS for reply in (first, second)]
    left = list(order)

    def script(peer: Peer) -> None:
        while peer.head():
            reply = left.pop(0)
            for piece in (reply,) if whole else (reply[:20], reply[20:-1], reply[-1:]):
                peer.send(piece)

    server = serve(script)
    found = talk(server, PATIENT, *["GET"] * len(order))
    framing = {"content-length", "transfer-encoding", "connection", "x-only"}
    for reply, answer in zip(order, found, strict=True):
        headers = {name: value for name, value in answer.headers.items() if name not in framing}
        assert (answer.status, headers, answer.body) == ODD_ANSWERS[reply]
        assert ("x-only" in answer.headers) == (b"X-Only" in reply)
    assert server.connections == 1


def test_there_are_as_many_connections_as_exchanges_at_the_same_time(
    serve: Callable[[Script], Server],
) -> None:
    server = serve(always(OK))

    async def run() -> None:
        async with ConnectionPool(
            Endpoint.of(f"http://127.0.0.1:{server.port}", "us-east-1"), None
        ) as connections:
            for _ in range(3):
                found = await asyncio.gather(*(exchange(connections, "GET") for _ in range(8)))
                assert codes(found) == [200] * 8

    asyncio.run(run())
    assert server.connections == 8


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_a_connection_that_the_store_will_close_is_not_used_again(
    serve: Callable[[Script], Server], reply: bytes
) -> None:
    server = serve(always(reply))
    assert codes(talk(server, PATIENT, "GET", "GET")) == [200, 200]
    assert server.connections == 2


def test_an_answer_to_head_has_no_body_whatever_its_content_length(serve: Callable[[Script], Server]) -> None:
    replies = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n",
        b"HTTP/1.1 404 None\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 None\r\n\r\n",
        OK,
    ]

    def script(peer: Peer) -> None:
        while peer.head():
            peer.send(replies.pop(0))

    server = serve(script)
    found = talk(server, QUICK, "HEAD", "HEAD", "HEAD", "DELETE", "GET")
    assert codes(found) == [200, 404, 200, 204, 200]
    assert found[0].headers["content-length"] == "5000000"
    assert found[4].body == b"ok"
    assert server.connections == 3  # after what announces a body, one may come


@pytest.mark.parametrize("method", ["PUT", "HEAD"])
def test_a_hundred_continue_is_not_taken_for_the_answer(
    serve: Callable[[Script], Server], method: str
) -> None:
    interim = b"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Final: 1\r\n\r\n"
    server = serve(always(interim + final))
    found = talk(server, QUICK, method, method)
    assert codes(found) == [200, 200]
    assert "x-final" in found[0].headers
    assert "x-interim" not in found[0].headers
    assert server.connections == 1


def test_a_redirect_is_an_answer_and_is_not_followed(serve: Callable[[Script], Server]) -> None:
    elsewhere = serve(always(OK))
    target = f"http://127.0.0.1:{elsewhere.port}/".encode()
    for status in (b"301", b"302", b"307", b"308"):
        server = serve(
            always(b"HTTP/1.1 %s R\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, target))
        )
        assert one(server).status == int(status)
    assert elsewhere.connections == 0


# -- bodies


def put_reader(size: int, seen: list[bytes]) -> Script:
    def script(peer: Peer) -> None:
        while peer.head():
            seen.append(peer.body(size))
            peer.send(OK)

    return script


@pytest.mark.parametrize("size", [0, 1, 256 << 10, (256 << 10) + 1, 5 * MIB + 17])
def test_a_body_arrives_as_it_is(serve: Callable[[Script], Server], size: int) -> None:
    data, seen = os.urandom(size), []
    server = serve(put_reader(size, seen))
    with tempfile.TemporaryFile() as file:
        file.write(b"before" + data + b"after")
        file.flush()
        piece = FileSlice(file.fileno(), 6, size)
        assert codes(talk(server, PATIENT, ("PUT", data), ("PUT", piece))) == [200, 200]
    assert seen == [data, data]
    assert server.connections == 1


@pytest.mark.parametrize("why", [errno.EINVAL, errno.ENOSYS, errno.ENOBUFS])
def test_a_file_that_the_kernel_does_not_send_is_read(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    def sendfile(*_: int) -> int:
        raise OSError(why, "not of this file system")

    data, seen = os.urandom(3 * MIB + 5), []
    server = serve(put_reader(len(data), seen))
    monkeypatch.setattr(os, "sendfile", sendfile)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        piece = FileSlice(file.fileno(), 0, len(data))
        assert codes(talk(server, PATIENT, ("PUT", piece), ("PUT", piece))) == [200, 200]
    assert seen == [data, data]


@pytest.mark.parametrize("rate", [0, 4 * MIB])
def test_the_kernel_sends_a_file_unless_a_bandwidth_is_kept(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    sent, real, seen = [], os.sendfile, []

    def sendfile(out: int, file: int, offset: int, count: int) -> int:
        sent.append(real(out, file, offset, count))
        return sent[-1]

    data = os.urandom(2 * MIB + 1)
    monkeypatch.setattr(os, "sendfile", sendfile)
    server = serve(put_reader(len(data), seen))
    endpoint = Endpoint.of(f"http://127.0.0.1:{server.port}", "us-east-1")

    async def run(fd: int) -> None:
        async with ConnectionPool(endpoint, None) as connections:
            connections.bandwidth.own, connections.bandwidth.on = rate, bool(rate)
            assert (await exchange(connections, "PUT", FileSlice(fd, 0, len(data)))).status == 200

    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        asyncio.run(asyncio.wait_for(run(file.fileno()), 20))
    assert seen == [data]
    assert sum(sent) == (0 if rate else len(data))


def test_a_disk_that_cannot_read_ends_the_exchange(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fails)
    monkeypatch.setattr(os, "sendfile", fails)
    server = serve(put_reader(MIB, []))

    async def run(fd: int) -> None:
        endpoint = Endpoint.of(f"http://127.0.0.1:{server.port}", "us-east-1")
        async with ConnectionPool(endpoint, None) as connections:
            with pytest.raises(OSError, match="Input/output"):
                await exchange(connections, "PUT", FileSlice(fd, 0, MIB))
            assert (await exchange(connections, "PUT", b"x" * MIB)).status == 200

    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), MIB)
        asyncio.run(asyncio.wait_for(run(file.fileno()), 20))
    assert server.connections == 2, "a half-sent request's connection was used again"


def test_a_file_that_becomes_shorter_while_it_is_sent_ends_the_exchange(
    serve: Callable[[Script], Server],
) -> None:
    seen: list[bytes] = []
    server = serve(put_reader(MIB, seen))

    async def run(fd: int) -> None:
        async with ConnectionPool(
            Endpoint.of(f"http://127.0.0.1:{server.port}", "us-east-1"), None
        ) as connections:
            with pytest.raises(EOFError):
                await exchange(connections, "PUT", FileSlice(fd, 0, MIB))
            assert (await exchange(connections, "PUT", b"x" * MIB)).status == 200

    with tempfile.TemporaryFile() as file:
        file.write(b"x" * (MIB - 1))
        file.flush()
        asyncio.run(asyncio.wait_for(run(file.fileno()), 20))
    assert b"x" * MIB in seen
    assert server.connections == 2, "a half-sent request's connection was used again"


REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("after", ["reads no more and stays", "reads all and stays", "closes its half"])
def test_a_refusal_while_the_body_is_being_sent_is_the_answer(
    serve: Callable[[Script], Server], after: str
) -> None:
    done = threading.Event()

    def script(peer: Peer) -> None:
        head = peer.head()
        if b"PUT" not in head:
            peer.send(OK)
            return
        peer.body(1000)
        peer.send(REFUSAL)
        if after == "reads no more and stays":
            done.wait(20)
        elif after == "reads all and stays":
            peer.wait_closed()
        else:
            peer.sock.shutdown(socket.SHUT_WR)
            peer.wait_closed()

    server = serve(script)
    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), 256 * MIB)
        started = time.monotonic()
        try:
            found = talk(server, PATIENT, ("PUT", FileSlice(file.fileno(), 0, 256 * MIB)), "GET")
        finally:
            done.set()
    assert codes(found) == [403, 200]
    assert time.monotonic() - started < 5
    assert server.connections == 2, "what is left of a body must never be sent into the next request"


def test_a_connection_that_is_reset_after_an_early_refusal_is_not_used_again(
    serve: Callable[[Script], Server],
) -> None:
    """The kernel tells of the reset before the refusal has been read."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.sock.recv(1000)
        peer.send(REFUSAL)
        peer.reset()

    server = serve(script)

    async def run(fd: int) -> None:
        endpoint = Endpoint.of(f"http://127.0.0.1:{server.port}", "us-east-1")
        async with ConnectionPool(endpoint, None) as connections:
            for _ in range(50):
                with contextlib.suppress(RetryError):
                    await exchange(connections, "PUT", FileSlice(fd, 0, 16 * MIB))
                assert not any(connections._idle.values())

    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), 16 * MIB)
        asyncio.run(asyncio.wait_for(run(file.fileno()), 60))


def test_a_storage_that_takes_all_at_once_keeps_the_loop_from_nothing_else(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0

    def sendfile(_out: int, _file: int, _offset: int, count: int) -> int:
        nonlocal sent
        sent += 1
        time.sleep(0.02)
        return count

    monkeypatch.setattr(os, "sendfile", sendfile)
    server = serve(lambda peer: peer.wait_closed())
    at_once: list[int] = []  # pieces between two turns of the loop

    async def run(fd: int) -> None:
        endpoint = Endpoint.of(f"http://127.0.0.1:{server.port}", "us-east-1")
        async with ConnectionPool(endpoint, None) as connections:
            sending = asyncio.create_task(exchange(connections, "PUT", FileSlice(fd, 0, 20 * MIB)))
            while sent < 10:
                before = sent
                await asyncio.sleep(0)
                at_once.append(sent - before)
            sending.cancel()

    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), 20 * MIB)
        asyncio.run(asyncio.wait_for(run(file.fileno()), 20))
    assert max(at_once) <= 2


def test_a_connection_that_has_bytes_left_to_send_is_not_used_again(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal may come when the last piece waits in the transport, whose memory the next part will use."""
    server = serve(put_reader(MIB, []))
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    monkeypatch.setattr(transport, "get_write_buffer_size", lambda _: 1)
    assert codes(talk(server, PATIENT, ("PUT", b"x" * MIB), ("PUT", b"y" * MIB))) == [200, 200]
    assert server.connections == 2


def test_a_body_is_not_read_to_its_end_when_the_connection_is_lost(
    serve: Callable[[Script], Server], caplog: pytest.LogCaptureFixture
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.reset()

    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), 64 * MIB)
        found = one(serve(script), PATIENT, "PUT", FileSlice(file.fileno(), 0, 64 * MIB))
    assert found.code == "ConnectionLost"
    assert caplog.messages == [], "asyncio warns of each piece that is sent into a lost connection"


# -- answers as they should not be


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nup to the end, wherever that is",
    ],
)
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_an_answer_that_is_cut_short_is_no_answer(
    serve: Callable[[Script], Server], reply: bytes, how: str
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(reply)
        if how == "resets":
            peer.reset()

    server = serve(script)
    found = one(server)
    assert isinstance(found, RetryError)
    assert found.code == "ConnectionLost"
    assert server.connections == 1, "it may have reached the store: trying again is not for this layer"


def test_a_refusal_may_end_with_the_connection(serve: Callable[[Script], Server]) -> None:
    """As the error pages of old proxies do, and Go's answer to http where https is spoken."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")

    found = one(serve(script))
    assert found.status == 400
    assert b"HTTPS" in found.body


GARBAGE = [
    b"\x00\x01\x02\x03" * 100,
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x15\x03\x01\x00\x02\x02\x16",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello",
    b"<html>not even a status line</html>\r\n\r\n",
]


@pytest.mark.parametrize("reply", GARBAGE)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_garbage_is_reported_soon_and_as_garbage(
    serve: Callable[[Script], Server], reply: bytes, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(reply)
        peer.wait_closed()

    server = serve(script)
    found = one(server, QUICK, method)
    # A HEAD has no body: what its headers say of one cannot be wrong.
    assert isinstance(found, RetryError) or ((method == "HEAD" and b"-Length: 5" in reply) or b"zz" in reply)
    assert not caplog.records, caplog.text


@pytest.mark.parametrize("gap", [False, True])
def test_a_second_answer_to_one_request_is_never_the_next_ones(
    serve: Callable[[Script], Server], gap: bool
) -> None:
    extra = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nWRONG"
    sent = threading.Event()

    def script(peer: Peer) -> None:
        if peer.number:
            return always(OK)(peer)
        peer.head()
        peer.send(OK if gap else OK + extra)
        if gap:
            sent.wait(10)
            peer.send(extra)
        peer.wait_closed()
        return None

    server = serve(script)

    async def run() -> list[Any]:
        async with ConnectionPool(
            Endpoint.of(f"http://127.0.0.1:{server.port}", "us-east-1"), None
        ) as connections:
            first = await exchange(connections, "GET")
            sent.set()
            while gap and not server.peers[0].sock._closed:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
            return [first, *[await exchange(connections, "GET") for _ in range(3)]]

    found = asyncio.run(asyncio.wait_for(run(), 20))
    assert [f.body for f in found] == [b"ok"] * 4
    assert server.connections == 2


def test_a_head_that_comes_with_a_body_does_not_spoil_the_next_answer(
    serve: Callable[[Script], Server],
) -> None:
    server = serve(always(b"HTTP/1.1 404 None\r\nContent-Length: 9\r\n\r\nHTTP/1.1 "))
    found = talk(server, QUICK, "HEAD", "HEAD", "HEAD")
    assert codes(found) == [404] * 3
    assert [f.body for f in found] == [b""] * 3


@pytest.mark.parametrize(
    ("method", "line"),
    [("HEAD", "200 OK"), ("HEAD", "404 None"), ("DELETE", "204 None"), ("GET", "304 Same")],
)
def test_a_body_that_must_not_come_and_comes_late_is_never_the_next_ones_answer(
    serve: Callable[[Script], Server], method: str, line: str
) -> None:
    """It comes when the next request is there already: nothing tells it from that one's answer."""
    body = b'HTTP/1.1 200 OK\r\nETag: "WRONG"\r\nContent-Length: 0\r\n\r\n'

    def script(peer: Peer) -> None:
        if peer.number == 0 and peer.head():
            peer.send(f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            peer.head()
            peer.send(body)
        while peer.head():
            peer.send(OK)

    first, second = talk(serve(script), PATIENT, method, "PUT")
    assert (first.status, first.body) == (int(line[:3]), b"")
    assert (second.body, second.headers.get("etag")) == (b"ok", None)


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (b"HTTP/1.1 200 OK\r\n" + b"X-H: %s\r\n" % (b"h" * 1000) * 100 + b"\r\n", "headers"),
        (b"HTTP/1.1 200 OK\r\nX-H: " + b"h" * (1 << 20), "headers"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
            + b"X-H: %s\r\n" % (b"h" * 1000) * 70
            + b"\r\n",
            "headers",
        ),
        (b"HTTP/1.1 200 " + b"h" * (1 << 20), ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000, "larger"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + b"x" * 5000, "larger"),
    ],
)
def test_an_answer_that_is_too_large_is_dropped(
    serve: Callable[[Script], Server], reply: bytes, word: str
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(reply)
        peer.wait_closed()

    found = one(serve(script), QUICK, max_body=4999)
    assert isinstance(found, RetryError)
    assert word in found.message


def test_headers_that_never_end_take_no_memory(serve: Callable[[Script], Server]) -> None:
    sent = 0

    def script(peer: Peer) -> None:
        nonlocal sent
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nX: ")
        while sent < 64 * MIB:
            peer.send(b"h" * 65536)
            sent += 65536

    found = one(serve(script))
    assert isinstance(found, RetryError)
    assert sent < 16 * MIB


# -- silence


SILENCES = {
    "says nothing": b"",
    "stops in the headers": b"HTTP/1.1 200 OK\r\n",
    "stops in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
    "continues and stops": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("kind", SILENCES)
def test_a_request_to_a_store_that_falls_silent_times_out(
    serve: Callable[[Script], Server], kind: str
) -> None:
    started = time.monotonic()
    found = one(serve(answers(SILENCES[kind])), QUICK)
    assert isinstance(found, RetryError)
    assert found.code == "Timeout"
    assert 0.4 < time.monotonic() - started < 3


def test_a_request_to_a_store_that_does_not_read_times_out(serve: Callable[[Script], Server]) -> None:
    hold = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        hold.wait(20)

    server = serve(script)
    try:
        found = one(server, QUICK, "PUT", b"x" * (32 * MIB))
    finally:
        hold.set()
    assert isinstance(found, RetryError)
    assert found.code == "Timeout"


def test_a_store_that_is_slow_but_moves_is_waited_for(serve: Callable[[Script], Server]) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx":
            peer.send(bytes([byte]))
            threading.Event().wait(0.05)

    assert one(serve(script), QUICK).body == b"x"


def test_the_body_of_a_slow_reader_is_progress(serve: Callable[[Script], Server]) -> None:
    """All of the body is in this side's kernel long before the other side has it."""

    def script(peer: Peer) -> None:
        peer.head()
        for _ in range(32):
            peer.body(32 << 10)
            threading.Event().wait(0.05)
        peer.send(OK)

    server = serve(script)
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
    assert one(server, QUICK, "PUT", b"x" * MIB).status == 200


KILLED = """
import asyncio, os, sys
from test_wire import exchange, pool_to

async def run():
    async with pool_to(int(sys.argv[1])) as connections:
        asyncio.create_task(exchange(connections, "PUT", b"x" * (1 << 20)))
        await asyncio.sleep(1.0)
        os.kill(os.getpid(), 9)

asyncio.run(run())
"""


@pytest.mark.parametrize("how", ["the exchange is ended", "the process is killed"])
def test_what_has_not_left_when_an_exchange_ends_never_arrives(
    serve: Callable[[Script], Server], how: str
) -> None:
    """All of the body is in this side's kernel, which would send it for as long as a slow line takes: old
    content, after others have sent newer content, and after deletions have begun."""
    ended, arrived = threading.Event(), []

    def script(peer: Peer) -> None:
        peer.head()
        ended.wait(20)
        arrived.append(0)
        while data := peer.sock.recv(1 << 20):
            arrived[0] += len(data)

    server = serve(script)
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)

    async def run() -> None:
        async with pool_to(server.port) as connections:
            task = asyncio.create_task(exchange(connections, "PUT", b"x" * MIB))
            await asyncio.sleep(0.2)
            connections.close()
            await task

    if how == "the exchange is ended":
        asyncio.run(asyncio.wait_for(run(), 20))
    else:
        path = os.pathsep.join(sys.path)
        argv = [sys.executable, "-c", KILLED, str(server.port)]
        assert subprocess.run(argv, env={**os.environ, "PYTHONPATH": path}, check=False).returncode == -9
    ended.set()
    until = time.monotonic() + 10
    while server.peers[0].sock.fileno() >= 0 and time.monotonic() < until:
        time.sleep(0.01)
    assert arrived
    assert arrived[0] < MIB // 2


def stopping(server: Server, method: str, *, writes: bool, settles: bool = False) -> Any:
    """What becomes of an exchange that is under way when its job is to stop."""

    async def run() -> Any:
        async with ConnectionPool(
            Endpoint.of(f"http://127.0.0.1:{server.port}", "us-east-1"), None
        ) as connections:
            task = asyncio.create_task(exchange(connections, method, b"x" * MIB, settles=settles))
            while not any(connection.is_busy() for connection in connections._all):
                await asyncio.sleep(0.01)
            while not task.done():
                connections.give_up(writes=writes)
                await asyncio.sleep(0.02)
            return task.result()

    return asyncio.run(asyncio.wait_for(run(), 20))


def in_a_second(peer: Peer) -> None:
    peer.head()
    peer.body(MIB)
    threading.Event().wait(1.0)
    peer.send(OK)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_stop_ends_what_only_reads_at_once(method: str, serve: Callable[[Script], Server]) -> None:
    assert stopping(serve(in_a_second), method, writes=False).code == "Dropped"


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_a_stop_lets_what_writes_end(method: str, serve: Callable[[Script], Server]) -> None:
    assert stopping(serve(in_a_second), method, writes=False).status == 200
    assert stopping(serve(in_a_second), method, writes=True).code == "Dropped"


def test_a_stop_lets_the_check_of_a_write_end(serve: Callable[[Script], Server]) -> None:
    assert stopping(serve(in_a_second), "GET", writes=False, settles=True).status == 200
    assert stopping(serve(in_a_second), "GET", writes=True, settles=True).code == "Dropped"


def test_nothing_is_retried_after_a_stop(serve: Callable[[Script], Server]) -> None:
    """A server that closes a connection while it lies idle gets the request again; not when all is to end."""
    asked: list[bytes] = []

    def script(peer: Peer) -> None:
        asked.append(peer.head())
        peer.send(OK)
        asked.append(peer.head())  # and no answer

    server = serve(script)

    async def run() -> Any:
        async with ConnectionPool(
            Endpoint.of(f"http://127.0.0.1:{server.port}", "us-east-1"), None
        ) as connections:
            await exchange(connections, "PUT")
            connections.give_up(writes=False)
            return await exchange(connections, "PUT")

    assert asyncio.run(asyncio.wait_for(run(), 20)).code == "ConnectionLost"
    assert len(asked) == 2


def test_a_connection_that_does_not_come_about_does_not_hold_up_a_job_that_is_to_stop() -> None:
    async def run() -> Any:
        async with ConnectionPool(Endpoint.of("http://127.0.0.1:1", "us-east-1"), None) as connections:
            never = asyncio.get_running_loop().create_future()
            connections._open = lambda _: never  # type: ignore[assignment,method-assign]
            task = asyncio.create_task(exchange(connections, "GET"))
            while not task.done():
                connections.give_up(writes=False)
                await asyncio.sleep(0.02)
            return task.result()

    assert asyncio.run(asyncio.wait_for(run(), 5)).code == "ConnectTimeout"


BLANKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def dripping(peer: Peer, head: bytes, drop: bytes, count: int) -> None:
    peer.head()
    peer.send(head)
    for _ in range(count):
        peer.send(drop)
        threading.Event().wait(0.05)


def test_a_trickle_is_a_silence(serve: Callable[[Script], Server]) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"
    server = serve(lambda peer: dripping(peer, head, b"x", 400))
    started = time.monotonic()
    found = one(server, Limits(1.0, 0.5, floor_seconds=1.0))
    assert isinstance(found, RetryError)
    assert (found.code, "1 KiB/s" in found.message) == ("Timeout", True)
    assert 0.9 < time.monotonic() - started < 8


def test_an_answer_that_is_slow_but_above_the_floor_is_waited_for(serve: Callable[[Script], Server]) -> None:
    def script(peer: Peer) -> None:
        dripping(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"x" * 1000, 60)

    found = one(serve(script), Limits(1.0, 0.5, floor_seconds=1.0))
    assert len(found.body) == 60_000


def test_blanks_before_a_document_are_life_where_they_are_expected(serve: Callable[[Script], Server]) -> None:
    def script(peer: Peer) -> None:
        dripping(peer, BLANKS, b"1\r\n \r\n", 40)
        peer.send(b"4\r\n<a/>\r\n0\r\n\r\n")

    limits = Limits(1.0, 0.5, floor_seconds=1.0)
    assert one(serve(script), limits, "POST", blanks=True).body.strip() == b"<a/>"
    assert one(serve(script), limits, "POST").code == "Timeout"


def test_endless_blanks_are_cut_off(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_BLANKS_SECONDS", 1.0)
    server = serve(lambda peer: dripping(peer, BLANKS, b"1\r\n \r\n", 400))
    found = one(server, Limits(1.0, 0.5, floor_seconds=0.5), "POST", blanks=True)
    assert (found.code, "whitespace" in found.message) == ("Timeout", True)


def test_silence_is_allowed_by_kind_of_request() -> None:
    kinds = Limits.of(None)
    assert (kinds.connect_seconds, kinds.idle_seconds) == (10, 60)
    assert (kinds.listing_seconds, kinds.completing_seconds) == (120, 600)
    assert Limits.of(5.0) == Limits(10, 5, 5, 5)


# -- connecting


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_connection_that_the_store_closed_while_idle_is_no_error(
    serve: Callable[[Script], Server], how: str
) -> None:
    """Closed on the very moment that it is used again: as soon as the second request comes."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(OK)
        if peer.number < 2:
            peer.head()
            if how == "resets":
                peer.reset()
            return
        peer.wait_closed()

    server = serve(script)
    found = talk(server, PATIENT, "GET", "GET", "GET")
    assert codes(found) == [200] * 3
    assert server.connections == 3


def test_a_new_connection_that_is_closed_is_an_error_at_once(serve: Callable[[Script], Server]) -> None:
    server = serve(lambda peer: None)
    found = one(server)
    assert isinstance(found, RetryError)
    assert server.connections == 1


def test_a_refused_connection_is_reported_with_its_reason() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        started = time.monotonic()
        found = one(port)
    assert isinstance(found, RetryError)
    assert found.code == "ConnectFailed"
    assert "refused" in found.message
    assert str(port) in found.message
    assert time.monotonic() - started < 5


def test_a_connection_that_is_never_accepted_times_out() -> None:
    with socket.socket() as sock, contextlib.ExitStack() as full:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        address = sock.getsockname()
        for _ in range(4):  # more than the queue holds: the next one's SYN is dropped
            waiting = full.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        found = one(address[1], QUICK)
    assert isinstance(found, RetryError)
    assert found.code in ("ConnectTimeout", "Timeout")


def test_a_host_that_does_not_exist_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(host: str, port: int) -> list[resolver.Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def later(host: str, port: int) -> list[resolver.Address]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(resolver, "resolve", nowhere)
    found = one(1)
    assert isinstance(found, FatalError)
    assert "check storage_url" in found.message
    monkeypatch.setattr(resolver, "resolve", later)
    assert isinstance(one(1), RetryError)


def test_an_address_that_is_refused_is_never_connected_to(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a name resolves to is judged when it is connected to, not before."""
    server = serve(always(OK))
    monkeypatch.setattr(resolver, "is_refused", lambda _: True)
    found = one(server)
    assert isinstance(found, FatalError)
    assert server.connections == 0


def test_the_second_address_is_tried_when_the_first_is_dead(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(always(OK))
    addresses = [(socket.AF_INET, ("127.0.0.9", 1)), (socket.AF_INET, ("127.0.0.1", server.port))]
    monkeypatch.setattr(resolver, "resolve", lambda host, port: addresses)
    assert one(server).status == 200


def test_the_second_address_is_tried_soon_when_the_first_swallows_what_is_sent(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once it has answered, the others begin with it."""
    server = serve(always(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
    with socket.socket() as hole, contextlib.ExitStack() as full:
        hole.bind(("127.0.0.9", 0))
        hole.listen(0)
        for _ in range(4):  # more than the queue holds: the next one's SYN is dropped
            waiting = full.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(hole.getsockname())
        addresses = [(socket.AF_INET, hole.getsockname()), (socket.AF_INET, ("127.0.0.1", server.port))]
        monkeypatch.setattr(resolver, "resolve", lambda host, port: list(addresses))
        started = time.monotonic()
        assert codes(talk(server, PATIENT, *["GET"] * 30)) == [200] * 30
        assert time.monotonic() - started < 4.0, "30 times a quarter of a second are 7.5 s"


def test_the_families_of_addresses_are_tried_in_turn() -> None:
    four = [(socket.AF_INET, (f"192.0.2.{n}", 1)) for n in (1, 2, 3)]
    six = [(socket.AF_INET6, (f"2001:db8::{n}", 1)) for n in (1, 2)]
    assert pool._interleaved([*six, *four]) == [six[0], four[0], six[1], four[1], four[2]]


def test_an_unreadable_certificate_file_is_reported() -> None:
    with pytest.raises(FatalError, match="AWS_CA_BUNDLE"):
        pool.tls_context("/nonexistent/ca.pem")
    with tempfile.NamedTemporaryFile() as file, pytest.raises(FatalError, match="AWS_CA_BUNDLE"):
        file.write(b"no certificate")
        file.flush()
        pool.tls_context(file.name)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:8080"}, ("p", 8080)),
        ({"http_proxy": "p:8080"}, ("p", 8080)),
        ({"HTTPS_PROXY": "http://p:8080"}, None),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "store"}, None),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "store:9000"}, None),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "*"}, None),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "other,store:1"}, ("p", 80)),
        ({"HTTP_PROXY": ""}, None),
    ],
)
def test_the_proxy_is_the_environments(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: tuple[str, int] | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = proxies.proxy_of("http", "store", 9000)
    assert (proxy and (proxy.host, proxy.port)) == expected


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("socks5://user:secret@p:1080", "ProxyUnsupported"),
        ("socks5h://p", "ProxyUnsupported"),
        ("socks4a://p", "ProxyUnsupported"),
        ("https://user:secret@p", "ProxyUnsupported"),
        ("http://", "BadProxy"),
        ("http://user:secret@p:port", "BadProxy"),
        ("http://p:99999", "BadProxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_reported(variable: str, url: str, code: str) -> None:
    with pytest.raises(FatalError) as caught:
        proxies.proxy_of("http", "store", 9000, {variable: url})
    assert (caught.value.code, variable in caught.value.message) == (code, True)
    assert "secret" not in caught.value.message


# NO_PROXY, host, port, goes directly; `curl` reads it in another way: what it does
NO_PROXY = [
    ("store.example", "store.example", 80, True, True),
    ("STORE.example", "store.EXAMPLE", 80, True, True),
    ("example", "store.example", 80, True, True),
    (".example", "store.example", 80, True, True),
    ("tore.example", "store.example", 80, False, False),
    ("other, store.example", "store.example", 80, True, True),
    ("other store.example", "store.example", 80, True, True),
    ("*", "store.example", 80, True, True),
    ("", "store.example", 80, False, False),
    ("store.example.", "store.example", 80, True, True),
    ("10.0.0.0/8", "10.1.2.3", 80, True, True),
    ("10.0.0.0/8", "11.1.2.3", 80, False, False),
    ("192.168.1.0/30", "192.168.1.3", 80, True, True),
    ("192.168.1.0/30", "192.168.1.4", 80, False, False),
    ("10.1.2.3", "10.1.2.3", 80, True, True),
    ("2.3", "10.1.2.3", 80, False, False),
    ("10.0.0.0/x", "10.0.0.0", 80, False, None),
    ("fd00::/8", "[fd00::1]", 80, True, True),
    ("fd00::1", "[fd00::1]", 80, True, True),
    ("fd00::2", "[fd00::1]", 80, False, None),  # curl 7.88 takes any address of IPv6 for this one
    ("store.example:80", "store.example", 80, True, None),  # Go's alone, as are the next
    ("store.example:80", "store.example", 81, False, None),
    ("10.1.2.3:80", "10.1.2.3", 80, True, None),
    ("*.example", "store.example", 80, True, None),
]


@pytest.mark.parametrize(("no_proxy", "host", "port", "direct", "curl"), NO_PROXY)
def test_no_proxy_is_read_as_curl_reads_it(
    serve: Callable[[Script], Server], no_proxy: str, host: str, port: int, direct: bool, curl: bool | None
) -> None:
    proxy = serve(always(OK))
    environment = {"http_proxy": f"http://127.0.0.1:{proxy.port}", "NO_PROXY": no_proxy}
    found = proxies.proxy_of("http", host.strip("[]").lower(), port, environment)
    assert (found is None) == direct
    if curl is None:
        return
    assert curl == direct, "the table itself"
    command = ["curl", "-s", "-m", "0.5", "--resolve", f"{host}:{port}:127.0.0.1", f"http://{host}:{port}/"]
    subprocess.run(command, env=environment | {"PATH": os.environ["PATH"]}, capture_output=True, check=False)
    assert (proxy.connections == 0) == curl


def test_a_proxys_password_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:pass%20word@p:1")
    proxy = proxies.proxy_of("http", "store", 9000)
    assert proxy is not None
    assert proxy.authorization == "Basic dXNlcjpwYXNzIHdvcmQ="
    assert "dXNl" not in repr(proxy)


def test_a_proxy_is_not_asked_for_a_metadata_service(
    serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(always(OK))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")

    async def ask(url: str) -> Any:
        async with ConnectionPool(Endpoint.of(url, "us-east-1"), None, QUICK) as w:
            return await w.exchange(w.endpoint.host, "GET", b"GET / HTTP/1.1\r\n\r\n")

    with pytest.raises(FatalError, match="never a storage"):
        asyncio.run(ask("http://0xa9fea9fe"))
    assert proxy.connections == 0
    assert asyncio.run(ask("http://only-the-proxy-knows.invalid")).status == 200

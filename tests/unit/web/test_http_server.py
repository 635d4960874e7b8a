"""Which requests the thread that reads connections answers itself, and that the others are still answered."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from syncworker.web import http_server

Handler = Callable[[], None]


class Site:
    """Answers each path with the name of its thread, after `handlers` of the path, if any, was called."""

    def __init__(self, quick: bool) -> None:
        self.handlers: dict[str, Handler] = {}
        self.http = http_server.Server("127.0.0.1", 0)
        run = partial(self.http.run, self._answer, lambda: quick)
        self.thread = threading.Thread(target=run, name="reader")
        self.thread.start()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.handlers.get(path, lambda: None)()
        body = f"{path} by {threading.current_thread().name.partition('-')[0]}\n".encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.http.port), 10)

    def raw(self, *requests: str) -> bytes:
        """Sends requests by one connection and at once, and returns all that is answered."""
        each = [f"{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n" for request in requests]
        with self.connect() as connection:
            connection.sendall("\r\n".join([*each[:-1], each[-1] + "Connection: close\r\n", ""]).encode())
            return connection.makefile("rb").read()

    def who(self, *requests: str) -> list[str]:
        return re.findall(r"(?m)^(/.*)$", self.raw(*requests).decode())


@contextmanager
def serving(quick: bool = True) -> Iterator[Site]:
    site = Site(quick)
    try:
        yield site
    finally:
        site.http.stop()
        site.thread.join(10)
        assert not site.thread.is_alive()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@pytest.mark.parametrize("path", ["/runnings", "/get", "/below/a/path/runnings"])
def test_an_answer_from_memory_needs_no_other_thread(site: Site, path: str) -> None:
    assert site.who(f"GET {path}") == [f"{path} by reader"]


@pytest.mark.parametrize(
    "request_line",
    [
        "POST /runnings",
        "POST /get",
        "GET /runnings/more",
        "GET /jobs",
        "GET /healthz",  # it tells whether a thread is left
        "GET /healthz?storage=1",
        "GET /",
    ],
)
def test_what_may_wait_gets_a_thread(site: Site, request_line: str) -> None:
    path = request_line.split()[1].partition("?")[0]
    assert site.who(request_line) == [f"{path} by waitress"]


def test_a_body_gets_a_thread(site: Site) -> None:
    """It is read for parameters, too, and may be long."""
    body = b"Host: localhost\r\nContent-Length: 9\r\nConnection: close\r\n\r\nstorage=1"
    with site.connect() as connection:
        connection.sendall(b"GET /runnings HTTP/1.1\r\n" + body)
        assert connection.makefile("rb").read().endswith(b"/runnings by waitress\n")


def test_jobs_on_a_disk_that_tells_no_changes_are_read_by_threads() -> None:
    with serving(quick=False) as site:
        assert site.who("GET /runnings") == ["/runnings by waitress"]


def test_requests_that_come_together_are_answered_in_order(site: Site) -> None:
    paths = ["/runnings", "/jobs", "/get", "/healthz", "/jobs", "/runnings"] * 20
    answered = [line.split()[0] for line in site.who(*(f"GET {path}" for path in paths))]
    assert answered == paths


def test_a_head_is_answered_without_its_body(site: Site) -> None:
    answer = site.raw("HEAD /runnings")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n")


def test_quick_answers_are_given_while_all_threads_wait(site: Site) -> None:
    go, waiting = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        waiting.release()
        assert go.wait(20)

    site.handlers["/slow"] = wait
    slow = [site.connect() for _ in range(http_server.THREADS + 1)]
    try:
        for connection in slow:
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        for _ in range(http_server.THREADS):
            assert waiting.acquire(timeout=10)
        assert site.who("GET /get?id=1") == ["/get by reader"]
        go.set()
        for connection in slow:
            assert connection.makefile("rb").read().endswith(b"/slow by waitress\n")
    finally:
        go.set()
        for connection in slow:
            connection.close()


def test_an_error_of_a_quick_answer_stops_nothing(site: Site) -> None:
    def fail() -> None:
        raise RuntimeError("made by this test")

    site.handlers["/runnings"] = fail
    assert site.raw("GET /runnings").startswith(b"HTTP/1.1 500 ")
    assert site.who("GET /get") == ["/get by reader"]
    assert site.who("GET /jobs") == ["/jobs by waitress"]  # threads still wake the reader


def test_a_stop_that_comes_during_a_quick_answer_is_seen() -> None:
    site = Site(quick=True)
    site.handlers["/runnings"] = site.http.stop
    assert site.who("GET /runnings") == ["/runnings by reader"]
    site.thread.join(5)
    assert not site.thread.is_alive()

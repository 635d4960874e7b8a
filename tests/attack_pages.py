"""A hostile web site and a real Chromium that visits it, for attacks_browser.py.

`Evil` serves pages on a loopback port under the name `evil.test`. `Rebinder` is a name that is bound anew: it
listens on the same port as the attacked server, on another address of this machine, serves one page, and from
then on passes every byte on to the attacked server, as if the name now led there."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from playwright.sync_api import Browser, Page, sync_playwright

NAME = "evil.test"


def chromium() -> str:
    """The program; a missing browser is a failure, never a skip."""
    found = shutil.which("chromium")
    assert found, "there is no Chromium: `make test` installs it, or `apt-get install chromium`"
    return found


@contextlib.contextmanager
def browser(*rules: str) -> Iterator[Browser]:
    """Chromium with these host-resolver rules."""
    arguments = [f"--host-resolver-rules={', '.join(rules)}", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield started
        finally:
            started.close()


class Evil:
    """A site with one page, which may be set; `/beat` counts that its scripts run."""

    def __init__(self) -> None:
        evil = self
        self.page = ""
        self.beaten = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/beat"):
                    evil.beaten.set()
                rules = self.path.startswith("/rules")
                body = evil.page.encode()
                self.send_response(200)
                self.send_header(
                    "Content-Type", "application/speculationrules+json" if rules else "text/html"
                )
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{NAME}:{self.port}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Rebinder:
    """Listens on 127.0.0.2 at the port of the attacked server."""

    def __init__(self, port: int, page: str) -> None:
        self._port, self._page = port, page.encode()
        self._served = False
        self._listener = socket.create_server(("127.0.0.2", port))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head = client.recv(65536)
            if head.startswith(b"GET /page "):
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
                client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(self._page) + self._page)
                return
            with socket.create_connection(("127.0.0.1", self._port), 10) as server:
                server.sendall(head)
                server.settimeout(10)
                back = threading.Thread(target=_pump, args=(client, server), daemon=True)
                back.start()
                _pump(server, client)

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # `close` alone would leave it open for the thread that waits
            each.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def visit(page: Page, url: str, done: Callable[[], bool], seconds: float = 10) -> bool:
    """Opens a page and waits until `done`; whether that came."""
    with contextlib.suppress(Exception):  # a page that leaves at once, or never loads to its end
        page.goto(url, wait_until="commit", timeout=seconds * 1000)
    for _ in range(int(seconds * 50)):
        if done():
            return True
        with contextlib.suppress(Exception):
            page.wait_for_timeout(20)
    return done()

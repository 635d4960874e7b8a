"""A hostile web site and a real Chromium that visits it, for test_attacks_browser.py.

`Evil` serves pages on a loopback port under the name `evil.test`. `Rebinder` is a name that is bound anew: it
listens on the same port as the attacked server, on another address of this machine, serves one page, and from
then on passes every byte on to the attacked server, as if the name now led there.

`Chromium` is one browser, driven from a thread of its own so that every action has a deadline: Playwright's
own waits have none where it matters (`close`, `title`, `content`, `evaluate`), and a test that waits for ever
says less than one that fails. Each `Tab` has a context of its own: no cookie, cache or connection of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from playwright.async_api import Browser, BrowserContext, Error, Page, async_playwright

NAME = "evil.test"
ACTION_SECONDS = 60.0  # a busy machine is slow, a lost answer never comes
T = TypeVar("T")


def chromium() -> str:
    """The program; a missing browser is a failure, never a skip."""
    found = shutil.which("chromium")
    assert found, "there is no Chromium: `make test` installs it, or `apt-get install chromium`"
    return found


class Chromium:
    """A browser with these host-resolver rules."""

    def __init__(self, *rules: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chromium", daemon=True)
        self._thread.start()
        self._stack = contextlib.AsyncExitStack()
        arguments = [f"--host-resolver-rules={', '.join(rules)}", "--disable-dev-shm-usage"]
        self._browser = self.do("start", self._start(arguments))

    async def _start(self, arguments: list[str]) -> Browser:
        playwright = await self._stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=chromium(), args=arguments)
        self._stack.push_async_callback(browser.close)
        return browser

    def begin(self, action: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(action, self._loop)

    def do(self, what: str, action: Coroutine[Any, Any, T], seconds: float = ACTION_SECONDS) -> T:
        """Waits for the action; AssertionError when it does not end in time."""
        future = self.begin(action)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            raise AssertionError(f"the browser did not {what} within {seconds:g} seconds") from None

    def tab(self) -> Tab:
        context, page = self.do("open a tab", self._tab())
        return Tab(self, context, page)

    async def _tab(self) -> tuple[BrowserContext, Page]:
        context = await self._browser.new_context()
        return context, await context.new_page()

    def close(self) -> None:
        try:
            self.do("end", self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(ACTION_SECONDS)


class Tab:
    """One page in a context of its own."""

    def __init__(self, browser: Chromium, context: BrowserContext, page: Page) -> None:
        self._browser, self._context, self._page = browser, context, page
        self._open = True

    def open(self, url: str) -> None:
        self._browser.do(f"load {url}", self._page.goto(url))

    def visit(self, url: str, done: Callable[[], bool], seconds: float = 30) -> bool:
        """Opens a page and waits until `done`; whether that came. A page may leave at once, or never load."""
        self._browser.begin(self._page.goto(url, wait_until="commit", timeout=seconds * 1000))
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            time.sleep(0.01)
        return done()

    def titled(self) -> str:
        """The title, when the page's script has set one."""
        self._browser.do("set a title", self._page.wait_for_function("document.title !== ''"))
        return self._browser.do("tell the title", self._page.title())

    def content(self) -> str:
        return self._browser.do("tell what the page holds", self._page.content())

    def evaluate(self, script: str) -> Any:
        return self._browser.do(f"run {script}", self._page.evaluate(script))

    def close(self) -> None:
        """A second call does nothing."""
        if self._open:
            self._open = False
            self._browser.do("close the tab", self._close())

    async def _close(self) -> None:
        # Chromium 156 says yes to `Target.closeTarget` and forgets it when it comes in the few milliseconds
        # between the commit of a document and its load: `page.close()` then waits for ever, most of all for
        # a page whose first document is the server's own refusal. The end of a context is not lost, and by
        # then nothing but an empty page is open in this one.
        with contextlib.suppress(Error):  # the page itself is just leaving for another one
            await self._page.goto("about:blank")
        await self._context.close()


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

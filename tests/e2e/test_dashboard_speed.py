"""What the dashboard weighs: bytes over the wire, the time to its first paint, and that a thousand jobs cost
browser and server no more than fifty. In a real Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import test_dashboard
from bench import Service, s3_error, tree
from playwright.sync_api import Browser, Page, expect
from stores import Store
from test_dashboard import NARROW, Desk, check_with_axe, copies, fits, settled

browser, new_page, desk = test_dashboard.browser, test_dashboard.new_page, test_dashboard.desk
WHOLE_4K = {"width": 3840, "height": 2160}
TRANSFER_MAX = 60 * 1024
PAINT_MAX_MS = 100
LOOKS = 40
LOOK_MAX_MS = 10  # of a processor, once a second: one per cent of a core


class Meter:
    """Of a page whose browser keeps no file from load to load."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.session = page.context.new_cdp_session(page)
        self.urls: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        # Of its own processor time: what others have of this machine is not counted.
        self.session.send("Performance.setTimeDomain", {"timeDomain": "threadTicks"})
        for domain in ("Network", "Performance"):
            self.session.send(f"{domain}.enable")
        self.session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        self.session.on(
            "Network.requestWillBeSent", lambda e: self.urls.update({e["requestId"]: e["request"]["url"]})
        )
        self.session.on(
            "Network.loadingFinished", lambda e: self.sizes.update({e["requestId"]: e["encodedDataLength"]})
        )

    def load(self, address: str, ready: Callable[[], None]) -> float:
        """Until the first paint, in milliseconds."""
        self.page.goto("about:blank")
        self.urls.clear()
        self.sizes.clear()
        self.page.goto(address)
        ready()
        self.page.evaluate("fetch('healthz').then(answer => answer.text())")  # later than the page's files
        return self.first_paint()

    def first_paint(self) -> float:
        return float(
            self.page.evaluate("""new Promise(tell => new PerformanceObserver((seen, observer) => {
            const [paint] = seen.getEntriesByName("first-contentful-paint");
            if (paint) { observer.disconnect(); tell(paint.startTime); }
        }).observe({ type: "paint", buffered: true }))""")
        )

    def own_bytes(self) -> int:
        """Over the wire, headers included, of the page's own files."""
        own = {self.urls[name]: size for name, size in self.sizes.items()}
        own = {url: size for url, size in own.items() if "/static/" in url or url.endswith("/")}
        assert len(own) > 10, own
        return sum(own.values())

    def all_bytes(self) -> int:
        """With the answers that the page asked for."""
        return sum(self.sizes.values())

    def main_thread_ms(self) -> float:
        """What the main thread has done since this was made."""
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        return 1000 * float({one["name"]: one["value"] for one in metrics}["TaskDuration"])


def in_time(paints: list[float], plain: list[float]) -> int:
    """How many paints but the first took less than 100 ms, or than twice the plain page's just before."""
    pairs = zip(paints[1:], plain[1:], strict=True)
    return sum(paint < max(PAINT_MAX_MS, 2 * bare) for paint, bare in pairs)


def test_the_page_is_painted_within_100_ms_and_weighs_at_most_60_kib(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, browser: Browser
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    status = service.done(bucket)
    copies(service, status, 60)
    context = browser.new_context(viewport=test_dashboard.WIDE)
    page = context.new_page()
    meter = Meter(page)
    paints: list[float] = []
    plain: list[float] = []
    # The first load warms server and browser. What else the machine does must not judge: two in time will
    # do, and a page of one line is loaded before each.
    while len(paints) < 40 and in_time(paints, plain) < 2:
        page.goto(f"{service.url}/healthz")
        plain.append(meter.first_paint())
        paints.append(meter.load(f"{service.url}/", lambda: settled(page)))
        assert meter.own_bytes() < meter.all_bytes() <= TRANSFER_MAX  # with fifty jobs
    home = meter.own_bytes()
    everything = meter.all_bytes()
    shown = page.locator("#view-job .card")
    meter.load(f"{service.url}/#job?id={status['id']}", lambda: expect(shown).to_be_visible())
    print(f"first paint {[*map(round, paints)]} ms, of a page of one line {[*map(round, plain)]} ms")
    print(f"{home} bytes, with answers {everything}, a job's page {meter.own_bytes()}")
    assert home < meter.own_bytes() <= TRANSFER_MAX
    context.close()
    assert in_time(paints, plain) == 2


def looks(service: Service) -> float:
    """Processor milliseconds of the server for a look of the page, as the page asks again and again."""
    assert service.process is not None
    process = psutil.Process(service.process.pid)
    paths = ("/runnings", "/jobs?limit=50", "/mirrors")
    tags = {path: service.get(path).headers["etag"] for path in paths}

    def spent() -> float:
        return float(sum(process.cpu_times()[:2]))

    best = float("inf")
    for _ in range(3):
        before = spent()
        for _ in range(LOOKS):
            for path in paths:
                answer = service.request("GET", path, headers={"If-None-Match": tags[path]})
                assert answer.status in (200, 304)
        best = min(best, 1000 * (spent() - before) / LOOKS)
    return best


def plain_ms() -> float:
    """Processor milliseconds to write and read a thousand small objects: 0.65 where a look takes 3."""
    data = [{"number": number, "text": str(number)} for number in range(1000)]
    best = float("inf")
    for _ in range(5):
        before = time.process_time()
        for _ in range(20):
            json.loads(json.dumps(data))
        best = min(best, 1000 * (time.process_time() - before) / 20)
    return best


def test_a_thousand_jobs_cost_browser_and_server_what_fifty_do(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, browser: Browser
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    status = service.done(bucket)
    browsers: list[float] = []
    servers = []
    for number in (50, 1000):
        copies(service, status, number)
        times: list[float] = []
        # A busy machine makes some loads dearer, never one of nine cheaper than it is.
        while len(times) < 3 or (browsers and len(times) < 9 and min(times) >= 1.5 * browsers[0] + 20):
            context = browser.new_context(viewport=test_dashboard.WIDE)
            page = context.new_page()
            meter = Meter(page)
            page.goto(service.url)
            settled(page)
            expect(page.locator("#history tbody tr")).to_have_count(50)
            with page.expect_response(lambda answer: answer.status == 304):  # and a look that finds no change
                pass
            times.append(meter.main_thread_ms())
            context.close()
        browsers.append(min(times))
        servers.append(looks(service))
    print(f"main thread {[*map(round, browsers)]} ms, a look {[round(one, 1) for one in servers]} ms")
    assert browsers[1] < 1.5 * browsers[0] + 20
    assert servers[1] < 2 * servers[0] + 5
    assert servers[1] < max(LOOK_MAX_MS, 15 * plain_ms())  # the latter where this machine is a slow one


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_job_s_page_fits_every_screen(
    scheme: str, desk: Desk, bucket: str, new_page: Callable[..., Page]
) -> None:
    """And axe finds nothing, with everything opened."""
    long = "a-long-name-without-a-break" * 6
    desk.folder("photos", {f"{long}/yes": "1", f"{long}/no": "2"})
    desk.proxy.on_request(
        lambda r: (
            s3_error(403, "AccessDenied") if r.method == "PUT" and (r.key or "").endswith("/no") else None
        )
    )
    job_id = desk.service.sync(bucket)
    desk.service.wait_state(job_id, "failed")
    desk.proxy.clear_hooks()
    planned = desk.service.sync(bucket, plan="1")
    desk.service.wait_state(planned, "waiting")
    page = new_page(color_scheme=scheme)
    sizes: list[Any] = [NARROW, test_dashboard.WIDE, WHOLE_4K]
    for one in (job_id, planned):
        page.goto(f"{desk.service.url}/#job?id={one}")
        expect(page.locator(f'#view-job [data-job="{one}"]')).to_be_visible()
        expect(page.locator(".report .key").first).to_be_visible()
        page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        expect(page.get_by_role("region", name="Log", exact=True)).not_to_be_empty()
        for size in sizes:
            page.set_viewport_size(size)
            assert fits(page), (one, size)
            check_with_axe(page)

"""The dashboard in a real Chromium: Debian's, driven by Playwright. Nothing is skipped when it is missing.

`make screenshots` runs the last test with SCREENSHOTS set, which puts its pictures into docs/screenshots."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bench import PROJECT, Gate, RecordingProxy, Service, contents, exists, fill, s3_error, tree, wait_for
from disks import mount, unmount
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright
from serving import Site
from stores import Store

from syncworker.web import dashboard

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = PROJECT / ".venv" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
NARROW = {"width": 360, "height": 740}
WIDE = {"width": 1180, "height": 800}
ELEMENTS = "document.querySelectorAll('*').length"
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Pages that fail the test when anything is refused by the policy, thrown, or asked of another server."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def make(**options: Any) -> Page:
        context = (
            browser.new_context(viewport=WIDE, **options)
            if "viewport" not in options
            else (browser.new_context(**options))
        )
        context.set_default_timeout(45_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: _note(message.type, message.text, wrong))
        page.on("request", lambda request: _note_foreign(request, wrong))
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


def _note(kind: str, text: str, wrong: list[str]) -> None:
    # Chromium itself reports each answer of 400 and more as an error.
    if kind == "error" and "Failed to load resource" not in text:
        wrong.append(text)


def _note_foreign(request: Request, wrong: list[str]) -> None:
    if not re.match(r"http://(127\.0\.0\.1|localhost)[:/]|data:", request.url):
        wrong.append(request.url)


class Desk:
    """A server on a store behind a proxy, where requests can be held."""

    def __init__(self, service: Service, proxy: RecordingProxy) -> None:
        self.service, self.proxy = service, proxy

    def folder(self, name: str, entries: dict[str, Any]) -> None:
        tree(self.service.uploads / name, entries)

    def hold(self, op: str = "PUT", key: str = "") -> Gate:
        return Gate(self.proxy, lambda request: request.method == op and key in (request.key or "\0"))


@pytest.fixture
def desk(
    make_service: Callable[..., Service], make_proxy: Callable[[Store], RecordingProxy], juicefs: Store
) -> Desk:
    proxy = make_proxy(juicefs)
    return Desk(make_service(juicefs, STORAGE_URL=proxy.url, STORAGE_PATIENCE="60"), proxy)


def card(page: Page, job_id: str) -> Any:
    return page.locator(f'[data-job="{job_id}"]')


def row(page: Page, job_id: str) -> Any:
    return page.locator(f'#history [data-job="{job_id}"]')


def page_of(page: Page, job_id: str) -> Any:
    """The page of an ended job, by a click on its row."""
    row(page, job_id).locator(".row-link").click()
    expect(page.locator(f'#view-job [data-job="{job_id}"]')).to_be_visible()
    return page.locator("#view-job")


def copies(service: Service, status: dict[str, Any], number: int, **changes: Any) -> list[str]:
    """As many older jobs like this one, oldest first."""
    report = service.file(status["id"], "report.jsonl").read_bytes()
    moments = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=count) for count in range(number)]
    ids = [f"{moment:%Y%m%dT%H%M%S}-00000000" for moment in moments]
    for job_id, moment in zip(ids, moments, strict=True):
        service.file(job_id, "report.jsonl").write_bytes(report)
        service.file(job_id, "lock").touch(0o600)
        times = dict.fromkeys(("created_at", "started_at", "finished_at"), f"{moment:%Y-%m-%dT%H:%M:%S.000Z}")
        service.file(job_id, "json").write_text(json.dumps(status | times | {"id": job_id} | changes))
    return ids


def start(page: Page, service: Service, source: str, dest: str) -> str:
    """Starts a sync by the form; the id of its job."""
    before = set(service.ids())
    page.get_by_label("Folder", exact=True).select_option(source)
    page.get_by_label("Bucket", exact=True).fill(dest)
    page.get_by_role("button", name="Start").click()
    return wait_for(lambda: set(service.ids()) - before, 15, "the job").pop()


def check_with_axe(page: Page) -> None:
    """axe-core, from npm, finds nothing. The page's policy lets no script in: the debugger does."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document).then(found => found.violations)")
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []


def fits(page: Page) -> bool:
    """Nothing sticks out to the right."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def settled(page: Page) -> None:
    expect(page.locator("#connection")).to_have_text("live")


# -- the files -----------------------------------------------------------------------------------------------


def test_the_page_loads_its_own_files_and_allows_nothing_else(tmp_path: Path) -> None:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9")
    try:
        answer = site.get("/")
        page = answer.body.decode()
        policy = answer.headers["content-security-policy"]
        named_by = r'(?:from |import\()"\./([^"]+)"'
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert not re.search(r"<style|<script(?! type=\"module\" src=)|\son[a-z]+=|\sstyle=|https?://", page)
        named = {f"/{path}" for path in re.findall(r'(?:src|href)="(static/[^"]+)"', page)}
        for path in sorted(dashboard.PAGES):
            found = site.get(path)
            assert (found.status, found.headers["cache-control"]) == (200, "no-cache")
            assert found.headers["content-security-policy"] == policy
            named |= {f"/static/{name}" for name in re.findall(named_by, found.body.decode())}
            assert not re.search(r'(?:src|href|action|get\(|post\(|fetch\()[=]?["`]/', found.body.decode()), (
                path
            )
            packed = site.get(path, Accept_Encoding="br, gzip")
            assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "Accept-Encoding")
            assert gzip.decompress(packed.body) == found.body
            assert "content-encoding" not in site.get(path, Accept_Encoding="gzip;q=0, br").headers
            again = site.get(path, If_None_Match=found.headers["etag"])
            assert (again.status, again.headers["cache-control"], again.body) == (304, "no-cache", b"")
            assert again.headers["content-security-policy"] == policy, "else a reload shows a dead page"
            assert "innerHTML" not in found.body.decode()
        assert named == set(dashboard.PAGES) - {"/"}
        for target in ("/static/", "/static/login.html", "/static/../server.py", "/static/%2e%2e/http.py"):
            assert site.get(target).status in (400, 404), target
    finally:
        site.close()


# -- a sync from its start to its end ---------------------------------------------------------------------


def test_a_sync_is_started_watched_cancelled_and_resumed(
    desk: Desk, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"a": 1000, "z/held": 2_000_000})
    gate = desk.hold(key="z/held")
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    expect(page.locator("#source option", has_text="photos (2 files, 2.0 MB)")).to_be_attached()
    job_id = start(page, desk.service, "photos", bucket)
    gate.wait()
    shown = card(page, job_id)
    expect(shown.locator(".badge")).to_have_text("sending")
    expect(shown.get_by_text("1 of 2 files")).to_be_visible()
    expect(shown.locator("progress").first).to_have_js_property("value", 0.5)
    expect(shown.get_by_text("unknown")).to_have_count(1)  # time left, at no speed
    shown.locator("summary", has_text="In flight now: 1").click()
    expect(shown.locator(".key", has_text="z/held")).to_be_visible()
    page.wait_for_function(
        "document.querySelector('.plot-line').getAttribute('points').split(' ').length > 2"
    )
    expect(shown.locator("details").first).to_have_attribute("open", "")  # still, after more rounds
    shown.get_by_role("button", name="Cancel").click()
    # The write is waited for as long as the storage takes, so this stays until the test lets it go on.
    expect(shown.locator(".badge")).to_have_text(re.compile(r"^cancelling, waiting [0-9.]+ s$"))
    expect(shown.locator(".message")).to_contain_text("in flight to finish: uploading z/held")
    expect(shown.get_by_role("button", name="Cancel now")).to_be_enabled()
    gate.open()
    ended = row(page, job_id)
    expect(ended.locator(".badge")).to_have_text("cancelled")
    expect(page.locator("#said")).to_have_text(re.compile("cancelled"))
    ended.get_by_role("button", name="Resume").click()
    expect(ended.locator(".badge")).to_have_text("done")
    expect(ended.locator(".at-files")).to_have_text("2 files")
    assert desk.service.show(job_id)["attempt"] == 2
    whole = page_of(page, job_id)
    expect(whole.get_by_text("2 of 2 files")).to_be_visible()
    raw = whole.get_by_role("link", name="Raw status").get_attribute("href")
    assert raw == f"get?id={job_id}"


def test_a_job_is_paused_limited_and_continued_by_keyboard(
    desk: Desk, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {f"{number:03}": "x" * 1000 for number in range(200)})
    job_id = desk.service.sync(bucket, wait="0.3")
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    shown = card(page, job_id)
    pause = shown.get_by_role("button", name=f"Pause photos to {bucket}")
    pause.focus()
    page.keyboard.press("Enter")
    expect(shown.locator(".badge")).to_have_text("paused")
    assert desk.service.wait_file(job_id, lambda s: s["phase"] == "paused")
    check_with_axe(page)
    for name, field in (
        (f"Limit of photos to {bucket}", "bandwidth"),
        ("Limit of all jobs together", "all_jobs"),
    ):
        slider = page.get_by_role("slider", name=name)
        expect(slider).to_have_attribute("aria-valuetext", "no limit")
        slider.focus()
        page.keyboard.press("Home")
        expect(slider).to_have_attribute("aria-valuetext", "64 KiB/s")
        desk.service.wait_file(job_id, lambda s, field=field: s["limit"][field] == 65536)
        page.keyboard.press("ArrowRight")
        expect(slider).to_have_attribute("aria-valuetext", "128 KiB/s")
        desk.service.wait_file(job_id, lambda s, field=field: s["limit"][field] == 131072)
        page.keyboard.press("End")
        expect(slider).to_have_attribute("aria-valuetext", "no limit")
        desk.service.wait_file(job_id, lambda s, field=field: s["limit"][field] is None)
    (desk.service.jobs / f"{job_id}.bandwidth").write_text("500000")  # by somebody else, and no step
    expect(page.get_by_role("slider", name=f"Limit of photos to {bucket}")).to_have_attribute(
        "aria-valuetext", "488.3 KiB/s", timeout=15000
    )
    page.set_viewport_size({"width": 320, "height": 700})
    assert fits(page)
    go_on = shown.get_by_role("button", name=f"Continue photos to {bucket}")
    go_on.focus()
    page.keyboard.press("Enter")
    expect(shown.locator(".badge")).not_to_have_text("paused")
    shown.get_by_role("button", name="Cancel").click()
    expect(row(page, job_id).locator(".badge")).to_have_text("cancelled")


def test_a_plan_is_read_and_approved(
    desk: Desk, juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {f"{number:03}": str(number) for number in range(120)})
    page = new_page()
    first = desk.service.sync(bucket, plan="1")
    desk.service.wait_state(first, "waiting")
    page.goto(f"{desk.service.url}/#job?id={first}")
    region = page.get_by_role("region", name="Lines of the plan")
    expect(region.locator("tbody tr")).to_have_count(100)
    page.get_by_role("button", name="Next lines of the plan").click()
    expect(region.locator("tbody tr")).to_have_count(20)
    expect(region.locator("tbody tr").last).to_contain_text("119")
    check_with_axe(page)
    page.locator("#view-job").get_by_role("button", name=f"Approve photos to {bucket}").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("120 files to upload")
    dialog.get_by_role("button", name="Close").click()
    assert desk.service.show(first)["state"] == "waiting"
    page.locator("#view-job").get_by_role("button", name=f"Approve photos to {bucket}").click()
    dialog.get_by_role("button", name="Approve").click()
    desk.service.wait_state(first, "done")
    assert len(contents(juicefs, bucket)) == 120

    for path in (desk.service.uploads / "photos").iterdir():
        path.unlink()
    # A bucket that is to go must be typed, and nothing is deleted before.
    second = desk.service.sync(bucket, max_delete="5")
    desk.service.wait_state(second, "waiting")
    page.goto(f"{desk.service.url}/#job?id={second}")
    page.locator("#view-job").get_by_role("button", name=f"Approve photos to {bucket}").click()
    yes = dialog.get_by_role("button", name="Approve")
    expect(yes).to_be_disabled()
    assert len(contents(juicefs, bucket)) == 120
    dialog.get_by_label(re.compile("typed to confirm")).fill(bucket)
    yes.click()
    desk.service.wait_state(second, "done")
    wait_for(lambda: not exists(juicefs, bucket), 10, "the bucket to be gone")


def test_what_is_in_flight_can_be_dropped(desk: Desk, bucket: str, new_page: Callable[..., Page]) -> None:
    desk.folder("photos", {"held": "1"})
    gate = desk.hold(key="held")
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    job_id = start(page, desk.service, "photos", bucket)
    gate.wait()
    shown = card(page, job_id)
    shown.get_by_role("button", name="Cancel").click()
    shown.get_by_role("button", name="Cancel now").click()
    expect(row(page, job_id).locator(".badge")).to_have_text("cancelled")


@pytest.mark.parametrize(
    ("code", "badge"), [("SlowDown", "slowed down by the storage"), ("InternalError", "storage away")]
)
def test_a_storage_that_holds_a_job_up_is_named(
    code: str, badge: str, desk: Desk, juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    answered: set[str] = set()

    def fail(request: Any) -> Any:
        is_new = request.kind not in answered
        answered.add(request.kind)
        return None if request.kind == "LIST" and is_new else s3_error(503, code)

    desk.folder("photos", {"a": "1"})
    fill(juicefs, bucket, {"old": b"old"})
    desk.proxy.on_request(fail)
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    shown = card(page, start(page, desk.service, "photos", bucket))
    expect(shown.locator(".badge")).to_have_text(badge)
    expect(shown.locator(".message")).to_contain_text("UTC")
    desk.proxy.clear_hooks()
    expect(page.locator("#history .badge").first).to_have_text("done", timeout=40_000)


def test_errors_can_be_opened(desk: Desk, bucket: str, new_page: Callable[..., Page]) -> None:
    desk.proxy.on_request(
        lambda r: s3_error(403, "AccessDenied") if r.method == "PUT" and r.key == "no" else None
    )
    desk.folder("photos", {"yes": "1", "no": "2"})
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    job_id = start(page, desk.service, "photos", bucket)
    expect(row(page, job_id).locator(".badge")).to_have_text("failed")
    expect(row(page, job_id).locator(".message")).to_contain_text("FilesFailed")
    shown = page_of(page, job_id)
    expect(shown.locator(".report tbody tr", has_text="AccessDenied").locator(".key")).to_have_text("no")
    expect(shown.get_by_role("button", name="Resume")).to_be_visible()


def test_what_was_skipped_is_counted_by_reason(
    desk: Desk, bucket: str, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    desk.folder("photos", {"a": "1"})
    (tmp_path / "elsewhere").write_text("not ours")
    for number in range(2):
        (desk.service.uploads / "photos" / f"out{number}").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(desk.service.uploads / "photos" / "pipe")
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    job_id = start(page, desk.service, "photos", bucket)
    expect(row(page, job_id).locator(".badge")).to_have_text("done")
    shown = page_of(page, job_id)
    expect(shown.get_by_text("3 files (2 symlink_outside, 1 fifo)")).to_be_visible()
    expect(shown.get_by_text("1 fifo: a named pipe")).to_be_visible()
    expect(shown.locator(".message")).to_contain_text(
        "mirrored, except for 3 skipped (2 symlink_outside, 1 fifo)"
    )


def test_what_the_server_refuses_is_said(desk: Desk, bucket: str, new_page: Callable[..., Page]) -> None:
    desk.folder("photos", {"held": "1"})
    gate = desk.hold(key="held")
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    job_id = start(page, desk.service, "photos", bucket)
    gate.wait()
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#refused")).to_contain_text(job_id)
    gate.open()


# -- what deletes a bucket --------------------------------------------------------------------------------


def test_an_empty_folder_is_warned_of_and_the_bucket_must_be_typed(
    desk: Desk, bucket: str, juicefs: Store, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"a": "1", "b": "2"})
    desk.service.done(bucket)
    desk.folder("photos", {"a": None, "b": None})
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    page.get_by_label("Folder", exact=True).select_option("photos")
    page.get_by_label("Bucket", exact=True).fill(bucket)
    danger = page.get_by_role("alert").filter(has_text="will be deleted")
    expect(danger).to_contain_text(f"The folder is empty: the bucket {bucket} will be deleted")
    expect(danger).to_contain_text("2 objects")
    red = danger.locator("p").evaluate("element => getComputedStyle(element).color")
    assert red == "rgb(179, 38, 30)"
    button = page.get_by_role("button", name="Delete the bucket")
    expect(button).to_be_disabled()
    confirm = page.get_by_label(re.compile("^Type the bucket"))
    confirm.fill("another")
    expect(button).to_be_disabled()
    assert exists(juicefs, bucket)
    confirm.fill(bucket)
    expect(button).to_be_enabled()
    button.click()
    ended = page.locator("#history tbody tr").first
    expect(ended.locator(".badge")).to_have_text("done")
    wait_for(lambda: not exists(juicefs, bucket), 10, "the bucket to be gone")
    page.get_by_label("Folder", exact=True).select_option(label="Another folder…")
    page.get_by_label("Path below the uploads folder").fill("no/such")
    expect(page.locator("#danger")).to_contain_text("The folder does not exist")
    tree(desk.service.uploads / "no" / "such", {"file": "1"})
    page.get_by_label("Path below the uploads folder").fill("no/such/")
    expect(page.locator("#danger")).to_be_hidden()
    expect(page.get_by_role("button", name="Start")).to_be_enabled()


def test_folder_and_bucket_can_be_left_as_they_are_and_the_bucket_empty(
    desk: Desk, juicefs: Store, new_page: Callable[..., Page]
) -> None:
    juicefs.remove_bucket("mybucket")
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    bucket = page.get_by_label("Bucket", exact=True)
    expect(bucket).to_have_value("mybucket")
    bucket.fill("")
    expect(page.locator("#danger")).to_contain_text(
        "The folder is empty: the bucket mybucket will be deleted"
    )
    page.get_by_label(re.compile("^Type the bucket")).fill("mybucket")
    expect(page.get_by_role("button", name="Delete the bucket")).to_be_enabled()
    desk.folder("photos", {"a": "1"})
    bucket.fill("")
    page.reload()
    settled(page)
    bucket.fill("")
    page.get_by_role("button", name="Start").click()
    ended = page.locator("#history tbody tr").first
    expect(ended.locator(".badge")).to_have_text("done")
    expect(ended.locator(".row-title")).to_have_text("all uploads → mybucket")
    assert contents(juicefs, "mybucket") == {"photos/a": b"1"}
    juicefs.remove_bucket("mybucket")


def test_a_job_with_keys_of_its_own_asks_for_them_again(
    desk: Desk, juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"a": "1", "b": "2"})
    keys = {"access_key": juicefs.access_key, "secret_key": juicefs.secret_key}
    reply = desk.service.post(
        "/sync", source="photos", dest=bucket, storage_url=juicefs.url, wait="600", **keys
    )
    job_id = reply.json()["id"]
    page = new_page()
    page.goto(desk.service.url)
    card(page, job_id).get_by_role("button", name="Cancel").click()
    ended = row(page, job_id)
    ended.get_by_role("button", name="Resume").click()
    dialog = page.get_by_role("dialog", name=re.compile("keys are needed again"))
    dialog.get_by_label("Access key").fill(juicefs.access_key)
    dialog.get_by_label("Secret key").fill(juicefs.secret_key)
    check_with_axe(page)
    dialog.get_by_role("button", name="Resume").click()
    expect(dialog).to_be_hidden()
    wait_for(lambda: desk.service.show(job_id)["attempt"] == 2, 10, "the job to be resumed")
    desk.service.post("/cancel", id=job_id)


def test_a_disk_that_is_gone_for_good_is_forgotten_by_a_button(
    desk: Desk, juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    """A new job with the options of the old one, and its keys asked for; a resume would forget nothing."""
    desk.folder("photos", {"a": "1", "left out": "x", "also": "x", "disk": {}})
    disk = desk.service.uploads / "photos" / "disk"
    asked = {"source": "photos", "dest": bucket, "storage_url": juicefs.url, "wait": "0.01"}
    asked |= {"access_key": juicefs.access_key, "secret_key": juicefs.secret_key}
    asked |= {"exclude": ["left*", "also"]}
    mount(disk)
    try:
        tree(disk, {"b": "2"})
        first = desk.service.post_json("/sync", asked).json()["id"]
        desk.service.wait_state(first, "done")
    finally:
        unmount(disk)
    failed = desk.service.post_json("/sync", asked).json()["id"]
    desk.service.wait_state(failed, "failed")
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    button = page_of(page, failed).get_by_role("button", name=re.compile("without the missing disk"))
    button.click()
    dialog = page.get_by_role("dialog", name="Sync without the missing disk?")
    expect(dialog).to_contain_text(bucket)
    check_with_axe(page)
    dialog.get_by_role("button", name="Close").click()
    button.click()
    before = set(desk.service.ids())
    dialog.get_by_role("button", name="Sync and delete").click()
    keys = page.get_by_role("dialog", name=re.compile("keys are needed again"))
    keys.get_by_label("Access key").fill(juicefs.access_key)
    keys.get_by_label("Secret key").fill(juicefs.secret_key)
    keys.get_by_role("button", name="Start").click()
    made = wait_for(lambda: set(desk.service.ids()) - before, 15, "the job").pop()
    status = desk.service.wait_state(made, "done")
    assert status["options"] == {"exclude": ["left*", "also"], "forget_mounts": 1}
    assert (status["wait"], status["progress"]["objects_deleted"]) == (0.01, 1)
    shown = page.locator(f'#view-job [data-job="{made}"]')  # where the new job's page has been opened
    expect(shown.get_by_role("button", name=re.compile("missing disk"))).to_be_hidden()


def test_older_jobs_are_shown_page_by_page(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    status = service.done(bucket)
    ids = copies(service, status, 104)
    ids.append(status["id"])
    page = new_page()
    page.goto(service.url)
    shown = page.locator("#history tbody tr")
    more = page.get_by_role("link", name="Older jobs")
    expect(shown).to_have_count(50)
    more.click()
    expect(shown).to_have_count(50)
    expect(shown.first).to_have_attribute("data-job", ids[-51])
    more.click()
    expect(shown).to_have_count(5)
    expect(more).to_be_hidden()
    assert [box.get_attribute("data-job") for box in shown.all()] == ids[4::-1]
    page.reload()  # its place stands in the address
    expect(shown).to_have_count(5)
    page.go_back()
    expect(shown.first).to_have_attribute("data-job", ids[-51])
    page.get_by_role("link", name="Newest jobs").click()
    expect(shown.first).to_have_attribute("data-job", ids[-1])


# -- a bad morning, and what lies back ----------------------------------------------------------------------


def test_seven_things_of_a_bad_morning_are_two_clicks_away(
    desk: Desk, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"yes": "1", "no": "2"})
    well = desk.service.done(bucket)
    desk.folder("photos", {"no": "changed"})
    desk.proxy.on_request(
        lambda r: s3_error(403, "AccessDenied") if r.method == "PUT" and r.key == "no" else None
    )
    failed = desk.service.sync(bucket)
    desk.service.wait_state(failed, "failed")
    desk.proxy.clear_hooks()
    [old] = copies(desk.service, well, 1, dest="other-bucket")
    page = new_page()

    def home() -> None:
        page.goto(f"{desk.service.url}/#jobs")
        settled(page)
        expect(page.locator("#history tbody tr")).to_have_count(3)

    home()  # which failed?
    page.get_by_role("link", name="failed", exact=True).click()
    expect(page.locator("#history tbody tr")).to_have_count(1)
    expect(row(page, failed).locator(".message")).to_contain_text("FilesFailed")
    shown = page_of(page, failed)  # why? and what is missing?
    expect(shown.locator(".report tbody tr")).to_contain_text(["AccessDenied"])
    expect(shown.locator(".report .key")).to_have_text(["no"])
    expect(shown.locator(".part-dest")).to_contain_text("1 run without success")  # since when?
    expect(shown.locator(".part-dest")).to_contain_text("Since ")
    expect(shown.locator(".part-dest a").first).to_have_attribute("href", f"#job?id={well['id']}")
    home()  # is the backup of X younger than a day?
    row(page, old).locator(".row-dest").click()
    expect(page.locator("#success")).to_contain_text("older than a day")
    home()
    row(page, failed).locator(".row-dest").click()
    expect(page.locator("#success")).to_contain_text("younger than a day")
    home()  # run it again, and stop it
    gate = desk.hold(key="no")
    before = set(desk.service.ids())
    row(page, failed).get_by_role("button", name="Run again").click()
    again = wait_for(lambda: set(desk.service.ids()) - before, 15, "the job").pop()
    gate.wait()
    page.locator("#active").get_by_role("button", name="Cancel").click()
    gate.open()
    expect(row(page, again).locator(".badge")).to_have_text("cancelled")


def test_filters_stand_in_the_address_and_rows_are_walked_by_keys(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    status = service.done(bucket)
    ids = copies(service, status, 60, state="failed", error={"code": "OddCode", "message": "odd"})
    page = new_page()
    page.goto(service.url)
    settled(page)
    expect(page.locator("#history tbody tr")).to_have_count(50)
    page.locator("#history .row-link").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('tr').dataset.job") == ids[-1]
    page.keyboard.press("/")
    page.keyboard.type("oddcode")
    expect(row(page, status["id"])).to_have_count(0)
    expect(page).to_have_url(re.compile(r"#jobs\?q=oddcode$"))
    page.get_by_role("link", name="Older jobs").click()
    expect(page.locator("#history tbody tr")).to_have_count(10)
    page.reload()
    expect(page.locator("#history tbody tr")).to_have_count(10)
    expect(page.get_by_label("Search")).to_have_value("oddcode")
    page.get_by_role("link", name="done", exact=True).click()
    expect(page.get_by_text("No job is like this.")).to_be_visible()
    page.get_by_role("link", name="Clear").click()
    expect(page.locator("#history tbody tr")).to_have_count(50)
    page.get_by_label("From", exact=True).fill("2026-01-02")
    expect(page.locator("#history tbody tr")).to_have_count(1)
    page.goto(f"{service.url}/#jobs?since=nonsense")
    expect(page.locator("#ended-none")).to_contain_text("since must be a time")
    page.goto(f"{service.url}/#job?id=20200101T000000-00000000")
    expect(page.get_by_role("alert").filter(has_text="20200101T000000-00000000")).to_be_visible()


def test_what_is_run_again_deletes_no_bucket_unasked(
    desk: Desk, bucket: str, juicefs: Store, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"a": "1"})
    status = desk.service.done(bucket)
    desk.folder("photos", {"a": None})
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    row(page, status["id"]).get_by_role("button", name="Run again").click()
    dialog = page.get_by_role("dialog", name="Delete the bucket?")
    expect(dialog).to_contain_text(f"the bucket {bucket} will be deleted, with 1 object in it")
    expect(dialog.get_by_role("button", name="Delete the bucket")).to_be_disabled()
    check_with_axe(page)
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    assert desk.service.ids() == [status["id"]] and exists(juicefs, bucket)
    row(page, status["id"]).get_by_role("button", name="Run again").click()
    dialog.get_by_label(re.compile("typed to confirm")).fill(bucket)
    dialog.get_by_role("button", name="Delete the bucket").click()
    wait_for(lambda: not exists(juicefs, bucket), 30, "the bucket to be gone")


def test_a_job_s_page_tells_how_to_start_the_same(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    service = make_service(juicefs)
    folder = "it's a `folder`; $(touch owned)"
    tree(service.uploads / folder, {"a": "1", "b.tmp": "2"})
    asked = {"source": folder, "dest": bucket, "exclude": ["*.tmp", "x y"], "wait": "0.5"}
    first = service.post_json("/sync", asked).json()["id"]
    status = service.wait_state(first, "done")
    page = new_page()
    page.goto(f"{service.url}/#job?id={first}")
    shown = page.locator("#view-job")
    expect(shown.locator(".phase-list li").first).to_contain_text("starting")
    shell, curl = (shown.get_by_role("region", name=name, exact=True) for name in ("Command", "curl"))
    expect(shell).to_contain_text("python -m syncworker start")
    expect(curl).to_contain_text("curl")
    secrets = (juicefs.access_key, juicefs.secret_key)
    assert not any(secret in page.content() for secret in secrets)
    ran = subprocess.run(
        ["sh", "-c", curl.inner_text()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=service.base,
    )
    again = service.wait_state(json.loads(ran.stdout)["id"], "done")
    named = ("source", "dest", "storage_url", "wait", "options")
    assert [again[name] for name in named] == [status[name] for name in named]
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {shell.inner_text()}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()
    assert words[4:] == [
        f"--source={folder}", f"--dest={bucket}", f"--storage-url={status['storage_url']}", "--wait=0.5",
        "--exclude=*.tmp", "--exclude=x y",
    ]  # fmt: skip
    assert not (service.base / "owned").exists()
    page.locator("summary", has_text="Log of the worker").click()
    expect(shown.get_by_role("region", name="Log", exact=True)).not_to_be_empty()


def test_a_thousand_jobs_weigh_what_fifty_do(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    status = service.done(bucket)
    weights = []
    page = new_page()
    for number in (60, 1000):
        copies(service, status, number)
        page.goto("about:blank")
        page.goto(service.url)
        settled(page)
        expect(page.locator("#history tbody tr")).to_have_count(50)
        expect(page.locator("#source option", has_text="photos (1 file")).to_be_attached()
        # What is drawn late, by another answer, is none of the jobs: until nothing has come for a second.
        elements = [page.evaluate(ELEMENTS), -1]
        while elements[-1] != elements[-2]:
            page.wait_for_timeout(1000)
            elements.append(page.evaluate(ELEMENTS))
        weights.append((elements[-1], len(service.get("/jobs", limit=50).body) // 1000))
    (fifty, first_bytes), (thousand, then_bytes) = weights
    assert abs(thousand - fifty) <= 5, "elements; a line that comes and goes is none of the jobs"
    assert first_bytes == then_bytes


# -- names, tokens, quiet ---------------------------------------------------------------------------------


def test_names_are_text_and_never_markup(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    evil = "<img src=x onerror=document.title='owned'>"
    service = make_service(juicefs)
    tree(service.uploads / evil, {"<script>alert(1)</script>": "1", "b": "2"})
    job_id = service.sync(bucket, evil)
    status = service.wait_state(job_id)
    member = {"name": "m", "host": evil, "state": "refused", "reason": evil, "files_done": 3, "bytes_done": 9}
    working = {"host": "node2", "state": "ready", "reason": None, "in_flight": 2, "rss_bytes": 50 << 20}
    members = [member, member | working]
    status["cluster"] = {"scheduler": "tls", "workers": members, "lost": 0, "resent": 0}
    (service.jobs / f"{job_id}.json").write_text(json.dumps(status))
    page = new_page()
    page.goto(service.url)
    expect(row(page, job_id).locator(".row-title")).to_have_text(f"{evil} → {bucket}")
    expect(page.locator("#source option", has_text=evil)).to_be_attached()
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Bucket sync"
    expect(page_of(page, job_id).locator("h2")).to_have_text(f"{evil} → {bucket}")
    expect(page.locator(".report .key", has_text="<script>alert(1)</script>")).to_be_visible()
    page.locator("summary", has_text="Members: 1 of 2 at work").click()
    expect(page.locator("li", has_text="node2")).to_have_text(
        "node2 ready 3 files, 9 B, 2 in flight, 52.4 MB"
    )
    expect(page.locator("li", has_text="refused").locator(".key")).to_have_text(evil)
    assert page.locator("main img, main script").count() == 0


def test_the_token_is_asked_for(
    make_service: Callable[..., Service], juicefs: Store, new_page: Callable[..., Page]
) -> None:
    service = make_service(juicefs, API_TOKEN="the-token-of-this-test")
    page = new_page()
    assert page.goto(service.url).status == 401
    check_with_axe(page)
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_label("Token")).to_have_value("")
    page.get_by_label("Token").fill("the-token-of-this-test")
    page.get_by_role("button", name="Log in").click()
    settled(page)
    assert page.url == f"{service.url}/" and "token" not in page.url
    page.context.clear_cookies()  # the token was changed, say
    dialog = page.get_by_role("dialog", name="This server requires its token")
    expect(dialog).to_be_visible()
    check_with_axe(page)
    dialog.get_by_label("Token").fill("wrong")
    dialog.get_by_role("button", name="Log in").click()
    expect(dialog.get_by_text("This is not the token")).to_be_visible()
    dialog.get_by_label("Token").fill("the-token-of-this-test")
    dialog.get_by_label("Token").press("Enter")
    expect(dialog).to_be_hidden()
    settled(page)


def test_an_idle_page_costs_next_to_nothing_and_a_hidden_one_nothing(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    service.done(bucket)
    page = new_page()
    page.clock.install()
    answers: list[tuple[int, str]] = []
    page.on("response", lambda r: answers.append((r.status, r.url)) if "runnings" in r.url else None)
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url) if "runnings" in r.url else None)
    page.goto(service.url)
    settled(page)
    with page.expect_response(lambda r: "/runnings" in r.url and r.status == 304):
        pass
    assert answers[0][0] == 200 and {status for status, _ in answers[1:]} == {304}
    hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    expect(page.locator("#connection")).to_have_text("paused")
    assert page.evaluate("fetch('/healthz').then(answer => answer.ok)")  # all that was asked before is told
    asked = len(requests)
    page.clock.fast_forward(60_000)  # whatever was due is run now
    assert page.evaluate("fetch('/healthz').then(answer => answer.ok)")  # asked later than anything due
    assert len(requests) == asked
    with page.expect_response(lambda r: "/runnings" in r.url):
        page.evaluate(hide, False)
    expect(page.locator("#connection")).to_have_text("live")


def test_a_server_that_is_gone_is_said_and_found_again(
    make_service: Callable[..., Service], juicefs: Store, new_page: Callable[..., Page]
) -> None:
    service = make_service(juicefs)
    page = new_page()
    page.goto(service.url)
    settled(page)
    service.kill()
    expect(page.locator("#connection")).to_have_text("no answer, trying again")
    service.start()
    expect(page.locator("#connection")).to_have_text("live")


@pytest.mark.parametrize("path", ["runnings", "jobs", "report"])
def test_a_question_that_is_never_answered_is_asked_again(
    path: str,
    make_service: Callable[..., Service],
    juicefs: Store,
    bucket: str,
    new_page: Callable[..., Page],
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    job_id = service.done(bucket)["id"]
    page = new_page()
    asked: list[str] = []

    def swallow_the_first(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) > 1:
            route.continue_()

    page.route(re.compile(rf"/{path}(\?|$)"), swallow_the_first)
    page.goto(f"{service.url}/#job?id={job_id}" if path == "report" else service.url)
    expect(page.locator("#connection")).to_have_text("no answer, trying again")
    settled(page)
    assert len(asked) > 1
    if path == "report":
        expect(page.locator(".report .key")).to_have_text([bucket, "a"])


def test_everything_works_with_the_keyboard(desk: Desk, bucket: str, new_page: Callable[..., Page]) -> None:
    desk.folder("photos", {"held": "1"})
    gate = desk.hold(key="held")
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    expect(page.locator("#source option", has_text="photos (1 file")).to_be_attached()
    page.locator("#source").focus()
    page.keyboard.type("photos")
    expect(page.locator("#source")).to_have_value("photos")
    page.keyboard.press("Tab")
    page.keyboard.type(bucket)
    page.keyboard.press("Enter")
    gate.wait()
    cancel = page.get_by_role("button", name="Cancel photos to")
    expect(cancel).to_be_visible()
    for _ in range(20):
        page.keyboard.press("Tab")
        if cancel.evaluate("element => element === document.activeElement"):
            break
    page.keyboard.press("Enter")
    # It waits for the PUT that is held, and says so as soon as the worker has told it.
    expect(page.locator("#active .badge")).to_have_text(re.compile("^cancelling"))
    gate.open()
    expect(page.locator("#history .badge")).to_have_text("cancelled")


# -- how it looks -----------------------------------------------------------------------------------------


def test_the_pictures_of_the_docs(
    desk: Desk,
    make_bucket: Callable[[Store], str],
    juicefs: Store,
    new_page: Callable[..., Page],
    tmp_path: Path,
) -> None:
    """Wide and narrow, light and dark, with a job of each kind; axe finds nothing in any of them."""
    desk.folder(
        "photos",
        {f"2024/{n:03}.jpg": 20_000 + n * 7919 % 90_000 for n in range(60)} | {"2025/film.mp4": 60_000_000},
    )
    desk.folder("letters", {f"{n}.txt": 3000 for n in range(25)})
    desk.folder("music", {"a.flac": 900_000, "b.flac": 800_000})
    desk.folder("emptied", {})
    target = os.environ.get("SCREENSHOTS")
    denied = s3_error(403, "AccessDenied", "Access Denied.")
    buckets = [make_bucket(juicefs) for _ in range(3)]
    if target:  # names that look well; each store is thrown away with the tests
        buckets = ["letters-archive", "music-archive", "photo-archive"]
    for source, dest in zip(("letters", "music"), buckets, strict=False):
        if source == "music":
            desk.proxy.on_request(lambda r: denied if r.method == "PUT" and r.key == "b.flac" else None)
        desk.service.wait_state(desk.service.sync(dest, source))
    pages = {}
    for scheme in ("light", "dark"):
        for name, size in (("wide", WIDE), ("narrow", NARROW)):
            page = pages[scheme, name] = new_page(color_scheme=scheme, viewport=size)
            page.goto(desk.service.url)
            settled(page)
    parts = desk.hold(key="film.mp4")
    running = desk.service.sync(buckets[2], "photos", wait="0.1" if target else "0")
    for (scheme, name), page in pages.items():
        expect(page.locator("#history tbody tr")).to_have_count(2)
        parts.wait(30)
        expect(card(page, running).get_by_text("60 of 61 files")).to_be_visible()
        page.locator("#source").select_option("emptied")
        page.locator("#dest").fill(buckets[0])
        expect(page.locator("#danger")).to_contain_text("25 objects")
        assert fits(page), (scheme, name)
        check_with_axe(page)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(244, 246, 249)", "dark": "rgb(16, 21, 27)"}[scheme]
        picture = tmp_path / f"dashboard-{name}-{scheme}.png"
        page.screenshot(path=picture, full_page=True)
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 200_000
        page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        assert fits(page), (scheme, name)
        check_with_axe(page)
    parts.drop()
    if target:
        os.makedirs(target, exist_ok=True)
        for picture in tmp_path.glob("*.png"):
            shutil.copy(picture, target)

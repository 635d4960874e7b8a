"""The dashboard's view of mirrors, in a real Chromium and on a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import test_dashboard
from bench import Service, contents, s3_error, tree, wait_for
from playwright.sync_api import Page, expect
from stores import Store
from test_dashboard import NARROW, Desk, check_with_axe, fits, settled

browser, new_page = test_dashboard.browser, test_dashboard.new_page
WHOLE_4K = {"width": 3840, "height": 2160}


@pytest.fixture
def desk(make_service: Callable[..., Service], make_proxy: Any, juicefs: Store, tmp_path: Path) -> Desk:
    proxy = make_proxy(juicefs)
    file = str(tmp_path / "mirrors.toml")
    return Desk(make_service(juicefs, start=False, STORAGE_URL=proxy.url, MIRRORS_FILE=file), proxy)


def remember(desk: Desk, mirrors: dict[str, list[str]]) -> None:
    """Runs of earlier nights, a day apart, the last one yesterday."""
    kept = {name: memory_of(states) for name, states in mirrors.items()}
    desk.service.jobs.mkdir(exist_ok=True)
    (desk.service.jobs / ".mirrors.json").write_text(json.dumps({"version": 1, "mirrors": kept}))


def memory_of(states: list[str]) -> dict[str, Any]:
    now = datetime.now(UTC)
    runs = []
    for back, state in zip(range(len(states), 0, -1), states, strict=True):
        at = now - timedelta(days=back, hours=1)
        text = [
            f"{moment:%Y-%m-%dT%H:%M:%S.000Z}" for moment in (at, at + timedelta(seconds=20 + back * 37 % 90))
        ]
        run: dict[str, Any] = {"id": f"{at:%Y%m%dT%H%M%S}-00000000", "state": state, "attempt": 1}
        run |= {"scoped": False, "started_at": text[0], "finished_at": text[1]}
        run |= {"error": None if state == "done" else "StorageUnreachable"}
        runs.append(run | {"files_uploaded": 1, "bytes_uploaded": 5, "objects_deleted": 0})
    seen = f"{now - timedelta(days=90):%Y-%m-%dT%H:%M:%S.000Z}"
    success = next((run["finished_at"] for run in reversed(runs) if run["state"] == "done"), None)
    skipped = 2 if states[-1] != "done" else 0
    return {
        "first_seen": seen,
        "last_due": f"{now:%Y-%m-%dT%H:%M:%S.000Z}",
        "last_success": success,
        "skipped": skipped,
        "missed": skipped + 1,
        "last_missed": f"{now - timedelta(days=2 if skipped else 9, hours=1):%Y-%m-%dT%H:%M:%S.000Z}",
        "runs": runs,
    }


def mirror(page: Page, name: str) -> Any:
    return page.locator(f'#mirrors [data-mirror="{name}"]')


def open_page(page: Page, desk: Desk) -> None:
    page.goto("about:blank")
    page.goto(desk.service.url)
    settled(page)


def test_no_mirrors_no_view(desk: Desk, new_page: Callable[..., Page]) -> None:
    desk.service.start()
    page = new_page()
    open_page(page, desk)
    expect(page.locator("#mirrors-panel")).to_be_hidden()
    expect(page.get_by_label("Of mirror")).to_be_hidden()


def test_mirrors_are_told_run_and_approved_by_keyboard(
    desk: Desk, juicefs: Store, bucket: str, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    toml = tmp_path / "mirrors.toml"
    desk.folder("photos", {"a": "1", "b": "2", "c": "3"})
    desk.folder("films", {"no": "1"})
    remember(desk, {"films": ["done", "done", "failed"]})
    toml.write_text(
        f"[photos]\nsource='photos'\ndest='{bucket}'\nmax_delete=1\ncron='0 3 * * *'\nmax_age='26h'\n"
        f"[films]\nsource='films'\ndest='{bucket}-films'\nmax_age='26h'\nevery='36h'\n"
    )
    desk.proxy.on_request(
        lambda r: s3_error(403, "AccessDenied") if r.method == "PUT" and r.key == "no" else None
    )
    desk.service.start()
    page = new_page()
    open_page(page, desk)
    photos, films = mirror(page, "photos"), mirror(page, "films")
    assert page.evaluate("document.querySelector('main h2').textContent") == "Mirrors"
    expect(photos.locator(".badge")).to_have_text("never ran")
    expect(photos.locator(".at-success")).to_have_text("never")
    expect(photos.locator(".at-next")).to_contain_text("cron 0 3 * * *")
    expect(films.locator(".troubles li")).to_have_text(
        [
            re.compile(r"^Overdue: the last success was 2 days ago\.$"),
            "The last run failed (StorageUnreachable).",
            "3 runs missed while no server ran, the last 2 days ago.",
            "2 runs missed, as the destination was busy.",
        ]
    )
    expect(films.get_by_role("img")).to_have_attribute("aria-label", "films: 3 runs, 1 not done")
    expect(films.locator(".bars [data-state]")).to_have_count(3)
    expect(films.locator(".at-next")).to_contain_text("every 36 h")
    check_with_axe(page)

    photos.get_by_role("button", name="Run now photos").focus()
    page.keyboard.press("Enter")
    expect(photos.locator(".badge")).to_have_text("done")
    expect(photos.locator(".at-success")).to_have_text(re.compile("just now|ago"))
    expect(photos.locator(".at-files")).to_have_text("3 files, 3 B")
    expect(photos.get_by_role("img")).to_have_attribute("aria-label", "photos: 1 run, all done")
    assert set(contents(juicefs, bucket)) == {"a", "b", "c"}
    films.get_by_role("button", name="Run now films").click()
    expect(films.locator(".troubles li").nth(1)).to_have_text("The last run failed (FilesFailed).")
    expect(photos.locator(".badge")).to_have_text("done")

    desk.folder("photos", {"a": None, "b": None})  # more than may go unasked
    photos.get_by_role("button", name="Run now photos").click()
    expect(photos.locator(".badge")).to_have_text("waits for approval")
    expect(photos.locator(".at-next")).to_contain_text("stopped: it waits")
    expect(photos.locator(".troubles")).to_contain_text("the schedule stops until it is approved")
    for size in (NARROW, WHOLE_4K):
        page.set_viewport_size(size)
        assert fits(page), size
        check_with_axe(page)
    photos.get_by_role("button", name="Approve photos").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Approve the plan?")
    expect(dialog).to_contain_text("2 objects")
    assert len(contents(juicefs, bucket)) == 3
    dialog.get_by_role("button", name="Approve").click()
    expect(photos.locator(".badge")).to_have_text("done")
    expect(photos.get_by_role("button", name="Approve photos")).to_be_hidden()
    assert set(contents(juicefs, bucket)) == {"c"}


def test_a_mirror_of_an_empty_folder_deletes_no_bucket_unasked(
    desk: Desk, bucket: str, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    desk.folder("photos", {})
    (tmp_path / "mirrors.toml").write_text(f"[photos]\nsource='photos'\ndest='{bucket}'\n")
    desk.service.start()
    page = new_page()
    open_page(page, desk)
    mirror(page, "photos").get_by_role("button", name="Run now photos").click()
    dialog = page.get_by_role("dialog", name="Delete the bucket?")
    expect(dialog).to_contain_text(f"the bucket {bucket} will be deleted")
    expect(dialog.get_by_role("button", name="Delete the bucket")).to_be_disabled()
    dialog.get_by_role("button", name="Close").click()
    assert desk.service.ids() == []


def test_mistakes_are_told_with_their_line_and_history_filters_by_mirror(
    desk: Desk, bucket: str, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    toml = tmp_path / "mirrors.toml"
    well = f"[photos]\nsource='photos'\ndest='{bucket}'\n"
    toml.write_text(well)
    tree(desk.service.uploads / "photos", {"a": "1"})
    desk.service.start()
    by_hand = desk.service.done(bucket)["id"]
    run = desk.service.get("/sync", mirror="photos").json()["id"]
    desk.service.wait_state(run, "done")
    toml.write_text(well + "evry='1h'\n")
    wait_for(lambda: desk.service.get("/mirrors").json()["mistakes"], 10, "the mistake")
    page = new_page(color_scheme="dark")
    open_page(page, desk)
    expect(page.locator("#mistakes")).to_contain_text(re.compile(r"mirrors\.toml, line 4: .*evry"))
    expect(mirror(page, "photos").locator(".badge")).to_have_text("done")  # the last good file holds
    check_with_axe(page)
    rows = page.locator("#history tbody tr")
    expect(rows).to_have_count(2)
    mirror(page, "photos").get_by_role("link", name="photos: only its jobs").click()
    expect(rows).to_have_count(1)
    expect(rows).to_have_attribute("data-job", run)
    expect(page.get_by_label("Of mirror")).to_have_value("photos")
    page.get_by_role("link", name="Clear").click()
    expect(rows).to_have_count(2)
    page.get_by_label("Of mirror").fill("another")
    expect(rows).to_have_count(0)
    page.get_by_role("link", name="Clear").click()
    page.locator(f'#history [data-job="{run}"]').get_by_role("link", name="photos: only this mirror").click()
    expect(rows).to_have_count(1)
    assert by_hand != run
    toml.unlink()
    page.reload()
    settled(page)
    expect(page.locator("#mirrors-panel")).to_be_hidden()


def test_a_run_is_found_below_the_path_that_a_proxy_shows(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    file = tmp_path / "mirrors.toml"
    file.write_text(f"[photos]\nsource='photos'\ndest='{bucket}'\n")
    service = make_service(juicefs, MIRRORS_FILE=str(file), API_BASE_PATH="/s3sync/")
    tree(service.uploads / "photos", {"a": "1"})
    made = service.get("/sync", mirror="photos")
    assert made.headers["location"] == f"/s3sync/get?id={made.json()['id']}"
    service.wait_state(made.json()["id"], "done")

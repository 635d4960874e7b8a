"""All views of the dashboard, as the docs show them; axe finds nothing in any, and nothing sticks out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import test_dashboard
import test_dashboard_mirrors
from bench import fill
from playwright.sync_api import Page, expect
from stores import Store
from test_dashboard import NARROW, WIDE, Desk, check_with_axe, copies, fits, settled
from test_dashboard_mirrors import mirror, remember

browser, new_page, desk = test_dashboard.browser, test_dashboard.new_page, test_dashboard_mirrors.desk

SHOWN = ("mirrors-wide-light", "mirrors-narrow-dark", "options-wide-dark", "plan-wide-light",
         "history-wide-light", "job-wide-light")  # fmt: skip
MIRRORS = """
[pictures]
source = "pictures"
dest = "picture-collection"
cron = "0 3 * * *"
max_age = "26h"
[documents]
source = "documents"
dest = "document-store"
every = "6h"
watch = true
[films]
source = "films"
dest = "film-vault"
cron = "30 4 * * 0"
max_age = "8d"
[mail]
source = "mail"
dest = "mail-backup"
cron = "0 1 * * *"
max_delete = "10%"
"""


@pytest.mark.timeout(600)  # axe looks fifteen times
def test_the_pictures_of_all_views(
    desk: Desk, juicefs: Store, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    (tmp_path / "mirrors.toml").write_text(MIRRORS)
    nights = ["done"] * 30
    failed_once = [*nights[:11], "failed", *nights[12:]]
    remember(
        desk,
        {"pictures": failed_once, "documents": nights[:9], "films": [*nights[:8], *["failed"] * 12],
         "mail": nights[:22]},
    )  # fmt: skip
    desk.folder("pictures", {f"2026/{n:02}/{k}.jpg": 900_000 + k for n in (1, 2, 3) for k in range(9)})
    desk.folder("documents", {"letters": {f"{n}.txt": 3000 for n in range(25)}, "notes.tmp": 400})
    desk.folder("films", {"one.mkv": 3_000_000})
    kept = {f"inbox/{n:03}.eml": b"m" * (700 + n) for n in range(30)}
    desk.folder("mail", dict.fromkeys(list(kept)[:8], 800) | {f"sent/{n:03}.eml": 900 for n in range(12)})
    fill(
        juicefs,
        "mail-backup",
        kept | {f"archive/{y}/{n}.eml": b"o" * 2000 for y in (2024, 2025) for n in "abc"},
    )
    desk.service.start()
    made = {}
    for name, state in (("pictures", "done"), ("mail", "waiting")):
        made[name] = desk.service.get("/sync", mirror=name).json()["id"]
        desk.service.wait_state(made[name], state)
    done = desk.service.show(made["pictures"])
    copies(desk.service, done, 40, mirror=None)
    away = {"code": "StorageUnreachable", "message": "The storage at s3.example.com does not answer"}
    films = {"source": "films", "dest": "film-vault", "mirror": "films"}
    copies(desk.service, done, 9, state="failed", error=away, **films)
    copies(desk.service, done, 3, state="interrupted", message="its worker was killed", mirror=None)
    for scheme, name, size in (("light", "wide", WIDE), ("dark", "wide", WIDE), ("dark", "narrow", NARROW)):
        page = new_page(color_scheme=scheme, viewport=size)

        def take(view: str, page: Page = page, name: str = name, scheme: str = scheme) -> None:
            assert fits(page), (view, name, scheme)
            check_with_axe(page)
            picture = tmp_path / f"{view}-{name}-{scheme}.png"
            page.screenshot(path=picture)
            assert 5_000 < picture.stat().st_size < 300_000

        page.goto(desk.service.url)
        settled(page)
        expect(mirror(page, "pictures").locator(".badge")).to_have_text("done")
        expect(mirror(page, "mail").locator(".badge")).to_have_text("waits for approval")
        expect(page.locator("#history tbody tr")).to_have_count(43, timeout=20_000)  # 40 of them copies
        take("mirrors")
        page.goto(f"{desk.service.url}/#jobs?q=e")
        expect(page.locator("#history tbody tr").first).to_be_visible()
        page.locator("#ended-title").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#ended-title').scrollIntoView()")
        take("history")
        page.evaluate("scrollTo(0, 0)")
        page.locator("summary", has_text="More options").click()
        page.get_by_label("Folder", exact=True).select_option("documents")
        page.get_by_label("Exclude, one").fill("*.tmp\n/cache/")
        expect(page.locator("#filtered")).to_have_text("The patterns leave 25 files, 75.0 kB.")
        page.evaluate("document.querySelector('#start-title').scrollIntoView()")
        take("options")
        page.goto(f"{desk.service.url}/#job?id={made['pictures']}")
        expect(page.locator(".part-report .key").first).to_be_visible()
        take("job")
        page.goto(f"{desk.service.url}/#job?id={made['mail']}")
        expect(page.get_by_role("region", name="The plan by folder").locator("tbody tr")).to_have_count(2)
        page.evaluate("document.querySelector('.part-plan').scrollIntoView()")
        take("plan")
    if target := os.environ.get("SCREENSHOTS"):
        os.makedirs(target, exist_ok=True)
        for name in SHOWN:
            shutil.copy(tmp_path / f"{name}.png", target)

"""All options of a sync in the dashboard's form, in a real Chromium and on a real server."""

from __future__ import annotations

import re
from collections.abc import Callable

import test_dashboard
from bench import contents, exists, fill, wait_for
from playwright.sync_api import Locator, Page, expect
from stores import Store
from test_dashboard import NARROW, Desk, check_with_axe, fits, row, settled, start

from syncworker.options import table
from syncworker.options.object_headers import ACLS, ENCRYPTIONS

browser, new_page, desk = test_dashboard.browser, test_dashboard.new_page, test_dashboard.desk


def open_options(page: Page, desk: Desk) -> Locator:
    page.goto(desk.service.url)
    settled(page)
    page.locator("summary", has_text="More options").click()
    return page.locator("#options")


def test_every_option_is_in_the_form(desk: Desk, bucket: str, new_page: Callable[..., Page]) -> None:
    """And each is asked for as it was put in."""
    page = new_page()
    box = open_options(page, desk)
    names = box.locator("input, select, textarea").evaluate_all("all => all.map(one => one.name)")
    assert sorted(names) == sorted(table.NAMES)
    for name, words in (("acl", ACLS), ("sse", ENCRYPTIONS), ("verify", ("1", "deep"))):
        values = box.locator(f"[name={name}] option").evaluate_all("all => all.map(one => one.value)")
        assert values == ["", *words]
    check_with_axe(page)
    page.set_viewport_size(NARROW)
    assert fits(page)
    texts = {
        "prefix": "a/b",
        "max_delete": "10%",
        "bandwidth": "1.5M",
        "wait": "0.25",
        "storage_class": "STANDARD",
        "sse_kms_key_id": "alias/x",
        "tags": "a=b&c=d",
        "exclude": "*.tmp\n\n/cache/",
        "include": "*.jpg",
        "header": "*.html Cache-Control: no-cache\n*.js X-Amz-Meta-A: 1",
    }
    for name, text in texts.items():
        box.locator(f"[name={name}]").fill(text)
    for name, value in (("verify", "deep"), ("acl", "private"), ("sse", "aws:kms")):
        box.locator(f"[name={name}]").select_option(value)
    for name in ("plan", "delete", "forget_mounts"):
        box.locator(f"[name={name}]").check()
    expect(page.locator("#start summary")).to_have_text(f"More options ({len(table.NAMES)} set)")
    desk.folder("photos", {"a.jpg": "1"})
    page.locator("#source").focus()
    page.get_by_label("Folder", exact=True).select_option(label="Another folder…")
    page.get_by_label("Path below the uploads folder").fill("photos")
    page.get_by_label("Bucket", exact=True).fill(bucket)
    page.get_by_role("button", name="Start").click()
    job_id = wait_for(lambda: desk.service.ids(), 15, "the job").pop()
    status = desk.service.show(job_id)
    assert status["wait"] == 0.25
    assert status["options"] == {
        "prefix": "a/b/", "max_delete": "10%", "bandwidth": "1.5M", "storage_class": "STANDARD",
        "sse_kms_key_id": "alias/x", "tags": "a=b&c=d", "exclude": ["*.tmp", "/cache/"], "include": ["*.jpg"],
        "header": ["*.html Cache-Control: no-cache", "*.js X-Amz-Meta-A: 1"], "verify": "deep",
        "acl": "private", "sse": "aws:kms", "plan": 1, "delete": 0, "forget_mounts": 1,
    }  # fmt: skip
    expect(box.locator("[name=forget_mounts]")).not_to_be_checked()  # it acts once
    desk.service.wait_state(job_id)


def test_what_the_patterns_leave_is_counted_as_they_are_typed(
    desk: Desk, juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"a.jpg": 1000, "b.tmp": 500, "cache": {"c.jpg": 2000}})
    desk.folder("films", {"d.tmp": 1})
    page = new_page()
    box = open_options(page, desk)
    page.get_by_label("Folder", exact=True).select_option("photos")
    told = page.locator("#filtered")
    expect(told).to_be_empty()
    box.get_by_label("Exclude, one").focus()
    page.keyboard.type("*.tmp")
    expect(told).to_have_text("The patterns leave 2 files, 3.0 kB.")
    page.keyboard.press("Enter")
    page.keyboard.type("/cache/")
    expect(told).to_have_text("The patterns leave 1 file, 1.0 kB.")
    box.get_by_label("Include only").fill("*.png")
    expect(told).to_contain_text("The patterns leave 0 files, 0 B. Objects in the bucket that the patterns")
    box.get_by_label("Include only").fill("!*.png")
    expect(told).to_contain_text("include")
    expect(box.get_by_label("Include only")).to_have_attribute("aria-invalid", "true")
    check_with_axe(page)
    box.get_by_label("Include only").fill("")
    expect(told).to_have_text("The patterns leave 1 file, 1.0 kB.")
    page.get_by_label("Folder", exact=True).select_option("films")
    expect(told).to_contain_text("The patterns leave 0 files, 0 B.")
    page.get_by_label("Folder", exact=True).select_option("photos")
    expect(told).to_have_text("The patterns leave 1 file, 1.0 kB.")
    job_id = start(page, desk.service, "photos", bucket)
    expect(row(page, job_id).locator(".badge")).to_have_text("done")
    assert set(contents(juicefs, bucket)) == {"a.jpg"}


def test_with_options_an_empty_folder_deletes_what_it_says(
    desk: Desk, juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("empty", {})
    fill(juicefs, bucket, {"a/1": b"1", "b/2": b"2"})
    page = new_page()
    box = open_options(page, desk)
    page.get_by_label("Folder", exact=True).select_option("empty")
    page.get_by_label("Bucket", exact=True).fill(bucket)
    danger, go = page.locator("#danger"), page.locator("#go")
    expect(danger).to_contain_text(f"the bucket {bucket} will be deleted")
    box.locator("[name=delete]").check()
    expect(danger).to_be_hidden()
    expect(go).to_have_text("Start")
    box.locator("[name=delete]").uncheck()
    box.locator("[name=plan]").check()
    expect(danger).to_be_hidden()
    box.locator("[name=plan]").uncheck()
    expect(go).to_have_text("Delete the bucket")
    box.get_by_label("Key prefix").fill("a")
    expect(danger).to_contain_text(f"every object of the bucket {bucket} below a will be deleted")
    expect(go).to_have_text("Delete the objects")
    expect(go).to_be_disabled()
    page.get_by_label(re.compile("^Type the bucket")).fill(bucket)
    go.click()
    expect(page.locator("#history tbody tr .badge")).to_have_text("done")
    assert exists(juicefs, bucket) and set(contents(juicefs, bucket)) == {"b/2"}

"""A plan on the job's page: deletions and the biggest first, by folder, searched, paged to its last line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import test_dashboard
from bench import Service, fill, tree
from playwright.sync_api import Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from stores import Store
from test_dashboard import NARROW, Desk, check_with_axe, copies, fits

browser, new_page, desk = test_dashboard.browser, test_dashboard.new_page, test_dashboard.desk


def keys(page: Page) -> list[str]:
    return page.get_by_role("region", name="Lines of the plan").locator(".key").all_inner_texts()


def folders(page: Page, number: int) -> list[list[str]]:
    rows = page.get_by_role("region", name="The plan by folder").locator("tbody tr")
    expect(rows).to_have_count(number)
    return [row.locator("td").all_inner_texts() for row in rows.all()]


def test_a_plan_shows_deletions_and_the_biggest_first_by_folder_and_is_searched(
    desk: Desk, juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"new": {f"{number:03}.jpg": "x" for number in range(130)}, "top.txt": "t"})
    old = {f"old/a/{number:03}.jpg": b"y" * (number + 1) for number in range(12)}
    old |= {"old/b/big.bin": b"z" * 5000, "older/c.jpg": b"c" * 40, "gone.txt": b"g"}
    fill(juicefs, bucket, old)
    job_id = desk.service.sync(bucket, plan="1")
    desk.service.wait_state(job_id, "waiting")
    page = new_page()
    page.goto(f"{desk.service.url}/#job?id={job_id}")
    plan = page.locator(".part-plan")
    expect(plan).to_contain_text("15 objects to delete, 131 files to send")
    expect(plan.get_by_label("Show")).to_have_value("delete")
    expect(plan.locator(".key").first).to_have_text("old/b/big.bin")
    expect(plan.locator(".key")).to_have_count(15)
    assert keys(page) == sorted(old, key=lambda key: (-len(old[key]), key))
    assert folders(page, 4) == [
        ["in no folder", "1", "1 B", "1", "0"],
        ["old/", "13", "5.1 kB", "0", "0"],
        ["older/", "1", "40 B", "0", "0"],
        ["new/", "0", "\u2013", "130", "0"],
    ]
    check_with_axe(page)
    plan.get_by_role("button", name="old/", exact=True).focus()
    page.keyboard.press("Enter")
    expect(plan.get_by_role("button", name="a/", exact=True)).to_be_visible()
    assert folders(page, 2) == [["a/", "12", "78 B", "0", "0"], ["b/", "1", "5.0 kB", "0", "0"]]
    expect(plan.locator(".key")).to_have_count(13)
    plan.get_by_role("button", name="a/", exact=True).click()
    expect(plan.locator(".path")).to_have_text("All folders / old / a")
    expect(plan.locator(".key")).to_have_count(12)
    plan.get_by_role("button", name="All folders").click()
    expect(plan.locator(".key")).to_have_count(15)

    plan.get_by_label("Show").select_option("")
    plan.get_by_label("Order").select_option("key")
    expect(plan.locator(".key")).to_have_count(100)
    expect(plan.locator(".key").first).to_have_text("gone.txt")
    page.get_by_role("button", name="Next lines of the plan").click()
    expect(plan.locator(".key")).to_have_count(46)
    expect(plan.locator(".key").last).to_have_text("top.txt")
    page.get_by_role("button", name="First lines of the plan").click()
    expect(plan.locator(".key")).to_have_count(100)
    plan.get_by_label("Key").fill("00")
    expect(plan.locator(".key").first).to_have_text("new/000.jpg")
    plan.get_by_label("Show").select_option("delete")
    expect(plan.locator(".key")).to_have_count(10)
    plan.get_by_label("Key").fill("nowhere")
    expect(plan.get_by_text("No such lines.")).to_be_visible()
    page.set_viewport_size(NARROW)
    assert fits(page)
    check_with_axe(page)


def test_the_last_line_of_a_large_plan_is_reached(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    status = service.done(bucket)
    [job_id] = copies(service, status, 1, state="waiting")
    text = "".join(
        f'{{"op": "delete", "key": "{number // 1000:03}/{number % 1000:03}", "size": {number}, "etag": "e",'
        ' "modified": null, "reason": "gone"}\n'
        for number in range(200_000)
    )
    service.file(job_id, "plan.jsonl").write_text(text)
    about: dict[str, Any] = {"etag": hashlib.sha256(text.encode()).hexdigest(), "lines": 200_000}
    shown = service.show(job_id) | {"plan": about | {"approved_at": None}}
    shown["progress"] |= {"objects_to_delete": 200_000}
    service.file(job_id, "json").write_text(json.dumps(shown))
    page = new_page()
    page.goto(f"{service.url}/#job?id={job_id}")
    plan = page.locator(".part-plan")
    expect(plan.locator(".key").first).to_have_text("199/999")
    expect(plan).to_contain_text("and 150 folders more")
    plan.get_by_label("Order").select_option("key")
    expect(plan.locator(".key").first).to_have_text("000/000")
    plan.get_by_label("Key").fill("199/999")
    # A search of two seconds may not come to the end: it says so, and the next one goes on.
    found = plan.get_by_text("199/999", exact=True)
    none_so_far = plan.get_by_text("None so far")
    expect(found.or_(none_so_far)).to_be_visible()
    while none_so_far.is_visible():
        # The button goes when the last search has found it, which may be just before it is pressed.
        with (
            contextlib.suppress(PlaywrightTimeout),
            page.expect_response(re.compile(r"/plan\?"), timeout=10_000),
        ):
            page.get_by_role("button", name="Next lines of the plan").click(timeout=2_000)
        expect(found.or_(none_so_far)).to_be_visible()
    expect(plan.locator(".key")).to_have_text(["199/999"])
    address = f"/plan?id={job_id}&below=199/&after=900"
    page_of_199 = service.get(address)
    assert page_of_199.body.count(b"\n") == 100 and "link" not in page_of_199.headers
    first = service.get(f"/plan?id={job_id}&below=199/&op=delete&limit=10")
    following = re.search(r"<([^>]+)>", first.headers["link"])
    assert following
    assert json.loads(service.get(following[1]).body.splitlines()[0])["key"] == "199/010"
    service.file(job_id, "plan.jsonl").write_text("not a plan\n")
    for path in ("/plan/sums", "/plan"):
        assert service.get(path, id=job_id, below="a").status == 404

"""The filters and selects of the dashboard by keys alone: what a mouse can do, Tab, arrows and Enter can."""

from __future__ import annotations

import re
from collections.abc import Callable

import test_dashboard
from bench import fill, s3_error, wait_for
from playwright.sync_api import Locator, Page, expect
from stores import Store
from test_dashboard import Desk, copies, row, settled

browser, new_page, desk = test_dashboard.browser, test_dashboard.new_page, test_dashboard.desk
TABS_MAX = 200


def tab_to(page: Page, target: Locator) -> None:
    """By Tab alone; what has the focus must show it."""
    expect(target).to_be_visible()
    for _ in range(TABS_MAX):
        if target.evaluate("element => element === document.activeElement"):
            assert target.evaluate("element => element.matches(':focus-visible')")
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{TABS_MAX} tabs did not lead to {target}")


def press(page: Page, target: Locator, key: str) -> None:
    tab_to(page, target)
    page.keyboard.press(key)


def choose(page: Page, select: Locator, value: str) -> None:
    tab_to(page, select)
    page.keyboard.press("Home")
    for _ in range(select.locator("option").count()):
        if select.input_value() == value:
            return
        page.keyboard.press("ArrowDown")
    raise AssertionError(f"the arrows did not lead to {value}")


def test_the_history_is_filtered_paged_and_walked_by_keys_alone(
    desk: Desk, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"a": "1"})
    status = desk.service.done(bucket)
    failed = {"state": "failed", "error": {"code": "OddCode", "message": "odd"}}
    ids = copies(desk.service, status, 60, dest="other-bucket", **failed)
    page = new_page()
    rows, search = page.locator("#history tbody tr"), page.get_by_label("Search")
    page.goto(desk.service.url)
    settled(page)
    expect(rows).to_have_count(50)
    press(page, page.get_by_role("link", name="failed", exact=True), "Enter")
    expect(page).to_have_url(re.compile(r"#jobs\?state=failed$"))
    expect(row(page, status["id"])).to_have_count(0)
    press(page, rows.first.locator(".row-link"), "End")
    press(page, page.get_by_role("link", name="Older jobs"), "Enter")
    expect(rows).to_have_count(10)
    press(page, page.get_by_role("link", name="Newest jobs"), "Enter")
    expect(rows).to_have_count(50)
    press(page, rows.first.locator(".row-link"), "End")
    assert page.evaluate("document.activeElement.closest('tr').dataset.job") == ids[10]
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.closest('tr').dataset.job") == ids[11]
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.closest('tr').dataset.job") == ids[-1]
    page.keyboard.press("Enter")
    expect(page.locator(f'#view-job [data-job="{ids[-1]}"]')).to_be_visible()
    page.go_back()
    expect(rows).to_have_count(50)
    page.keyboard.press("/")
    expect(search).to_be_focused()
    press(page, page.get_by_role("link", name="Clear"), "Enter")
    expect(page).to_have_url(re.compile(r"#jobs$"))
    page.keyboard.press("/")
    tab_to(page, page.get_by_label("Of bucket"))
    page.keyboard.type(bucket)
    expect(rows).to_have_count(1)
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    expect(rows).to_have_count(50)
    tab_to(page, page.get_by_label("Of folder"))
    page.keyboard.type("nothing")
    expect(page.get_by_text("No job is like this.")).to_be_visible()
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    expect(rows).to_have_count(50)
    tab_to(page, page.get_by_label("From", exact=True))
    page.keyboard.type("02012026")  # in the order that the browser's language writes dates
    expect(page).to_have_url(re.compile(r"since=2026-0[12]-0[12]"))
    expect(rows).to_have_count(1)


def test_errors_and_lines_of_a_job_are_chosen_and_searched_by_keys_alone(
    desk: Desk, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"yes": "1", "no": "2"})
    desk.proxy.on_request(
        lambda r: s3_error(403, "AccessDenied") if r.method == "PUT" and r.key == "no" else None
    )
    job = desk.service.sync(bucket)
    desk.service.wait_state(job, "failed")
    page = new_page()
    page.goto(f"{desk.service.url}/#job?id={job}")
    report = page.locator(".part-report")
    expect(report.locator(".key")).to_have_text(["no"])
    choose(page, report.get_by_label("Show"), "all")
    expect(report.locator(".key")).to_have_count(3)
    choose(page, report.get_by_label("Show"), "upload")
    expect(report.locator(".key")).to_have_count(2)
    tab_to(page, report.get_by_label("Key, code or message"))
    page.keyboard.type("yes")
    expect(report.locator(".key")).to_have_text(["yes"])
    tab_to(page, page.get_by_role("region", name="Lines of the report"))
    log = page.locator("summary").filter(has_text="Log")
    press(page, log, "Enter")
    expect(page.get_by_role("region", name="Log", exact=True)).to_be_visible()
    tab_to(page, page.get_by_role("region", name="Command"))


def test_a_plan_is_sorted_searched_and_approved_by_keys_alone(
    desk: Desk, juicefs: Store, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"new": {"a": "1", "b": "22"}})
    fill(juicefs, bucket, {"old/a": b"x", "old/b": b"x" * 9})
    job = desk.service.sync(bucket, plan="1")
    desk.service.wait_state(job, "waiting")
    page = new_page()
    page.goto(f"{desk.service.url}/#job?id={job}")
    plan = page.locator(".part-plan")
    expect(plan.locator(".key")).to_have_text(["old/b", "old/a"])
    choose(page, plan.get_by_label("Order"), "key")
    expect(plan.locator(".key")).to_have_text(["old/a", "old/b"])
    page.keyboard.press("Shift+Tab")
    choose(page, plan.get_by_label("Show"), "upload")
    expect(plan.locator(".key")).to_have_text(["new/a", "new/b"])
    tab_to(page, plan.get_by_label("Key", exact=True))
    page.keyboard.type("new/b")
    expect(plan.locator(".key")).to_have_text(["new/b"])
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    approve = page.locator("#view-job").get_by_role("button", name="Approve").first
    press(page, approve, "Enter")
    press(page, page.get_by_role("dialog").get_by_role("button", name="Approve"), "Enter")
    wait_for(lambda: desk.service.show(job)["state"] == "done", 30, "what was approved")


def test_a_sync_with_options_is_started_by_keys_alone(
    desk: Desk, bucket: str, new_page: Callable[..., Page]
) -> None:
    desk.folder("photos", {"a": "1"})
    page = new_page()
    page.goto(desk.service.url)
    settled(page)
    expect(page.locator("#source option", has_text="photos (1 file")).to_be_attached()
    choose(page, page.locator("#source"), "photos")
    tab_to(page, page.get_by_label("Bucket", exact=True))
    page.keyboard.press("Control+A")
    page.keyboard.type(bucket)
    press(page, page.locator("#start summary"), "Enter")
    box = page.locator("#options")
    choose(page, box.locator("[name=verify]"), "deep")
    ticked = box.locator("[name=plan]")
    press(page, ticked, "Space")
    expect(ticked).to_be_checked()
    page.keyboard.press("Space")
    expect(ticked).not_to_be_checked()
    before = set(desk.service.ids())
    press(page, page.locator("#go"), "Enter")
    job = wait_for(lambda: set(desk.service.ids()) - before, 15, "the job").pop()
    assert desk.service.wait_state(job, "done")["options"] == {"verify": "deep"}

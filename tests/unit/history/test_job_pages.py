"""Finding things again: filters of the history, the report page by page, the end of the log."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Answer, Site, write_finished

from syncworker.errors import UsageError
from syncworker.history import filters, pages
from syncworker.jobs import status as job_status


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9")
    yield site
    site.close()


def write(site: Site, job_id: str, **fields: Any) -> None:
    status = {
        "version": 1,
        "id": job_id,
        "state": "done",
        "source": "a",
        "dest": "bucket",
        "storage_url": "http://a",
    }
    status |= {"errors": [], "progress": dict(job_status.PROGRESS), "cancel_requested": False, "error": None}
    (Path(site.jobs.path) / f"{job_id}.lock").touch(0o600)
    (Path(site.jobs.path) / f"{job_id}.json").write_text(json.dumps(status | fields))


# -- the history ------------------------------------------------------------------------------------------

JOBS = {
    "20261120T100000-00000001": {"source": "photos", "dest": "archive"},
    "20261121T235959-00000002": {"source": "films", "dest": "archive"},
    "20261122T000000-00000003": {"source": "photos", "dest": "other", "state": "failed",
                                 "error": {"code": "DiskNotMounted", "message": "…"}},
    "20261122T131242-9f3a61c2": {"source": "photos/2024", "dest": "archive", "state": "cancelled"},
    "20261123T080000-00000005": {"source": "", "dest": "archive"},
}  # fmt: skip
ASKED = [
    ("", "5 4 3 2 1"),
    ("dest=archive", "5 4 2 1"),
    ("source=photos", "3 1"),
    ("source=photos/&dest=archive", "1"),
    ("state=failed&dest=", "3"),
    ("since=2026-11-22", "5 4 3"),
    ("until=2026-11-21", "2 1"),
    ("until=2026-11-22", "4 3 2 1"),
    ("since=2026-11-22&until=2026-11-22", "4 3"),
    ("since=2026-11-22T13:12:42Z", "5 4"),
    ("until=2026-11-22T13:12:42Z", "4 3 2 1"),
    ("since=2026-11-22T14:12:42%2B01:00", "5 4"),
    ("since=2026-11-22T14:12:42+01:00", "5 4"),
    ("since=20261122T13", "5 4"),
    ("until=20261121", "2 1"),
    ("until=20261122T131242-9f3a61c2", "4 3 2 1"),
    ("since=2026", "5 4 3 2 1"),
    ("q=PHOTO", "4 3 1"),
    ("q=notmounted", "3"),
    ("q=9f3a", "4"),
    ("q=nothing", ""),
    ("mirror=nightly", ""),
    ("before=20261122T000000-00000003&dest=archive", "2 1"),
]


@pytest.mark.parametrize(("asked", "wanted"), ASKED)
def test_the_history_is_filtered(site: Site, asked: str, wanted: str) -> None:
    for job_id, fields in JOBS.items():
        write(site, job_id, **fields)
    answer = site.get(f"/jobs?{asked}")
    assert answer.status == 200, answer
    numbers = {job_id: str(number) for number, job_id in enumerate(JOBS, 1)}
    assert " ".join(numbers[job["id"]] for job in answer.json["jobs"]) == wanted


def test_a_filtered_history_is_paged_to_its_end(site: Site) -> None:
    for number in range(60):
        write(site, f"20261122T{number:06}-00000000", dest="even" if number % 2 == 0 else "odd")
    found, before = [], ""
    while before is not None:
        page = site.get(f"/jobs?dest=odd&limit=7&before={before}").json
        found += [job["id"] for job in page["jobs"]]
        before = page["next"]
    assert found == [f"20261122T{number:06}-00000000" for number in range(59, 0, -2)]


def test_long_answers_are_packed_for_clients_that_take_it(site: Site) -> None:
    for number in range(20):
        write(site, f"20261122T{number:06}-00000000")
    plain = site.get("/jobs")
    packed = site.get("/jobs", Accept_Encoding="br, gzip")
    assert "content-encoding" not in plain.headers and plain.headers["vary"] == "Accept-Encoding"
    assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(packed.body) == plain.body and len(packed.body) < len(plain.body) / 4
    assert int(packed.headers["content-length"]) == len(packed.body)
    assert packed.headers["etag"] == plain.headers["etag"]
    again = site.get("/jobs", Accept_Encoding="gzip", If_None_Match=packed.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    for accepted in ("", "gzip;q=0", "br"):
        assert "content-encoding" not in site.get("/jobs", Accept_Encoding=accepted).headers
    assert "content-encoding" not in site.get("/jobs?limit=1", Accept_Encoding="gzip").headers  # short


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2026-13-01",
        "2026-11-22T13:00:00",
        "20261122T1312421",
        "1",
        "2026-11-22T25:00Z",
        "٢٠٢٦",
        "9999-99-99",
    ],
)
def test_what_is_no_time_is_refused_by_name(site: Site, text: str) -> None:
    for name in ("since", "until"):
        with pytest.raises(UsageError) as refused:
            filters.parse({name: text})
        assert refused.value.param == name
        if text.isascii():
            assert site.get(f"/jobs?{name}={text}").problem["param"] == name


# -- the report -------------------------------------------------------------------------------------------

JOB = "20261122T131242-9f3a61c2"


def line(number: int, op: str = "upload", **more: Any) -> bytes:
    return (
        json.dumps({"time": "t", "op": op, "key": f"Ordner/{number:07}", "size": 1, **more}).encode() + b"\n"
    )


def put_report(site: Site, lines: list[bytes]) -> None:
    write(site, JOB)
    (Path(site.jobs.path) / f"{JOB}.report.jsonl").write_bytes(b"".join(lines))


def follow(answer: Answer) -> str | None:
    found = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers.get("link", ""))
    return found[1] if found else None


def whole(site: Site, target: str) -> list[bytes]:
    found: list[bytes] = []
    at: str | None = target
    while at is not None:
        answer = site.get(at)
        assert answer.status == 200, answer
        assert answer.headers["content-type"] == "application/x-ndjson"
        found += answer.body.splitlines(keepends=True)
        at = follow(answer)
    return found


@pytest.mark.parametrize("limit", ["", "1", "7", "10000"])
def test_a_report_is_read_whole_by_its_links(site: Site, limit: str) -> None:
    lines = [line(number) for number in range(50)]
    put_report(site, lines)
    assert whole(site, f"/report?id={JOB}&limit={limit}") == lines


def test_a_page_begins_behind_the_lines_that_were_read(site: Site) -> None:
    lines = [line(number) for number in range(3000)]
    put_report(site, lines)
    for after in (0, 1, 999, 1000, 2999, 3000, 3001, 9_999_999_999):
        answer = site.get(f"/report?id={JOB}&after={after}&limit=10")
        assert answer.body == b"".join(lines[after : after + 10])
        assert (follow(answer) is None) == (after + 10 >= 3000)
    assert "after=1000" in (follow(site.get(f"/report?id={JOB}")) or "")


def test_a_report_is_searched_by_operation_and_word(site: Site) -> None:
    lines = [line(number, "delete" if number % 3 == 0 else "upload") for number in range(300)]
    lines[100] = line(100, error={"code": "AccessDenied", "message": "the storage refuses"})
    put_report(site, lines)
    assert whole(site, f"/report?id={JOB}&op=delete&limit=9") == lines[::3]
    assert whole(site, f"/report?id={JOB}&q=accessDENIED") == [lines[100]]
    assert whole(site, f"/report?id={JOB}&q=ordner/00002&op=upload") == [
        x for x in lines[200:] if b"upload" in x
    ]
    assert whole(site, f"/report?id={JOB}&q=%22upload%22") == []
    lines[200] = line(200, "skip", error={"code": "fifo", "message": "not sent: fifo"})
    put_report(site, lines)
    assert whole(site, f"/report?id={JOB}&errors=1&limit=1") == [lines[100]]  # skipped is not failed
    assert whole(site, f"/report?id={JOB}&errors=0") == lines
    assert site.get(f"/report?id={JOB}&errors=2").status == 400


def test_a_long_search_hands_on_its_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line(number) for number in range(2000)]
    put_report(site, lines)
    monkeypatch.setattr(pages, "_SEARCH_SECONDS", 0.0)
    first = site.get(f"/report?id={JOB}&q=0001999")
    assert (first.body, "after=" in (follow(first) or "")) == (b"", True)
    assert whole(site, f"/report?id={JOB}&q=0001999") == [lines[1999]]


def test_a_search_in_long_lines_ends_in_time_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    put_report(site, [line(number, note="x" * 100_000) for number in range(100)])
    monkeypatch.setattr(pages, "_SEARCH_SECONDS", -1.0)
    assert "after=1&" in (follow(site.get(f"/report?id={JOB}&q=none")) or "") + "&"


def test_lines_that_are_no_operations_are_not_found(site: Site) -> None:
    put_report(site, [b"null\n", b"1\n", b"[" * 100_000 + b"\n", line(3)])
    assert whole(site, f"/report?id={JOB}&q=ordner") == [line(3)]


def test_a_page_is_no_longer_than_four_megabytes(site: Site) -> None:
    lines = [line(number, note="x" * 5000) for number in range(2000)]
    put_report(site, lines)
    assert len(site.get(f"/report?id={JOB}&limit=10000").body) < (4 << 20) + 6000
    assert whole(site, f"/report?id={JOB}&limit=10000") == lines


def test_a_line_that_is_being_written_is_not_given_out(site: Site) -> None:
    put_report(site, [line(0), line(1)[:20]])
    answer = site.get(f"/report?id={JOB}")
    assert (answer.body, follow(answer)) == (line(0), None)
    put_report(site, [line(0), line(1)])
    assert site.get(f"/report?id={JOB}&after=1").body == line(1)


def test_a_million_lines_are_reached_page_by_page(tmp_path: Path) -> None:
    path = tmp_path / "report"
    with path.open("wb") as file:
        for number in range(1_000_000):
            file.write(b'{"n": %d}\n' % number)
    reader = pages.ReportReader()
    after: int | None = 0
    count = 0
    while after is not None:
        page = reader.page(str(path), after=after, limit=10_000)
        assert page.lines.startswith(b'{"n": %d}\n' % after)
        count += page.lines.count(b"\n")
        after = page.following
    assert count == 1_000_000
    fresh = pages.ReportReader().page(str(path), after=999_999, limit=10)
    assert fresh == (b'{"n": 999999}\n', None)


def test_a_job_without_a_report_has_an_empty_one_and_an_unknown_job_none(site: Site) -> None:
    write(site, JOB)
    assert (site.get(f"/report?id={JOB}").status, site.get(f"/report?id={JOB}").body) == (200, b"")
    assert site.get("/report?id=20261122T131242-00000000").status == 404
    assert site.get("/log?id=20261122T131242-00000000").status == 404


BAD = [
    ("after", "-1"),
    ("after", "x"),
    ("limit", "0"),
    ("limit", "10001"),
    ("op", "look"),
    ("id", "../x"),
    ("id", ""),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_parameter_of_a_page_is_named(site: Site, name: str, value: str) -> None:
    write(site, JOB)
    pairs = {"id": JOB, name: value}
    answer = site.get("/report?" + "&".join(f"{key}={text}" for key, text in pairs.items()))
    assert (answer.status, answer.problem["param"]) == (400, name)


# -- the log ----------------------------------------------------------------------------------------------


def test_the_end_of_the_log_is_plain_text_from_a_lines_start(site: Site) -> None:
    write(site, JOB)
    assert site.get(f"/log?id={JOB}").body == b""
    log = Path(site.jobs.path) / f"{JOB}.log"
    log.write_bytes("\x1b[31mred\x07\tTab\r\nzweite ü\u2028\n".encode() + b"\xff<script>\n")
    answer = site.get(f"/log?id={JOB}")
    assert answer.body.decode() == "\\u001b[31mred\\u0007\tTab\\u000d\nzweite ü\\u2028\n\\xff<script>\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(20_000)))
    tail = site.get(f"/log?id={JOB}").body
    assert (64 << 10) - 20 < len(tail) <= 64 << 10
    assert re.match(rb"line \d+\n", tail) and tail.endswith(b"line 19999\n")


def test_report_and_log_need_the_token(tmp_path: Path) -> None:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9", API_TOKEN="t" * 32)
    try:
        write_finished(Path(site.jobs.path), 1)
        for path in ("/report", "/log"):
            assert site.get(f"{path}?id={JOB}").status == 401
    finally:
        site.close()

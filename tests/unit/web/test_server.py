"""The routes: parameters, statuses, errors, and what slow or flooding clients can do."""

from __future__ import annotations

import json
import os
import select
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from bench import wait_for
from serving import Site, write_finished

from syncworker.jobs import status_cache
from syncworker.web.operations import OPERATIONS
from syncworker.wire import resolver

NO_JOB = "20260101T000000-00000000"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9", MAX_QUEUED_JOBS="3")
    yield site
    site.close()


# -- routes and methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OPERATIONS)
def test_methods_are_those_of_the_contract(site: Site, path: str) -> None:
    allowed = {"GET", "POST"} if OPERATIONS[path].acts else {"GET", "POST", "HEAD"}
    for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "LINK"):
        answer = site.ask(method, f"{path}?nonsense=1")
        if method in allowed:
            assert answer.status == 400, (method, answer)  # it came as far as its parameters
        else:
            assert answer.status == 405, (method, answer)
            assert set(answer.headers["allow"].split(", ")) == allowed
        assert method != "HEAD" or answer.body == b""


def test_a_head_never_acts(site: Site) -> None:
    job_id = site.submit()
    assert site.ask("HEAD", "/sync?source=&dest=other").status == 405
    assert site.ask("HEAD", f"/cancel?id={job_id}").status == 405
    assert site.jobs.ids() == [job_id] and not site.jobs.is_cancelled(job_id)


def test_a_head_of_a_reading_route_has_the_headers_and_no_body(site: Site) -> None:
    answer = site.ask("HEAD", "/runnings")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("target", ["/nothing", "/sync/", "/get/../sync", "/%2e%2e/etc/passwd", "/%ff"])
def test_an_unknown_path_is_a_problem_document(site: Site, target: str) -> None:
    answer = site.get(target)
    assert answer.status in (404, 400)
    assert answer.problem["code"] in ("NotFound", "BadRequest")


def test_an_exception_is_500_without_its_trace(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the inside of the server")

    monkeypatch.setattr(site.jobs.catalog, "unsettled", fail)
    answer = site.get("/runnings")
    assert (answer.status, answer.problem["code"]) == (500, "InternalError")
    assert b"inside" not in answer.body


def test_a_jobs_folder_that_fails_is_reported_in_one_sentence(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "/secret/place")

    monkeypatch.setattr(site.jobs, "create", fail)
    answer = site.get("/sync?source=&dest=bucket")
    assert answer.status == 500
    assert "No space left" in answer.problem["detail"] and b"/secret/place" not in answer.body


# -- sync -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["query", "form", "json", "post with a query"])
def test_sync_takes_its_parameters_in_every_way(site: Site, how: str) -> None:
    answer = {
        "query": lambda: site.get("/sync?source=a%20b/%C3%A9+c&dest=bucket&wait=1.5"),
        "form": lambda: site.form("/sync", b"source=a%20b/%C3%A9+c&dest=bucket&wait=1.5"),
        "json": lambda: site.json("/sync", {"source": "a b/é c", "dest": "bucket", "wait": 1.5}),
        "post with a query": lambda: site.ask("POST", "/sync?source=a%20b/%C3%A9+c&dest=bucket&wait=1.5"),
    }[how]()
    assert answer.status == 202, answer
    status = answer.json
    assert "does not exist" in status.pop("warning")
    assert (status["state"], status["source"], status["dest"], status["wait"]) == (
        "queued",
        "a b/é c",
        "bucket",
        1.5,
    )
    assert answer.headers["location"] == f"/get?id={status['id']}"
    assert "é" in answer.body.decode()  # UTF-8, not escapes
    assert site.get(answer.headers["location"]).json == status


BAD_SYNCS = [
    ("source=..&dest=bucket", "source"),
    ("source=/etc&dest=bucket", "source"),
    ("source=a%00b&dest=bucket", "source"),
    ("source=%FF&dest=bucket", "source"),
    ("source=a%2&dest=bucket", "source"),
    ("source=a&dest=B", "dest"),
    ("source=a&dest=bucket%0d%0aX:1", "dest"),
    ("source=a&dest=bucket&wait=-1", "wait"),
    ("source=a&dest=bucket&wait=3601", "wait"),
    ("source=a&dest=bucket&wait=nan", "wait"),
    ("source=a&dest=bucket&wait=1e999", "wait"),
    ("source=a&dest=bucket&wait=1%0a", "wait"),
    ("source=a&dest=bucket&source=b", "source"),
    ("source=a&dest=bucket&sourc=b", "sourc"),
    ("source=a;secret_key=b", "secret_key"),
    ("source=a;b=c;dest=b", "dest"),
    ("source=a&dest=bucket&%FF=b", None),
    ("source=a&dest=bucket&storage_url=http://127.0.0.1:1", "access_key"),
    ("source=a&dest=bucket&storage_url=ftp://a&access_key=k&secret_key=s", "storage_url"),
    ("source=a&dest=bucket&storage_url=http://169.254.169.254&access_key=k&secret_key=s", "storage_url"),
    ("source=a&dest=bucket&access_key=k", "secret_key"),
    ("source=a&dest=bucket&secret_key=k", "access_key"),
    ("source=a&dest=bucket&access_key=a%20b&secret_key=s", "access_key"),
]


@pytest.mark.parametrize("query, param", BAD_SYNCS)
@pytest.mark.parametrize("how", ["query", "form"])
def test_a_bad_parameter_is_named_and_nothing_is_made(
    site: Site, query: str, param: str | None, how: str
) -> None:
    answer = site.get(f"/sync?{query}") if how == "query" else site.form("/sync", query.encode())
    assert answer.status == 400, answer
    assert answer.problem.get("param") == param
    assert site.jobs.ids() == []


@pytest.mark.parametrize(
    "document, status",
    [
        ({"source": "", "dest": "bucket", "wait": 0}, 202),
        ({"source": "", "dest": "bucket", "wait": "0"}, 202),
        ({"source": "", "dest": "bucket", "wait": True}, 400),
        ({"source": None, "dest": "bucket", "wait": None}, 202),
        ({"source": "", "dest": "bucket", "exclude": [None]}, 400),
        ({"source": "", "dest": "bucket", "nothing": None}, 400),
        ({"source": "", "dest": 5}, 400),
        ({"source": ["a"], "dest": "bucket"}, 400),
        ({"source": {"a": "b"}, "dest": "bucket"}, 400),
        ({"source": "\ud800", "dest": "bucket"}, 400),
        ([["source", ""], ["dest", "bucket"]], 400),
        ("source", 400),
        (b'{"source": "", "source": "a", "dest": "bucket"}', 400),
        (b'{"source": "", "dest": "bucket", "wait": NaN}', 400),
        (b'{"source": "", "dest": "bucket", "wait": 1e999}', 400),
        (b'{"source": "", "dest": "bucket", "wait": ' + b"9" * 5000 + b"}", 400),
        (b"{", 400),
        (b"[" * 60000, 400),
        (b"\xff\xfe{}", 400),
    ],
)
def test_json_bodies_are_read_strictly(site: Site, document: object, status: int) -> None:
    answer = site.json("/sync", document)
    assert answer.status == status, answer
    assert status == 202 or answer.problem["detail"]


def test_a_name_in_query_and_body_is_refused(site: Site) -> None:
    answer = site.form("/sync?source=a&dest=bucket", b"dest=bucket")
    assert (answer.status, answer.problem["param"]) == (400, "dest")


@pytest.mark.parametrize(
    "content_type, status",
    [
        ("multipart/form-data; boundary=x", 415),
        ("text/plain", 415),
        ("", 415),
        ("application/json; charset=latin-1", 415),
        ("application/x-www-form-urlencoded; charset=UTF-8", 202),
    ],
)
def test_other_bodies_are_refused(site: Site, content_type: str, status: int) -> None:
    answer = site.ask("POST", "/sync", b"source=a&dest=bucket", Content_Type=content_type)
    assert answer.status == status, answer


def test_a_body_of_256_kib_is_read_and_a_longer_one_is_413(site: Site) -> None:
    head = b"source=a&dest=bucket&unknown="
    assert site.form("/sync", head + b"a" * (262144 - len(head))).status == 400
    answer = site.form("/sync", head + b"a" * (262145 - len(head)))
    assert (answer.status, answer.problem["status"]) == (413, 413)
    # Long after the answer the client still sends: it must get to read why.
    assert site.form("/sync", b"a" * 20_000_000).status == 413


@pytest.mark.parametrize("encode", [json.dumps, lambda pairs: urlencode(pairs, doseq=True)])
def test_lists_of_32_kib_each_reach_the_check_in_any_encoding(site: Site, encode: Any) -> None:
    lines = ["\u00e9" * 512] * 32  # three characters a byte in a form, as many in JSON of ASCII alone
    body = encode({"dest": "bucket", "exclude": lines, "include": lines}).encode()
    kind = "application/json" if encode is json.dumps else "application/x-www-form-urlencoded"
    answer = site.ask("POST", "/sync", body, Content_Type=kind)
    assert answer.status == 202, answer
    assert answer.json["options"] == {"exclude": lines, "include": lines}


@pytest.mark.parametrize("value", [1, True, [], ["a"], {"a": 1}, "a", None])
def test_an_unknown_name_is_refused_as_that_whatever_its_value_is(site: Site, value: object) -> None:
    answer = site.ask(
        "POST", "/sync", json.dumps({"nosuch": value}).encode(), Content_Type="application/json"
    )
    assert (answer.status, answer.problem["param"]) == (400, "nosuch"), answer
    assert answer.problem["code"] == "UnknownParameter"


def test_a_list_of_empty_values_is_an_empty_one(site: Site) -> None:
    assert site.get("/sync?include=&include=&exclude=&exclude=").json["options"] == {}
    assert (
        site.get("/sync?dest=other&source=%0A").json["source"] == "\n"
    )  # a folder's name, not an empty list


def test_a_chunked_body_is_bounded_too(site: Site) -> None:
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    head = b"POST /sync HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    assert site.raw(head + b"\r\n" + chunk * 5).status == 413
    assert site.raw(head + b"Content-Length: 5\r\n\r\n0\r\n\r\n").status == 400


def test_long_headers_are_431(site: Site) -> None:
    assert site.get("/runnings", X="a" * 20000).problem["status"] == 431
    assert site.get("/get?id=" + "a" * 20000).problem["status"] == 431


def test_too_many_parameters_are_refused(site: Site) -> None:
    assert (
        site.get("/runnings?" + "&".join(f"a{n}=1" for n in range(40))).problem["code"] == "TooManyParameters"
    )


def test_a_busy_destination_is_409_with_the_job_that_has_it(site: Site) -> None:
    job_id = site.submit()
    answer = site.get("/sync?source=other&dest=bucket")
    assert (answer.status, answer.problem["job"]) == (409, job_id)
    with site.running(job_id):
        assert site.get("/sync?source=other&dest=bucket").status == 409


def test_a_full_queue_is_503_with_retry_after(site: Site) -> None:
    for number in range(3):
        site.submit(f"bucket-{number}")
    answer = site.get("/sync?source=&dest=bucket-4")
    assert (answer.status, answer.problem["code"]) == (503, "QueueFull")
    assert int(answer.headers["retry-after"]) > 0


def test_of_many_syncs_at_once_on_one_bucket_one_is_taken(site: Site) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(site.get("/sync?source=&dest=bucket").status))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [202] + [409] * 15


def test_keys_go_to_the_secret_file_and_nowhere_else(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    answer = site.get("/sync?source=&dest=bucket&access_key=AKIDOWN&secret_key=S3CRET/of%2Bone")
    assert answer.status == 202
    assert "POST" in answer.json["warning"]
    job_id = answer.json["id"]
    secret = Path(site.jobs.file(job_id, "secret"))
    assert json.loads(secret.read_text()) == {"access_key": "AKIDOWN", "secret_key": "S3CRET/of+one"}
    assert secret.stat().st_mode & 0o777 == 0o600
    assert "warning" not in site.get(f"/get?id={job_id}").json
    shown = b"".join(site.get(target).body for target in ("/runnings", "/jobs", f"/get?id={job_id}"))
    shown += Path(site.jobs.file(job_id, "json")).read_bytes() + answer.body
    assert b"S3CRET" not in shown and b"AKIDOWN" not in shown
    assert "S3CRET" not in capfd.readouterr().err


def test_a_session_token_is_kept_with_its_keys_and_replaced_with_them(site: Site) -> None:
    body = b"source=&dest=bucket&access_key=AKID&secret_key=S3CRET%0A&session_token=T0KEN%0D%0A"
    answer = site.form("/sync", body)
    assert answer.status == 202 and b"T0KEN" not in answer.body
    job_id = answer.json["id"]
    secret = Path(site.jobs.file(job_id, "secret"))
    kept = {"access_key": "AKID", "secret_key": "S3CRET", "session_token": "T0KEN"}
    assert json.loads(secret.read_text()) == kept  # one line end, as files have it, is no part of a key
    with site.running(job_id):
        pass
    answer = site.get(f"/resume?id={job_id}&access_key=a&secret_key=b&session_token=c")
    assert answer.status == 202 and answer.json["warning"].startswith("secret_key was")
    assert site.jobs.secrets.keys(job_id) == ("a", "b", "c")
    for query in ("session_token=t", "session_token=t&access_key=a"):
        assert site.get(f"/sync?source=&dest=other&{query}").problem["detail"].endswith("with session_token")


def test_keys_in_a_form_give_no_warning(site: Site) -> None:
    answer = site.form("/sync", b"dest=bucket&access_key=AKID&secret_key=S3CRET")
    assert answer.status == 202 and "warning" not in answer.json


def test_a_silent_name_server_delays_a_request_by_two_seconds_at_most(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(resolver, "check_storage_url", lambda _url: released.wait(30))
    started = time.monotonic()
    try:
        answer = site.get("/sync?source=&dest=bucket&storage_url=http://slow.test&access_key=k&secret_key=s")
    finally:
        released.set()
    assert answer.status == 202
    assert time.monotonic() - started < 10, "two, and a slow machine's"


# -- get, cancel, resume, runnings, jobs ------------------------------------------------------------------

BAD_IDS = [
    "",
    "x",
    "../../etc/passwd",
    f"{NO_JOB}/../x",
    f"{NO_JOB}%00",
    f"{NO_JOB}%0a",
    NO_JOB.upper().lower(),
]


@pytest.mark.parametrize("path", ["/get", "/cancel", "/resume"])
@pytest.mark.parametrize("job_id", BAD_IDS)
def test_a_malformed_id_is_400(site: Site, path: str, job_id: str) -> None:
    answer = site.get(f"{path}?id={job_id}")
    assert (answer.status, answer.problem["param"]) == (400, "id")


@pytest.mark.parametrize("path", ["/get", "/cancel", "/resume"])
def test_a_job_that_is_not_there_is_404(site: Site, path: str) -> None:
    assert site.get(f"{path}?id={NO_JOB}").problem["status"] == 404


def test_runnings_are_queued_and_running_jobs_oldest_first(site: Site) -> None:
    ids = [site.submit(f"bucket-{number}") for number in range(3)]
    site.get(f"/cancel?id={ids[1]}")
    with site.running(ids[2]):
        found = site.get("/runnings").json
    assert found["count"] == 2
    assert [(job["id"], job["state"]) for job in found["jobs"]] == [(ids[0], "queued"), (ids[2], "running")]


def test_a_job_whose_worker_died_is_interrupted_at_the_first_look(site: Site) -> None:
    job_id = site.submit()
    with site.running(job_id):
        assert site.get(f"/get?id={job_id}").json["state"] == "running"
    assert site.get("/runnings").json == {"count": 0, "jobs": []}
    assert site.get(f"/get?id={job_id}").json["error"]["code"] == "WorkerDied"


def test_a_queued_job_is_cancelled_at_once(site: Site) -> None:
    job_id = site.submit()
    answer = site.get(f"/cancel?id={job_id}")
    assert (answer.status, answer.json["state"]) == (202, "cancelled")
    assert answer.json["cancel_requested"] is True
    again = site.get(f"/cancel?id={job_id}")
    assert (again.status, again.problem["job"]) == (409, job_id)


def test_cancelling_a_running_job_leaves_the_sentinel_and_may_be_repeated(site: Site) -> None:
    job_id = site.submit()
    with site.running(job_id):
        answers = [site.get(f"/cancel?id={job_id}"), site.form("/cancel", f"id={job_id}".encode())]
        for answer in answers:
            assert (answer.status, answer.json["state"]) == (202, "running")
            assert answer.json["cancel_requested"] is True
        assert os.path.getsize(site.jobs.file(job_id, "cancel")) == 0
    assert site.get(f"/get?id={job_id}").json["state"] == "cancelled"


def test_resume_queues_an_ended_job_again_under_its_id(site: Site) -> None:
    job_id = site.submit()
    assert site.get(f"/resume?id={job_id}").problem["status"] == 409  # queued
    with site.running(job_id):
        assert site.get(f"/resume?id={job_id}").status == 409
    answer = site.get(f"/resume?id={job_id}")
    assert answer.status == 202
    assert (answer.json["state"], answer.json["attempt"], answer.json["id"]) == ("queued", 2, job_id)


def test_a_done_job_cannot_be_resumed(site: Site) -> None:
    (job_id,) = write_finished(Path(site.jobs.path), 1)
    assert site.get(f"/resume?id={job_id}").status == 409


def test_resume_asks_for_keys_that_were_removed(site: Site) -> None:
    job_id = site.submit(storage_url=quote("http://127.0.0.1:1"), access_key="k", secret_key="s")
    site.get(f"/cancel?id={job_id}")
    assert site.jobs.secrets.keys(job_id) is None
    answer = site.get(f"/resume?id={job_id}")
    assert (answer.status, answer.problem["param"]) == (400, "access_key")
    assert site.form("/resume", f"id={job_id}&access_key=k2&secret_key=s2".encode()).status == 202
    assert site.jobs.secrets.keys(job_id) == ("k2", "s2", None)


def test_jobs_are_paged_newest_first(site: Site) -> None:
    ids = write_finished(Path(site.jobs.path), 7)
    seen: list[str] = []
    target = "/jobs?limit=3"
    for _ in range(3):
        page = site.get(target).json
        assert page["count"] == len(page["jobs"])
        seen += [job["id"] for job in page["jobs"]]
        target = f"/jobs?limit=3&before={page['next']}"
    assert page["next"] is None
    assert seen == ids[::-1]


def test_jobs_can_be_picked_by_state(site: Site) -> None:
    write_finished(Path(site.jobs.path), 2)
    job_id = site.submit()
    assert [job["id"] for job in site.get("/jobs?state=queued").json["jobs"]] == [job_id]
    assert site.get("/jobs?state=done").json["count"] == 2
    assert site.get("/jobs").json["count"] == 3
    with site.running(job_id):
        assert site.get("/jobs?state=running").json["count"] == 1
    assert site.get("/jobs?state=interrupted").json["count"] == 1


@pytest.mark.parametrize(
    "query, param",
    [
        ("state=gone", "state"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("limit=%C2%B2", "limit"),
        ("before=x", "before"),
        ("after=x", "after"),
    ],
)
def test_a_bad_question_about_jobs_names_its_parameter(site: Site, query: str, param: str) -> None:
    answer = site.get(f"/jobs?{query}")
    assert (answer.status, answer.problem["param"]) == (400, param)


def test_healthz_counts(site: Site) -> None:
    ids = [site.submit(f"bucket-{number}") for number in range(2)]
    with site.running(ids[0]):
        found = site.get("/healthz").json
    assert found["status"] == "ok" and found["jobs"] == {"queued": 1, "running": 1}


def test_a_file_that_is_no_status_disturbs_nothing(site: Site) -> None:
    for name, text in [("garbage", "{"), ("list", "[]"), ("empty", ""), ("half", '{"state": "running"}')]:
        job_id = f"20260101T000000-{name.encode().hex()[:8]:0>8}"
        Path(site.jobs.path, f"{job_id}.json").write_text(text)
    Path(site.jobs.path, "notes.json").write_text("{}")
    job_id = site.submit()
    assert [job["id"] for job in site.get("/runnings").json["jobs"]] == [job_id]


# -- load -------------------------------------------------------------------------------------------------


def test_with_5000_finished_jobs_the_routes_stay_fast(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    write_finished(Path(site.jobs.path), 5000)
    started = time.process_time()  # what a busy machine does beside it is not the route's
    assert site.jobs.active() == []
    assert time.process_time() - started < 2
    # Every two seconds a look is a whole one, of which 200 requests meet one, or many on a slow machine.
    monkeypatch.setattr(status_cache, "_GLANCE_SECONDS", 3600)
    job_id = site.submit()
    with site.running(job_id) as status:

        def p99() -> float:
            seconds = []
            for _ in range(200):
                site.jobs.write(status, durable=False)  # a worker that writes, so that nothing is settled
                started = time.process_time()
                assert site.get("/runnings").json["count"] == 1
                seconds.append(time.process_time() - started)
            return statistics.quantiles(seconds, n=100)[98]

        def list_names() -> float:
            started = time.process_time()
            assert sum(name.endswith(".json") for name in os.listdir(site.jobs.path)) >= 5000
            return time.process_time() - started

        # Caches of the processor are others' now and then; a slow route is slow every time. On a slow machine
        # the names alone take long.
        limit = max(0.05, 4 * min(list_names() for _ in range(5)))
        assert any(p99() < limit for _ in range(5)), limit
    assert site.get("/jobs").json["count"] == 50


def test_silent_and_slow_clients_do_not_keep_others_waiting(site: Site) -> None:
    # A busy machine holds up an answer now and then; a server that waits for others does so every time.
    assert any(slowest_beside_silent_and_slow_clients(site) < 1 for _ in range(5))


def slowest_beside_silent_and_slow_clients(site: Site) -> float:
    """Seconds of the slowest of 20 answers, while 400 clients say nothing or one byte a second."""
    address = ("127.0.0.1", site.port)
    silent = [socket.create_connection(address) for _ in range(200)]
    slow = [socket.create_connection(address) for _ in range(200)]
    stop = threading.Event()

    def drip() -> None:
        """One byte a second on each connection, for as long as it is open."""
        head = iter(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1000)
        while not stop.is_set():
            byte = bytes([next(head)])
            for connection in slow:
                try:
                    connection.send(byte)
                except OSError:
                    continue
            stop.wait(1)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        seconds = []
        for _ in range(20):
            started = time.monotonic()
            assert site.get("/healthz").status == 200
            seconds.append(time.monotonic() - started)
            stop.wait(0.05)

        def all_cut() -> bool:
            poll = select.poll()
            for connection in slow:
                poll.register(connection, select.POLLIN | select.POLLHUP)
            return len(poll.poll(0)) == len(slow)

        wait_for(all_cut, 15, "the slow connections to be cut")
        assert site.get("/healthz").status == 200
        return max(seconds)
    finally:
        stop.set()
        thread.join()
        for connection in silent + slow:
            connection.close()

"""CONTRACT §2, as a client of the HTTP interface sees it: routes, parameters, answers, refusals."""

from __future__ import annotations

import json
import re
import socket
import stat
from urllib.parse import quote

import psutil
import pytest
from bench import FINAL, ID, Gate, Service, contents, exists, expected, fill, tree, wait_for
from shapes import check_report, check_status
from stores import free_ports

UNKNOWN = "20200101T000000-00000000"
ACTING = ("/sync", "/cancel", "/resume", "/approve")
ROUTES = (*ACTING, "/runnings", "/get", "/jobs", "/healthz", "/nothing-here")


@pytest.fixture(scope="module")
def site_of_module(stores, tmp_path_factory):
    """One server for all questions that change nothing."""
    service = Service(tmp_path_factory.mktemp("site"), stores.get("juicefs"))
    tree(service.uploads, {"photos": {"a": "1"}})
    service.start()
    yield service
    service.close()


@pytest.fixture
def site(site_of_module):
    """The shared server; whatever the test asked of it, no job may have come of it."""
    before = site_of_module.ids()
    yield site_of_module
    assert site_of_module.ids() == before, "a refused request made a job"


@pytest.fixture
def files(service):
    """Three files of the function's own server."""
    tree(service.uploads, {"photos": {"a": "1", "b": "22", "d/c": "333"}})
    return expected(service.uploads / "photos")


def begin_long_job(service, bucket, **parameters):
    """A job that uploads one file, then waits for an hour. The bucket is there already."""
    fill(service.store, bucket, {})
    job = service.sync(bucket, wait=3600, **parameters)
    service.wait_file(job, lambda s: s["progress"]["files_uploaded"] == 1)
    return job


# -- a job from its beginning to its end ------------------------------------------------------------------


def test_sync_answers_202_with_the_status_and_where_to_look(service, files, bucket, juicefs):
    reply = service.get("/sync", source="photos", dest=bucket)
    assert reply.status == 202
    status = reply.json()
    check_status(status)
    assert status["state"] in ("queued", "running")
    assert (status["source"], status["dest"], status["wait"]) == ("photos", bucket, 0)
    assert status["storage_url"] == juicefs.url
    assert reply.headers["location"] == f"/get?id={status['id']}"
    end = service.wait_state(status["id"])
    check_status(end)
    assert end["state"] == "done"
    assert (end["attempt"], end["cancel_requested"], end["current"]) == (1, False, [])
    progress = end["progress"]
    assert progress["scan_complete"] is True
    assert (progress["files_total"], progress["files_done"], progress["files_uploaded"]) == (3, 3, 3)
    assert (progress["bytes_total"], progress["bytes_done"], progress["bytes_uploaded"]) == (6, 6, 6)
    assert contents(juicefs, bucket) == files
    assert service.status(status["id"]) == end
    report = service.report(status["id"])
    check_report(report)
    uploads = {line["key"]: line["size"] for line in report if line["op"] == "upload"}
    assert uploads == {key: len(body) for key, body in files.items()}
    assert [line["op"] for line in report].count("create_bucket") == 1
    assert len(report) == 4


def test_a_status_keeps_its_shape_through_every_state(service, files, bucket):
    first = service.get("/sync", source="photos", dest=bucket, wait="0.3").json()
    check_status(first)
    seen = {first["state"]}

    def look():
        status = service.show(first["id"])
        check_status(status)
        seen.add(status["state"])
        return status["state"] in FINAL

    wait_for(look)
    assert {"running", "done"} <= seen
    assert service.show(first["id"])["wait"] == pytest.approx(0.3)


def test_json_answers_are_indented_utf8(service, juicefs, bucket):
    tree(service.uploads, {"bücher": {"ü": "1"}})
    reply = service.get("/sync", source="bücher", dest=bucket)
    assert reply.status == 202
    assert reply.headers["content-type"].split(";")[0] == "application/json"
    assert "\n  " in reply.body.decode("utf-8")
    assert reply.json()["source"] == "bücher"
    assert service.wait_state(reply.json()["id"])["state"] == "done"
    assert contents(juicefs, bucket) == {"ü": b"1"}


def test_parameters_come_in_a_query_a_form_or_a_json_object_by_get_or_post(
    service, files, juicefs, make_bucket
):
    query = {"source": "photos"}
    for ask in (
        lambda b: service.get("/sync", **query, dest=b),
        lambda b: service.request("POST", "/sync", {**query, "dest": b}),
        lambda b: service.post("/sync", **query, dest=b),
        lambda b: service.post_json("/sync", {**query, "dest": b}),
        lambda b: service.post_json("/sync", {**query, "dest": b, "wait": 0.01}),
    ):
        bucket = make_bucket(juicefs)
        reply = ask(bucket)
        assert reply.status == 202, reply
        assert service.wait_state(reply.json()["id"])["state"] == "done"
        assert contents(juicefs, bucket) == files


def test_an_empty_source_is_the_whole_root(service, files, juicefs, bucket):
    service.done(bucket, source="")
    assert contents(juicefs, bucket) == {f"photos/{key}": body for key, body in files.items()}


def test_the_uploads_and_jobs_folders_are_made_at_start(make_service, juicefs):
    service = make_service(juicefs, start=False)
    service.uploads.rmdir()
    service.start()
    assert service.uploads.is_dir()
    assert service.jobs.is_dir()


# -- looking ----------------------------------------------------------------------------------------------


def test_healthz_says_ok(site):
    reply = site.get("/healthz")
    assert reply.status == 200
    assert reply.json()["status"] == "ok"


def test_get_of_an_unknown_job_is_404(site):
    for route in ("/get", "/cancel", "/resume", "/approve", "/plan"):
        reply = site.get(route, id=UNKNOWN)
        assert reply.status == 404, route
        assert reply.problem["detail"]


def test_an_id_that_is_no_id_is_400_and_touches_no_path(site):
    secret = site.jobs / "outside.json"
    secret.write_text('{"state": "done"}')
    bad = ("", "x", "outside", "../outside", "..%2foutside", UNKNOWN + "/../outside", UNKNOWN + "\n")
    bad += (
        UNKNOWN.upper() + "0",
        "20200101T000000-0000000G",
        UNKNOWN + "\0",
        "\uff120200101T000000-00000000",
    )
    for route in ("/get", "/cancel", "/resume", "/approve", "/plan"):
        for job in bad:
            reply = site.get(route, id=job)
            assert reply.status == 400, (route, job)
            assert reply.problem["param"] == "id", (route, job)
        reply = site.get(route)
        assert (reply.status, reply.problem["param"]) == (400, "id")
    secret.unlink()
    assert not list(site.jobs.parent.rglob("*.cancel"))


def test_an_unknown_route_is_404(site):
    assert site.get("/nothing-here").status == 404
    assert site.get("/nothing-here").problem["title"]
    assert site.get("/jobs/../get").status in (400, 404)


def test_runnings_lists_queued_and_running_jobs_oldest_first(make_service, juicefs, make_bucket):
    service = make_service(juicefs, MAX_RUNNING_JOBS="1")
    tree(service.uploads, {"photos": {"a": "1", "b": "2"}})
    assert service.get("/runnings").json() == {"count": 0, "jobs": []}
    first = begin_long_job(service, make_bucket(juicefs))
    others = [service.sync(make_bucket(juicefs)) for _ in range(2)]
    reply = service.get("/runnings").json()
    assert reply["count"] == 3
    assert [job["id"] for job in reply["jobs"]] == [first, *others]
    assert [job["state"] for job in reply["jobs"]] == ["running", "queued", "queued"]
    for job in reply["jobs"]:
        check_status(job)
    assert service.get("/cancel", id=first).status == 202
    for job in others:
        assert service.wait_state(job)["state"] == "done"
    assert service.get("/runnings").json()["count"] == 0


def test_jobs_is_the_history_newest_first_in_pages(make_service, juicefs, bucket):
    service = make_service(juicefs)
    tree(service.uploads, {"photos": {"a": "1"}})
    made = [service.done(bucket)["id"] for _ in range(3)]
    (service.uploads / "photos" / "b").write_text("2")
    cancelled = service.sync(bucket, wait=3600, source="photos")
    service.get("/cancel", id=cancelled)
    service.wait_state(cancelled)
    all_ids = sorted([*made, cancelled], reverse=True)
    page = service.get("/jobs").json()
    assert [job["id"] for job in page["jobs"]] == all_ids
    assert (page["count"], page["next"]) == (4, None)
    for job in page["jobs"]:
        check_status(job)
    first = service.get("/jobs", limit=3).json()
    assert [job["id"] for job in first["jobs"]] == all_ids[:3]
    assert ID.fullmatch(first["next"])
    rest = service.get("/jobs", limit=3, before=first["next"]).json()
    assert [job["id"] for job in rest["jobs"]] == all_ids[3:]
    assert rest["next"] is None
    before = service.get("/jobs", before=all_ids[1]).json()
    assert [job["id"] for job in before["jobs"]] == all_ids[2:]
    final = service.show(cancelled)["state"]
    only = service.get("/jobs", state=final).json()
    assert {job["state"] for job in only["jobs"]} == {final}
    for name, value in (("state", "x"), ("limit", "0"), ("limit", "-1"), ("limit", "x"), ("before", "x")):
        reply = service.get("/jobs", **{name: value})
        assert (reply.status, reply.problem["param"]) == (400, name), (name, value)


def test_only_the_newest_finished_jobs_are_kept(make_service, juicefs, bucket):
    service = make_service(juicefs, KEEP_JOBS="2")
    tree(service.uploads, {"photos": {"a": "1"}})
    made = [service.done(bucket)["id"] for _ in range(5)]
    wait_for(lambda: len(service.ids()) <= 3, 20, "the old jobs to go")
    kept = service.ids()
    assert made[-1] in kept
    assert made[-2] in kept
    for job in set(made) - set(kept):  # its lock goes last, after it is listed no more
        wait_for(lambda job=job: not list(service.jobs.glob(f"{job}*")), 5, "a job to go with all its files")
    assert service.get("/get", id=made[0]).status == 404


# -- refusing what is wrong -------------------------------------------------------------------------------


def test_a_parameter_that_is_unknown_is_named(site):
    for route, parameters in (
        ("/sync", {"source": "photos", "dest": "somebucket"}),
        ("/runnings", {}),
        ("/jobs", {}),
        ("/get", {"id": UNKNOWN}),
        ("/cancel", {"id": UNKNOWN}),
        ("/resume", {"id": UNKNOWN}),
        ("/approve", {"id": UNKNOWN}),
        ("/plan", {"id": UNKNOWN}),
    ):
        reply = site.get(route, **parameters, nonsense="1")
        assert reply.status == 400, route
        assert reply.problem["param"] == "nonsense", route
    reply = site.post_json("/sync", {"source": "photos", "dest": "somebucket", "nonsense": 1})
    assert (reply.status, reply.problem["param"]) == (400, "nonsense")


def test_a_repeated_parameter_is_refused_and_named(site):
    pairs = [("source", "photos"), ("dest", "onebucket"), ("dest", "twobucket")]
    reply = site.request("GET", "/sync", pairs)
    assert (reply.status, reply.problem["param"]) == (400, "dest")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = site.request(
        "POST", "/sync", [("source", "photos"), ("dest", "onebucket")], headers=form, body=b"dest=twobucket"
    )
    assert (reply.status, reply.problem["param"]) == (400, "dest")
    reply = site.request(
        "POST",
        "/sync",
        headers={"Content-Type": "application/json"},
        body=b'{"source": "photos", "dest": "onebucket", "dest": "twobucket"}',
    )
    assert (reply.status, reply.problem["param"]) == (400, "dest")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("wait", value) for value in ("-1", "3600.5", "x", "nan", "inf", "1e9", "1,5", "0x1", "1 2")],
        *[("dest", value) for value in ("a", "AB", "a/b", "..", "a..b", "x" * 256, "b?x", "abc:", "ab\n")],
        *[("dest", value) for value in ("ünï", "1.2.3.4", "../jobs", "a b", "s3://abc")],
        *[("source", value) for value in ("/etc", "..", "../x", "photos/../..", "a\0b", "photos/../photos")],
        *[
            ("storage_url", value)
            for value in ("x", "ftp://127.0.0.1", "http://", "file:///etc", "http://a:b@c/")
        ],
        *[("storage_url", value) for value in ("http://127.0.0.1:99999", "http://127.0.0.1:9/?a=b", "//x")],
    ],
)
def test_a_bad_value_is_400_names_its_parameter_and_makes_no_job(site, name, value):
    parameters = {"source": "photos", "dest": "somebucket", name: value}
    if name == "storage_url":
        parameters |= {"access_key": "a", "secret_key": "b"}
    reply = site.get("/sync", **parameters)
    assert reply.status == 400, (name, value)
    problem = reply.problem
    assert problem["param"] == name
    assert problem["title"]
    assert problem["detail"]
    assert "type" in problem


def test_a_symlink_that_leads_out_of_the_root_is_no_source(site, tmp_path):
    tree(tmp_path / "elsewhere", {"secret": "1"})
    (site.uploads / "out").symlink_to(tmp_path / "elsewhere")
    (site.uploads / "up").symlink_to("..")
    for source in ("out", "out/secret", "up", "up/jobs"):
        reply = site.get("/sync", source=source, dest="somebucket")
        assert (reply.status, reply.problem["param"]) == (400, "source"), source
    (site.uploads / "out").unlink()
    (site.uploads / "up").unlink()


@pytest.mark.parametrize("path", ["source=%FF%FE&dest=somebucket", "source=a%C0%AE&dest=somebucket"])
def test_text_that_is_no_utf8_is_400(site, path):
    assert site.request("GET", f"/sync?{path}").status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b"\xff",
        b'{"source": ["photos"], "dest": "somebucket"}',
        b'{"source": 1, "dest": null}',
    ],
)
def test_a_json_body_that_is_no_object_of_plain_values_is_400(site, body):
    reply = site.request("POST", "/sync", headers={"Content-Type": "application/json"}, body=body)
    assert reply.status == 400
    assert reply.problem["detail"]


@pytest.mark.parametrize("route", ACTING)
@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH"])
def test_head_and_other_methods_never_act(site, route, method):
    parameters = {"source": "photos", "dest": "somebucket"} if route == "/sync" else {"id": UNKNOWN}
    reply = site.request(method, route, parameters)
    assert reply.status == 405


@pytest.mark.parametrize("route", ["/runnings", "/get", "/jobs", "/healthz"])
def test_routes_that_show_know_no_other_methods(site, route):
    for method in ("PUT", "DELETE", "PATCH"):
        assert site.request(method, route).status == 405, method


# -- destinations -----------------------------------------------------------------------------------------


def test_a_busy_destination_is_409_and_names_the_other_job(make_service, juicefs, make_bucket):
    service = make_service(juicefs, MAX_RUNNING_JOBS="1")
    tree(service.uploads, {"photos": {"a": "1", "b": "2"}, "other": {"c": "3"}})
    bucket, second = make_bucket(juicefs), make_bucket(juicefs)
    running = begin_long_job(service, bucket)
    queued = service.sync(second)
    for dest, other in ((bucket, running), (second, queued)):
        reply = service.get("/sync", source="other", dest=dest)
        assert reply.status == 409
        assert reply.problem["job"] == other
    same_storage = service.get("/sync", source="other", dest=bucket, storage_url=juicefs.url + "/")
    assert same_storage.status == 409
    assert len(service.ids()) == 2
    service.get("/cancel", id=running)
    assert service.wait_state(queued)["state"] == "done"
    service.wait_state(running)
    service.done(bucket)


def test_the_same_bucket_name_on_another_storage_is_another_destination(
    service, files, juicefs, moto, make_bucket
):
    bucket = make_bucket(juicefs)
    begin_long_job(service, bucket)
    keys = {"access_key": moto.access_key, "secret_key": moto.secret_key}
    other = service.sync(bucket, storage_url=moto.url, **keys)
    assert service.wait_state(other)["state"] == "done"
    assert contents(moto, bucket) == files
    moto.remove_bucket(bucket)


def test_a_full_queue_says_so(make_service, juicefs, make_bucket):
    service = make_service(juicefs, MAX_RUNNING_JOBS="1", MAX_QUEUED_JOBS="1")
    tree(service.uploads, {"photos": {"a": "1", "b": "2"}})
    begin_long_job(service, make_bucket(juicefs))
    service.sync(make_bucket(juicefs))
    reply = service.get("/sync", source="photos", dest=make_bucket(juicefs))
    assert reply.status in (429, 503)
    assert reply.problem["detail"]
    assert len(service.ids()) == 2


# -- cancel and resume ------------------------------------------------------------------------------------


def test_a_running_job_is_cancelled_by_its_sentinel_and_resumed_to_its_end(service, files, juicefs, bucket):
    job = begin_long_job(service, bucket)
    assert service.get("/resume", id=job).status == 409
    reply = service.get("/cancel", id=job)
    assert reply.status == 202
    assert reply.json()["cancel_requested"] is True
    sentinel = service.file(job, "cancel")
    assert sentinel.read_bytes() == b""
    status = service.wait_state(job)
    check_status(status)
    assert (status["state"], status["cancel_requested"]) == ("cancelled", True)
    assert status["progress"]["files_uploaded"] == 1
    assert service.get("/cancel", id=job).status == 409
    assert sentinel.exists(), "only resume removes it"
    reply = service.post("/resume", id=job)
    assert reply.status == 202
    assert reply.json()["id"] == job
    assert not sentinel.exists()
    assert service.wait_file(job, lambda s: s["state"] == "running" and s["progress"]["files_uploaded"] >= 1)
    again = service.show(job)
    assert (again["attempt"], again["id"], again["cancel_requested"]) == (2, job, False)
    assert again["finished_at"] is None


def test_cancelling_twice_is_202_twice(make_service, juicefs, bucket, make_proxy):
    proxy = make_proxy(juicefs)
    service = make_service(juicefs, STORAGE_URL=proxy.url)
    tree(service.uploads, {"photos": {"a": "1", "b": "2"}})
    gate = Gate(proxy, lambda request: request.kind == "PUT")
    job = service.sync(bucket, wait="0.01")
    gate.wait()
    for _ in range(2):
        reply = service.get("/cancel", id=job)
        assert reply.status == 202
        assert reply.json()["cancel_requested"] is True
        assert reply.json()["state"] == "running"
    gate.open()
    assert service.wait_state(job)["state"] == "cancelled"
    assert contents(juicefs, bucket) == {"a": b"1"}, "what is in flight finishes, and nothing more starts"


def test_a_cancelled_job_resumed_without_the_wait_in_its_way_ends_done(service, files, juicefs, bucket):
    job = service.sync(bucket, wait=1.5)
    service.wait_file(job, lambda s: s["progress"]["files_uploaded"] >= 1)
    service.get("/cancel", id=job)
    assert service.wait_state(job)["state"] == "cancelled"
    assert service.get("/resume", id=job).status == 202
    status = service.wait_state(job)
    assert (status["state"], status["attempt"]) == ("done", 2)
    assert contents(juicefs, bucket) == files
    assert service.get("/resume", id=job).status == 409
    assert service.get("/cancel", id=job).status == 409


def test_a_queued_job_is_cancelled_at_once_and_cannot_be_resumed_while_queued(
    make_service, juicefs, make_bucket
):
    service = make_service(juicefs, MAX_RUNNING_JOBS="1")
    tree(service.uploads, {"photos": {"a": "1", "b": "2"}})
    begin_long_job(service, make_bucket(juicefs))
    bucket = make_bucket(juicefs)
    queued = service.sync(bucket)
    assert service.get("/resume", id=queued).status == 409
    reply = service.get("/cancel", id=queued)
    assert reply.status == 202
    assert (reply.json()["state"], reply.json()["cancel_requested"]) == ("cancelled", True)
    check_status(reply.json())
    assert service.get("/cancel", id=queued).status == 409
    assert not exists(juicefs, bucket)


# -- keys and storages ------------------------------------------------------------------------------------


def test_another_storage_needs_its_own_keys(site, moto):
    reply = site.get("/sync", source="photos", dest="somebucket", storage_url=moto.url)
    assert reply.status == 400
    assert reply.problem["detail"]


def test_the_configured_storage_may_be_named_without_keys(service, files, juicefs, bucket):
    service.done(bucket, storage_url=juicefs.url)
    assert contents(juicefs, bucket) == files


def test_another_spelling_of_the_configured_storage_is_the_configured_storage(
    service, files, juicefs, make_bucket
):
    """Its keys go there, one bucket has one job, and a resume needs no keys either."""
    bucket = make_bucket(juicefs)
    spellings = [
        juicefs.url.replace("127.0.0.1", host) for host in ("2130706433", "0x7f.1", "127.1", "localhost")
    ]
    first = service.sync(bucket, storage_url=spellings[0], wait="5")
    for url in (*spellings[1:], juicefs.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")):
        reply = service.get("/sync", source="photos", dest=bucket, storage_url=url)
        assert (reply.status, reply.problem.get("job")) == (409, first), url
    service.get("/cancel", id=first)
    service.wait_state(first)
    assert service.get("/resume", id=first).status == 202
    service.get("/cancel", id=first)
    assert service.wait_state(first)["state"] == "cancelled"
    for url in spellings:
        service.done(bucket, storage_url=url)
        assert contents(juicefs, bucket) == files


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254",
        "http://169.254.169.254:80/latest",
        "http://[fe80::1]",
        "http://[::ffff:169.254.169.254]",
        "http://2852039166",
        "http://0xa9fea9fe",
    ],
)
def test_a_link_local_storage_is_refused(site, url):
    reply = site.get(
        "/sync", source="photos", dest="somebucket", storage_url=url, access_key="a", secret_key="b"
    )
    assert (reply.status, reply.problem["param"]) == (400, "storage_url")


def test_allowed_storage_urls_narrow_what_may_be_asked_for(make_service, juicefs, moto, bucket):
    service = make_service(juicefs, ALLOWED_STORAGE_URLS=juicefs.url)
    tree(service.uploads, {"photos": {"a": "1"}})
    keys = {"access_key": "a", "secret_key": "b"}
    reply = service.get("/sync", source="photos", dest=bucket, storage_url=moto.url, **keys)
    assert (reply.status, reply.problem["param"]) == (400, "storage_url")
    # A prefix of the text is not a prefix of the address: the port must not grow, nor a host hide behind it.
    for tail in ("0", "@127.0.0.2:1", ".evil.test"):
        reply = service.get("/sync", source="photos", dest=bucket, storage_url=juicefs.url + tail, **keys)
        assert (reply.status, reply.problem["param"]) == (400, "storage_url"), tail
    service.done(bucket)


def test_keys_of_a_request_live_in_a_private_file_until_the_job_is_done(make_service, juicefs, moto, bucket):
    service = make_service(moto)  # the server's own keys are those of another store
    service.environment["MINIO_SECRET_KEY"] = "the-keys-of-the-server-itself"
    service.restart()
    tree(service.uploads, {"photos": {"a": "1", "b": "2"}})
    keys = {"access_key": juicefs.access_key, "secret_key": juicefs.secret_key}
    job = service.sync(bucket, storage_url=juicefs.url, wait=600, **keys)
    service.wait_file(job, lambda s: s["progress"]["files_uploaded"] == 1)
    secret = service.file(job, "secret")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert juicefs.secret_key in secret.read_text()
    for worker in service.workers():
        assert juicefs.secret_key not in " ".join(worker.cmdline())
    assert juicefs.secret_key.encode() not in service.get("/get", id=job).body
    service.get("/cancel", id=job)
    assert service.wait_state(job)["state"] == "cancelled"
    wait_for(lambda: not secret.exists(), 20, "the secret of a cancelled job to go")
    reply = service.get("/resume", id=job, **keys)
    assert reply.status == 202
    assert service.wait_state(job)["state"] == "done"
    wait_for(lambda: not secret.exists(), 20, "the secret of a done job to go")
    assert contents(juicefs, bucket) == {"a": b"1", "b": b"2"}
    for path in service.jobs.rglob("*"):
        assert not path.is_file() or juicefs.secret_key.encode() not in path.read_bytes(), path
    assert juicefs.secret_key not in service.output()


def test_keys_that_are_wrong_fail_the_job_and_never_show(service, files, juicefs, bucket):
    keys = {"access_key": juicefs.access_key, "secret_key": "this-is-not-the-secret"}
    job = service.sync(bucket, storage_url=juicefs.url, **keys)
    status = service.wait_state(job)
    check_status(status)
    assert status["state"] == "failed"
    assert status["error"]["code"] not in ("", "FilesFailed"), "credentials are a fatal cause"
    assert "this-is-not-the-secret" not in json.dumps(status) + service.log(job)
    assert not exists(juicefs, bucket)


# -- other sites ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.test"},
        {"Host": "localhost.evil.test"},
        {"Host": "127.0.0.1.evil.test"},
        {"Host": "evil.test:5000"},
        {"Host": "127.0.0.2"},
        {"Host": ""},
        {"Host": "localhost:x"},
        {"Host": "a@localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "x"},
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "http://127.0.0.1.evil.test"},
        {"Sec-Purpose": "prefetch"},
        {"Sec-Purpose": "prefetch;prerender"},
        {"Purpose": "prefetch"},
        {"Upgrade": "websocket", "Connection": "Upgrade"},
        {"Upgrade": "h2c", "Connection": "Upgrade"},
    ],
    ids=lambda headers: " ".join(f"{name}={value}" for name, value in headers.items()),
)
def test_what_another_site_sends_is_403_on_every_route_and_method(site, headers):
    for route in ROUTES:
        query = "?source=photos&dest=somebucket" if route == "/sync" else f"?id={UNKNOWN}"
        for method in ("GET", "POST", "HEAD", "PUT", "OPTIONS"):
            reply = site.request(method, route + query, headers=headers)
            assert reply.status == 403, (route, method)
            assert "access-control-allow-origin" not in reply.headers


def test_our_own_site_is_served(site):
    own = site.port
    for headers in (
        {"Host": f"localhost:{own}"},
        {"Host": "localhost"},
        {"Host": f"127.0.0.1:{own}"},
        {"Host": "127.0.0.1"},
        {"Host": f"[::1]:{own}"},
        {"Host": "[::1]"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Host": f"127.0.0.1:{own}", "Origin": f"http://127.0.0.1:{own}", "Sec-Fetch-Site": "same-origin"},
        {"Host": f"localhost:{own}", "Origin": f"http://localhost:{own}"},
    ):
        assert site.request("GET", "/runnings", headers=headers).status == 200, headers
        assert site.request("POST", "/cancel", {"id": UNKNOWN}, headers=headers).status == 404, headers


def test_a_second_host_header_is_refused(site):
    head = f"GET /runnings HTTP/1.1\r\nHost: localhost:{site.port}\r\nHost: evil.test\r\n"
    head += "Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as sock:
        sock.sendall(head.encode())
        first = sock.makefile("rb").readline()
    assert re.match(rb"HTTP/1\.[01] (400|403) ", first), first


def test_allowed_hosts_are_served_beside_loopback(make_service, juicefs):
    service = make_service(juicefs, start=False, ALLOWED_HOSTS="sync.test,127.0.0.1")
    service.start()
    assert service.request("GET", "/runnings", headers={"Host": "sync.test"}).status == 200
    assert service.request("GET", "/runnings", headers={"Host": f"sync.test:{service.port}"}).status == 200
    assert service.request("GET", "/runnings", headers={"Host": "other.test"}).status == 403
    for host in ("localhost", "127.0.0.1", "[::1]", f"localhost:{service.port}"):
        assert service.request("GET", "/runnings", headers={"Host": host}).status == 200, host


# -- the token --------------------------------------------------------------------------------------------


def test_a_token_is_needed_on_all_routes_but_healthz(make_service, juicefs):
    service = make_service(juicefs, API_TOKEN="a-long-token-for-this-test")
    good = {"Authorization": "Bearer a-long-token-for-this-test"}
    assert service.get("/healthz").status == 200
    for route in ROUTES:
        if route == "/healthz":
            continue
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "a-long-token-for-this-test"}):
            for method in ("GET", "POST"):
                reply = service.request(method, route, headers=headers)
                assert reply.status == 401, (route, method, headers)
                assert reply.problem["title"]
    assert service.request("GET", "/runnings", headers=good).status == 200
    assert service.request("POST", "/cancel", {"id": UNKNOWN}, headers=good).status == 404
    assert service.request("GET", "/runnings", headers={**good, "Host": "evil.test"}).status == 403


def test_an_automatic_token_is_printed_as_a_link_that_logs_the_browser_in(make_service, juicefs):
    service = make_service(juicefs, API_TOKEN="auto")
    assert service.get("/runnings").status == 401
    link = wait_for(lambda: re.search(r"http://[^\s/]+(/\S+)", service.output()), 5, "the link")
    reply = service.request("GET", link.group(1))
    cookie = reply.headers["set-cookie"]
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower().replace(" ", "")
    pair = cookie.split(";")[0]
    assert service.request("GET", "/runnings", headers={"Cookie": pair}).status == 200
    assert service.request("GET", "/runnings", headers={"Cookie": pair + "x"}).status == 401
    assert len(re.findall(re.escape(link.group(0)), service.output())) == 1


def test_listening_beyond_loopback_without_a_token_is_refused(make_service, juicefs):
    service = make_service(juicefs, start=False, API_HOST="0.0.0.0")
    assert service.spawn().wait(20) == 2
    assert "API_TOKEN" in service.output()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_PORT", "x"),
        ("API_PORT", "70000"),
        ("MAX_RUNNING_JOBS", "0"),
        ("MAX_RUNNING_JOBS", "many"),
        ("MAX_QUEUED_JOBS", "-1"),
        ("KEEP_JOBS", "x"),
        ("STORAGE_URL", "nonsense"),
        ("BUCKET_DELETE", "perhaps"),
        ("AUTO_RESUME", "perhaps"),
        ("MINIO_PORT", "-1"),
    ],
)
def test_a_wrong_setting_is_named_and_the_server_does_not_start(make_service, juicefs, name, value):
    service = make_service(juicefs, start=False)
    service.environment[name] = value
    assert service.spawn().wait(20) == 2
    assert name in service.output()


def test_the_environment_beats_the_network_of_the_machine(site):
    """Only loopback is listened on by default."""
    assert site.process is not None
    listening = [c.laddr for c in psutil.Process(site.process.pid).net_connections() if c.status == "LISTEN"]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert site.port in {address.port for address in listening}


def test_a_path_with_odd_characters_is_the_folder_of_that_name(service, juicefs, bucket):
    name = "a +%&=#?ü/b c"
    tree(service.uploads / name, {"x": "1"})
    reply = service.request("GET", f"/sync?source={quote(name)}&dest={bucket}")
    assert reply.status == 202
    assert reply.json()["source"] == name
    assert service.wait_state(reply.json()["id"])["state"] == "done"
    assert contents(juicefs, bucket) == {"x": b"1"}


def test_without_a_storage_an_embedded_one_is_started(make_service):
    port = free_ports(1)[0]
    service = make_service(
        None,
        start=False,
        MINIO_PORT=str(port),
        MINIO_ACCESS_KEY="embedded-access",
        MINIO_SECRET_KEY="embedded-secret",
        STORAGE_URL="",
    )
    storage = service.base / "storage"
    service.environment["STORAGE_DIR"] = str(storage)
    service.start(timeout=30)
    tree(service.uploads, {"photos": {"a": "1"}})
    status = service.done("photobucket")
    assert status["storage_url"] == f"http://127.0.0.1:{port}"
    assert storage.is_dir()

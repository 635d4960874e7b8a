"""The OpenAPI document is true of the server, in both directions: what the server has is in the document, and
what the document promises is what the server does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import PROJECT, Service, wait_for
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from serving import Answer, Site, write_finished
from stores import Store

from syncworker.web import app, openapi, operations, parameters

sys.path.insert(0, str(PROJECT / "scripts"))
import api_docs

DOCUMENT = openapi.document(token_needed=True)
NO_JOB = "20260101T000000-00000000"
TOKEN = "token-of-the-tests"
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in item]
ROUTED = [pair for pair in OPERATIONS if pair[0] != "/login"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9", MAX_QUEUED_JOBS="3")
    yield site
    site.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "guarded").mkdir()
    site = Site(tmp_path / "guarded", STORAGE_URL="http://127.0.0.1:9", API_TOKEN=TOKEN)
    yield site
    site.close()


# -- the document and the table of routes ------------------------------------------------------------------


def test_the_document_is_valid_openapi() -> None:
    validate(DOCUMENT)
    validate(openapi.document(token_needed=False))


def test_each_route_is_documented_and_each_documented_path_is_a_route() -> None:
    assert set(app.HANDLERS) == set(operations.OPERATIONS) == set(DOCUMENT["paths"]) - {"/login"}


@pytest.mark.parametrize("path, route", operations.OPERATIONS.items())
def test_methods_and_parameters_are_those_of_the_route(path: str, route: operations.Operation) -> None:
    item = DOCUMENT["paths"][path]
    assert {method.upper() for method in item} == set(route.methods)
    for method, operation in item.items():
        named = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query"]
        if method == "post":
            for kind in operation.get("requestBody", {}).get("content", {}).values():
                assert tuple(kind["schema"]["properties"]) == route.parameters
            assert bool(route.parameters) == ("requestBody" in operation)
        else:
            assert tuple(named) == route.parameters
        headers = {p["name"] for p in operation.get("parameters", []) if p["in"] == "header"}
        assert ("If-None-Match" in headers) == route.conditional


def test_the_served_document_is_this_one(site: Site, guarded: Site) -> None:
    assert site.get("/openapi.json").json == openapi.document(token_needed=False)
    assert guarded.get("/openapi.json", Authorization=f"Bearer {TOKEN}").json == DOCUMENT


def test_the_page_of_the_docs_is_made_from_it() -> None:
    assert (PROJECT / "docs" / "api.md").read_text() == api_docs.render(), "run `make docs`"


def test_the_patterns_of_parameters_are_those_that_the_server_checks(site: Site) -> None:
    """Each value on both sides of each rule: the document and the server agree."""
    values = {
        "dest": [
            "",
            "abc",
            "a.b-c",
            "ab",
            "aBc",
            "a..b",
            "1.2.3.4",
            "-ab",
            "ab-",
            "a" * 63,
            "a" * 64,
            "a_b",
            "é" * 3,
        ],
        "source": [
            "",
            "a",
            "a/b",
            "/a",
            "..",
            "a/../b",
            "a..b",
            "...",
            "a\nb",
            "a\n../b",
            "a" * 4000,
            "a" * 4001,
        ],
        "wait": ["", "0", "1.5", ".5", "5.", "+1", "1e2", "1e-2", "-1", "x", "1 ", ".", "1e"],
    }
    for name, candidates in values.items():
        for number, value in enumerate(candidates):
            given = {"source": "a", "dest": f"bucket-{name}-{number}", name: value}
            answer = site.json("/sync", given)
            valid = Draft202012Validator(operations.PARAMETERS[name]).is_valid(value)
            assert (answer.status == 202) == valid, (name, value, answer)
            if valid:
                assert site.json("/cancel", {"id": answer.json["id"]}).status == 202


# -- every documented answer is given, as documented -------------------------------------------------------


def strict(schema: Any) -> Any:
    """The schema with every object closed: a field that is not named is an error."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(item) for name, item in schema.items()}
    if "properties" in schema and isinstance(schema["properties"], dict):
        closed["additionalProperties"] = False
    return closed


COMPONENTS = {"schemas": strict(DOCUMENT["components"]["schemas"])}


def assert_as_documented(path: str, method: str, answer: Answer) -> None:
    said = DOCUMENT["paths"][path][method]["responses"]
    assert str(answer.status) in said, (path, method, answer)
    response = said[str(answer.status)]
    for name, header in response.get("headers", {}).items():
        Draft202012Validator(header["schema"]).validate(answer.headers[name.lower()])
    content = response.get("content")
    if content is None:  # but waitress has not read the method yet when it gives up on the headers
        assert answer.body == b"" or answer.status == 431, (path, method, answer)
        return
    kind = answer.headers["content-type"].split(";")[0]
    assert kind in {name.split(";")[0] for name in content}, (path, method, answer)
    if kind.endswith(("/json", "+json")):
        schema = next(item["schema"] for name, item in content.items() if name.split(";")[0] == kind)
        Draft202012Validator({**strict(schema), "components": COMPONENTS}).validate(answer.json)


class Asker:
    """Asks for each answer of one operation."""

    def __init__(self, site: Site, guarded: Site, path: str, method: str, patch: pytest.MonkeyPatch) -> None:
        self.site, self.guarded, self.path, self.method, self.patch = (
            site,
            guarded,
            path,
            method.upper(),
            patch,
        )

    def ask(self, query: str = "", **headers: str) -> Answer:
        return self.site.ask(self.method, self.path + (f"?{query}" if query else ""), **headers)

    def good(self) -> str:
        """A query that is answered with success."""
        if self.path == "/sync":
            return "source=a&dest=bucket"
        if self.path in ("/get", "/cancel", "/pause", "/continue", "/resume", "/report", "/log"):
            job_id = self.site.submit()
            if self.path == "/resume":
                self.site.get(f"/cancel?id={job_id}")
            return f"id={job_id}"
        if self.path in ("/approve", "/plan", "/plan/sums"):
            return f"id={self.site.waiting()}"
        return ""

    def conflict(self) -> Answer:
        query = self.good() if self.path != "/limit" else f"id={self.site.submit()}"
        if self.path == "/sync":
            self.site.submit()
        elif self.path in ("/cancel", "/pause", "/continue", "/limit"):
            self.site.get(f"/cancel?{query}")
        else:
            action = "approve" if self.path == "/approve" else "resume"
            self.site.get(f"/{action}?{query}")
        return self.ask(query)

    def overdue(self) -> Answer:
        path = Path(self.site.settings.mirrors_file)
        path.write_text("[photos]\nsource = 'a'\ndest = 'bucket'\nmax_age = '1s'\n")
        wait_for(lambda: self.ask("mirror=photos").status == 503, 10, "a mirror that is overdue")
        return self.ask("mirror=photos")

    def full(self) -> Answer:
        if self.path == "/limit":
            with self.site.jobs.creation_lock() as held:
                assert held.acquire()
                return self.ask("bandwidth=1M")
        if self.path == "/healthz":
            assert self.ask("storage=1").status == 503
            return self.overdue()
        query = self.good()
        for number in range(3):
            self.site.submit(f"bucket-{number}")
        return self.ask(query)

    def broken(self) -> Answer:
        def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        with self.patch.context() as patch:
            patch.setattr(parameters, "of_request", fail)
            return self.ask()

    def unchanged(self) -> Answer:
        query = self.good()
        first = self.ask(query)
        assert first.status == 200, first
        return self.site.ask("GET", f"{self.path}?{query}", If_None_Match=first.headers["etag"])

    def answer(self, status: int) -> Answer:
        body = b"a" * 300_000 if status == 413 else b"{}"
        recipes: dict[int, Callable[[], Answer]] = {
            200: lambda: self.ask(self.good()),
            202: lambda: self.ask(self.good()),
            304: self.unchanged,
            400: lambda: self.ask("nonsense=1"),
            401: lambda: self.guarded.ask(self.method, self.path),
            403: lambda: self.ask(Host="evil.example"),
            404: lambda: self.ask("mirror=nobody" if self.path == "/healthz" else f"id={NO_JOB}"),
            409: self.conflict,
            413: lambda: self.site.ask(self.method, self.path, body, Content_Type="application/json"),
            415: lambda: self.site.ask(self.method, self.path, body, Content_Type="text/plain"),
            431: lambda: self.ask(X="a" * 20000),
            500: self.broken,
            503: self.full,
        }
        return recipes[status]()


@pytest.mark.parametrize("path, method", ROUTED, ids=lambda value: value)
def test_every_documented_answer_is_given_as_documented(
    site: Site, guarded: Site, path: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status in DOCUMENT["paths"][path][method]["responses"]:
        for job_id in site.jobs.ids():
            site.get(f"/cancel?id={job_id}")
        asker = Asker(site, guarded, path, method, monkeypatch)
        if method == "post" and status == "304":
            assert asker.ask(asker.good(), If_None_Match="*").status == 200  # a POST is always answered
            continue
        answer = asker.answer(int(status))
        assert answer.status == int(status), answer
        assert_as_documented(path, method, answer)


def test_the_login_link_answers_as_documented(guarded: Site) -> None:
    assert_as_documented("/login", "get", guarded.get(f"/login?token={TOKEN}"))
    assert_as_documented("/login", "get", guarded.get("/login?token=other"))
    assert_as_documented("/login", "get", guarded.get("/login", Host="evil.example"))
    assert_as_documented("/login", "get", guarded.get("/login", X="a" * 20000))


def test_jobs_of_every_state_are_as_documented(site: Site) -> None:
    write_finished(Path(site.jobs.path), 1)
    Path(site.jobs.path, "20260101T000000-00000000.json").unlink()  # made by a stand-in, not by the service
    ids = [site.submit(f"bucket-{number}") for number in range(3)]
    site.get(f"/cancel?id={ids[1]}")
    with site.running(ids[2]) as status:
        status["current"] = [{"op": "upload", "key": "a", "size": 2, "bytes_done": 1}]
        status["errors"] = [
            {
                "time": status["updated_at"],
                "op": "upload",
                "key": "b",
                "code": "AccessDenied",
                "message": "no",
            }
        ]
        site.jobs.write(status, durable=False)
        for target in ("/runnings", "/jobs", f"/get?id={ids[2]}"):
            assert_as_documented(target.partition("?")[0], "get", site.get(target))
    assert site.get(f"/get?id={ids[2]}").json["state"] == "interrupted"
    assert_as_documented("/jobs", "get", site.get("/jobs"))
    keys = "source=&dest=bucket-9&access_key=a&secret_key=b"
    assert "warning" in site.get(f"/sync?{keys}").json
    assert_as_documented("/resume", "get", site.get(f"/resume?id={ids[1]}&access_key=a&secret_key=b"))


def test_a_finished_sync_is_as_documented(service: Service, juicefs: Store, bucket: str) -> None:
    """The worker writes the status too."""
    folder = service.uploads / "photos"
    folder.mkdir()
    (folder / "a").write_bytes(b"1" * 1000)
    status = service.done(bucket)
    schema = {"$ref": "#/components/schemas/Status", "components": COMPONENTS}
    Draft202012Validator(schema).validate(status)


# -- made-up requests ---------------------------------------------------------------------------------------

CONFIG = """
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "409", "413", "415", "431"]

# Which storage_url and keys are accepted together no schema can say, nor which dates there are.
[[operations]]
include-path = ["/sync", "/resume", "/approve", "/folders", "/login", "/jobs"]
checks.positive_data_acceptance.enabled = false
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "examples, seed", [("4", "1"), pytest.param("30", "", marks=pytest.mark.long)], ids=["few", "many"]
)
def test_schemathesis_finds_nothing_wrong(
    examples: str, seed: str, make_service: Callable[..., Service], juicefs: Store, tmp_path: Path
) -> None:
    service = make_service(
        juicefs,
        MAX_RUNNING_JOBS="1",
        MAX_QUEUED_JOBS="100000",
        API_TOKEN=TOKEN,
        ALLOWED_STORAGE_URLS=juicefs.url,
        BUCKET_DELETE="refuse",
    )
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        str(Path(sys.executable).with_name("st")),
        "--config-file",
        str(tmp_path / "schemathesis.toml"),
    ]
    command += ["run", f"{service.url}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}"]
    command += [
        *("--max-examples", examples),
        *(("--seed", seed) if seed else ()),  # none: another one each time, which its output names
        "--no-shrink",
        "--request-timeout",
        "20",
        "--exclude-path-regex",
        "^/static/(?!app.js)",
        "--warnings=off",
    ]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    said = re.sub("(%[0-9A-F]{2}){40,}|0{40,}", "...", done.stdout)
    assert done.returncode == 0, said[-6000:] + done.stderr[-2000:]
    assert "API Operations:\n  Selected: " in said, said[-6000:]
    assert json.loads(service.request("GET", "/healthz").body)["status"] == "ok"

"""A sync of which nothing is said: the whole uploads folder goes into `mybucket`, by HTTP, shell and form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Service, Shell, contents, expected, tree
from serving import Answer, Site, load
from stores import Store

import server
from syncworker.web import app, operations

MYBUCKET = "mybucket"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9")
    yield site
    site.close()


@pytest.fixture
def free_mybucket(juicefs: Store) -> Iterator[None]:
    """The one bucket of the tests whose name is not chosen by them."""
    juicefs.remove_bucket(MYBUCKET)
    yield
    juicefs.remove_bucket(MYBUCKET)


# -- over HTTP --------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Site], Answer]] = {
    "the address alone": lambda site: site.get("/sync"),
    "POST without a body": lambda site: site.ask("POST", "/sync"),
    "an empty object": lambda site: site.json("/sync", {}),
    "empty values": lambda site: site.get(
        "/sync?source=&dest=&storage_url=&access_key=&secret_key=&wait=&exclude=&include=&delete=&forget_mounts="
    ),
    "an empty form": lambda site: site.form("/sync", b"source=&dest=&storage_url=&wait="),
    "null": lambda site: site.json("/sync", dict.fromkeys(operations.OPERATIONS["/sync"].parameters)),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_said_has_its_default(site: Site, way: str) -> None:
    answer = WAYS[way](site)
    assert answer.status == 202, answer
    status = answer.json
    assert (status["source"], status["dest"], status["wait"]) == ("", MYBUCKET, 0)
    assert (status["storage_url"], status["options"]) == ("http://127.0.0.1:9", {})


@pytest.mark.parametrize("path", [path for path, said in operations.OPERATIONS.items() if said.parameters])
@pytest.mark.parametrize("value", ["", None])
def test_an_empty_value_is_as_good_as_none_for_every_optional_parameter(
    site: Site, path: str, value: str | None
) -> None:
    job_id = site.submit()
    site.get(f"/cancel?id={job_id}")
    route = operations.OPERATIONS[path]
    needed = dict.fromkeys(route.required, job_id)
    optional = {name: value for name in route.parameters if name not in needed}
    first = site.json(path, needed)
    if route.acts:
        site.get(f"/cancel?id={first.json.get('id', job_id)}")
    second = site.json(path, needed | optional)
    assert second.status == first.status, second


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_id_is_missing(site: Site, value: str | None) -> None:
    for path in ("/get", "/cancel", "/resume"):
        answer = site.json(path, {"id": value})
        assert (answer.status, answer.problem["param"]) == (400, "id")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", None),
        ("dest=one", None),
        ("source=", ["source was empty: it means the whole uploads folder"]),
        ("dest=", ["dest was empty: it means the bucket mybucket"]),
        ("source=&dest=", ["source was empty", "dest was empty"]),
        ("source=here&dest=one", None),
        ("source=here/file&dest=one", None),
        ("source=dangling&dest=one", None),  # the job fails by itself
        ("source=demmo&dest=one", ["the folder demmo does not exist", "bucket one and all its objects are"]),
        ("source=demmo&dest=", ["dest was empty", "demmo does not exist", "bucket mybucket and all"]),
        ("source=demmo&dest=one&exclude=x", ["demmo does not exist", "mirror's objects in bucket one"]),
        ("source=demmo&dest=one&delete=0", ["demmo does not exist", "nothing is sent"]),
    ],
)
def test_the_answer_warns_of_what_may_not_be_meant(site: Site, query: str, says: list[str] | None) -> None:
    uploads = Path(site.settings.uploads_dir)
    tree(uploads / "here", {"file": "1"})
    (uploads / "dangling").symlink_to("nowhere")
    answer = site.get(f"/sync?{query}")
    assert answer.status == 202, answer
    assert ("warning" in answer.json) == (says is not None), answer
    for text in says or []:
        assert text in answer.json["warning"]
    assert "warning" not in site.get(answer.headers["location"]).json, "it is the answer's, not the job's"


def test_where_buckets_are_not_deleted_the_warning_says_that_the_job_fails(tmp_path: Path) -> None:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9", BUCKET_DELETE="refuse")
    try:
        answer = site.get("/sync?source=demmo&dest=one")
        assert "the job fails, because BUCKET_DELETE=refuse" in answer.json["warning"]
    finally:
        site.close()


def test_several_warnings_become_one_text(site: Site) -> None:
    answer = site.get("/sync?source=&dest=&storage_url=http%3A%2F%2F127.0.0.1%3A8&access_key=k&secret_key=s")
    assert answer.json["warning"] == (
        f"source was empty: it means the whole uploads folder; dest was empty: it means the bucket mybucket;"
        f" {app.KEY_IN_ADDRESS.format('secret_key')}"
    )


def test_the_document_names_the_defaults(site: Site) -> None:
    operation = site.get("/openapi.json").json["paths"]["/sync"]
    asked = {parameter["name"]: parameter for parameter in operation["get"]["parameters"]}
    assert not any(parameter["required"] for parameter in asked.values())
    assert (asked["source"]["schema"]["default"], asked["dest"]["schema"]["default"]) == ("", MYBUCKET)
    body = operation["post"]["requestBody"]
    assert not body["required"]
    assert body["content"]["application/json"]["schema"]["required"] == []


# -- what is printed at the start -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "entries", "tries"),
    [
        ({}, {"photos/a": "1"}, "http://localhost:5000/sync   http://localhost:5000/runnings"),
        ({}, {"photos": None}, "http://localhost:5000/ (the dashboard)"),
        ({}, {}, "http://localhost:5000/ (the dashboard)"),
        ({"STORAGE_URL": "http://127.0.0.1:9"}, {"a": "1"}, "http://localhost:5000/ (the dashboard)"),
    ],
)
def test_the_server_offers_a_click_that_deletes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], environ: dict[str, str], entries: Any, tries: str
) -> None:
    config = load(tmp_path, **environ)
    for name, content in entries.items():
        path = tmp_path / "uploads" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if content is None else path.write_text(content)
    server.print_banner(config, None, 5000)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "try:" in line]
    assert line == f"try:     {tries}"


# -- for real ---------------------------------------------------------------------------------------------


def test_sync_alone_mirrors_all_of_the_uploads_into_mybucket(
    make_service: Callable[..., Service], juicefs: Store, free_mybucket: None
) -> None:
    service = make_service(juicefs)
    tree(service.uploads, {"photos/a": "1", "photos/b/c": "22", "top": "333"})
    for ask in (service.get, service.post):
        reply = ask("/sync")
        assert reply.status == 202
        service.wait_state(reply.json()["id"], "done")
        assert contents(juicefs, MYBUCKET) == expected(service.uploads) != {}
        tree(service.uploads, {"photos/d": "4", "top": None})


def test_start_alone_does_the_same(
    make_shell: Callable[..., Shell], juicefs: Store, free_mybucket: None
) -> None:
    shell = make_shell(juicefs)
    tree(shell.uploads, {"photos/a": "1", "top": "333"})
    result = shell.run("start")
    assert (result.returncode, result.stderr) == (0, "")
    assert contents(juicefs, MYBUCKET) == expected(shell.uploads)
    (shell.uploads / "top").unlink()
    result = shell.run("start", "--source", "", "--dest", "")
    assert result.returncode == 0
    assert re.fullmatch(
        "syncworker: source was empty: it means the whole uploads folder\n"
        "syncworker: dest was empty: it means the bucket mybucket\n",
        result.stderr,
    )
    assert contents(juicefs, MYBUCKET) == expected(shell.uploads) != {}

"""Filters and `delete=0` at work: what is sent, what is deleted, what is left alone, on real stores."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from bench import Mirror, Service, contents, exists, expected, fill, tree
from stores import Store, list_keys

FOLDER = {"a.txt": "a", "b.tmp": "b", "cache/c.txt": "c", "deep/cache/d.txt": "d", "deep/e.txt": "e"}


def flags(**options: Any) -> list[str]:
    return [
        word
        for name, value in options.items()
        for item in (value if isinstance(value, list) else [value])
        for word in (f"--{name.replace('_', '-')}", str(item))
    ]


def filtered(mirror: Mirror, *more: str) -> Any:
    mirror.proxy.reset()
    return mirror.shell.sync(mirror.bucket, "photos", *more)


def quiet(mirror: Mirror, *more: str) -> None:
    """Once more, and nothing is done."""
    run = filtered(mirror, *more)
    assert set(mirror.proxy.kinds()) <= {"LIST"}, mirror.proxy.kinds()
    assert run.progress["files_uploaded"] == run.progress["objects_deleted"] == 0


def test_what_is_excluded_is_neither_sent_nor_deleted(mirror: Mirror, store: Store) -> None:
    theirs = {"x.tmp": b"1", "cache/y": b"2", "old/cache/z": b"3"}
    fill(store, mirror.bucket, {**theirs, "gone.txt": b"4", "deep/gone": b"5"})
    mirror.make(FOLDER)
    more = flags(exclude=["*.tmp", "cache/"])
    run = filtered(mirror, *more)
    assert mirror.contents == {**theirs, "a.txt": b"a", "deep/e.txt": b"e"}
    assert (run.progress["files_total"], run.progress["objects_deleted"]) == (2, 2)
    assert run.status["options"] == {"exclude": ["*.tmp", "cache/"]}
    assert run.status["message"] == "the files that the filters select are mirrored"
    quiet(mirror, *more)
    mirror.sync()  # without the filter all of it is the mirror's again
    assert mirror.contents == expected(mirror.folder)


def test_include_narrows_both_sides_and_exclude_takes_from_it(mirror: Mirror, store: Store) -> None:
    theirs = {"readme.md": b"1", "deep/old.bin": b"2"}
    fill(store, mirror.bucket, {**theirs, "old.txt": b"3", "cache/old.txt": b"4"})
    mirror.make(FOLDER)
    more = flags(include=["*.txt"], exclude=["/cache/"])
    filtered(mirror, *more)
    assert mirror.contents == {
        **theirs, "a.txt": b"a", "deep/cache/d.txt": b"d", "deep/e.txt": b"e", "cache/old.txt": b"4",
    }  # fmt: skip
    quiet(mirror, *more)


def test_delete_0_adds_and_changes_and_deletes_nothing(mirror: Mirror, store: Store) -> None:
    fill(store, mirror.bucket, {"a.txt": b"other", "gone.txt": b"kept"})
    mirror.make(FOLDER)
    more = flags(delete=0)
    run = filtered(mirror, *more)
    assert mirror.contents == {**expected(mirror.folder), "gone.txt": b"kept"}
    assert not {"DELETE", "DELETE_MANY"} & set(mirror.proxy.kinds())
    assert run.status["options"] == {"delete": 0}
    assert run.status["message"] == "all of the folder is in the bucket, and nothing was deleted"
    quiet(mirror, *more)


EMPTY = [
    pytest.param({"exclude": ["*.tmp"]}, {"keep.tmp": b"1"}, id="exclude"),
    pytest.param({"include": ["*.txt"]}, {"keep.tmp": b"1"}, id="include"),
    pytest.param({"delete": 0}, {"keep.tmp": b"1", "gone.txt": b"2"}, id="delete=0"),
]


@pytest.mark.parametrize("folder", ["missing", "empty", "only what is excluded"])
@pytest.mark.parametrize(("options", "left"), EMPTY)
def test_the_bucket_itself_stays(
    mirror: Mirror, folder: str, options: dict[str, Any], left: dict[str, bytes]
) -> None:
    fill(mirror.store, mirror.bucket, {"keep.tmp": b"1", "gone.txt": b"2"})
    if folder != "missing":
        mirror.make({})
    if folder == "only what is excluded":
        mirror.make({"x.tmp": "x"})
        left = left if "delete" not in options else {**left, "x.tmp": b"x"}
    filtered(mirror, *flags(**options))
    assert mirror.exists
    assert mirror.contents == left
    quiet(mirror, *flags(**options))


@pytest.mark.parametrize("options", [{"exclude": ["*.tmp"]}, {"delete": 0}])
def test_a_missing_bucket_is_not_made_for_nothing(mirror: Mirror, options: dict[str, Any]) -> None:
    filtered(mirror, *flags(**options))
    assert not mirror.exists


def test_refuse_refuses_to_empty_a_filtered_mirror(mirror: Mirror) -> None:
    fill(mirror.store, mirror.bucket, {"keep.tmp": b"1", "gone.txt": b"2"})
    mirror.shell.environment["BUCKET_DELETE"] = "refuse"
    run = mirror.start(*flags(exclude=["*.tmp"]))
    assert (run.status["state"], run.status["error"]["code"]) == ("failed", "BucketDeleteRefused")
    assert "no file of this mirror" in run.status["error"]["message"]
    assert set(mirror.contents) == {"keep.tmp", "gone.txt"}
    filtered(mirror, *flags(delete=0))
    assert set(mirror.contents) == {"keep.tmp", "gone.txt"}


def test_an_excluded_folder_is_not_read_and_holds_nothing_up(mirror: Mirror) -> None:
    fill(mirror.store, mirror.bucket, {"gone.txt": b"2", "secret/old": b"3"})
    mirror.make({"a.txt": "a", "secret/b.txt": "b"})
    folder = mirror.folder / "secret"
    folder.chmod(0)
    try:
        run = mirror.start()
        assert run.status["state"] == "failed" and "gone.txt" in mirror.contents
        filtered(mirror, *flags(exclude=["/secret/"]))
        assert mirror.contents == {"a.txt": b"a", "secret/old": b"3"}
    finally:
        folder.chmod(0o700)


def test_an_odd_name_that_is_excluded_is_not_looked_at(mirror: Mirror) -> None:
    mirror.make({"a.txt": "a", "odd/b": "b"})
    (mirror.folder / "odd").joinpath(os.fsdecode(b"\xff.tmp")).touch()
    (mirror.folder / "link.tmp").symlink_to("/etc/hostname")
    os.mkfifo(mirror.folder / "pipe.tmp")
    run = filtered(mirror, *flags(exclude=["*.tmp"]))
    assert run.progress["files_skipped"] == 0
    assert mirror.contents == {"a.txt": b"a", "odd/b": b"b"}


@pytest.mark.parametrize("store", ["juicefs", "rclone"], indirect=True)
def test_an_excluded_object_in_the_way_is_not_deleted(mirror: Mirror, store: Store) -> None:
    """A store that is a file system cannot hold `x` beside `x/y`: the upload fails, and `x` stays."""
    fill(store, mirror.bucket, {"x": b"theirs"})
    mirror.make({"x/y": "ours"})
    run = mirror.start(*flags(exclude=["/x", "!/x/"]))
    assert run.status["state"] == "failed"
    assert mirror.contents == {"x": b"theirs"}


@pytest.mark.parametrize("options", [{"exclude": ["*.tmp"]}, {"delete": 0}])
def test_what_stays_below_the_name_of_a_file_is_not_hidden(
    mirror: Mirror, store: Store, options: dict[str, Any]
) -> None:
    """rclone's server takes an upload of `x` for one of the folder, fails, and shows it no more."""
    theirs = {"x/y.tmp": b"1", "x/z/a.tmp": b"2"}
    fill(store, mirror.bucket, theirs)
    mirror.make({"x": "ours"})
    run = mirror.start(*flags(**options))
    if store.nested_keys:
        assert mirror.contents == {**theirs, "x": b"ours"}
        return
    assert run.status["state"] == "failed"
    assert mirror.contents == theirs


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_a_folder_marker_that_is_not_looked_at_stays(mirror: Mirror, store: Store) -> None:
    """It is an object of its own, of others, though the last file that was in its folder goes."""
    theirs = {"old/": b"", "old/deep/": b"", "old/theirs.bin": b"1"}
    fill(store, mirror.bucket, {**theirs, "old/gone.txt": b"2", "old/deep/gone.txt": b"3"})
    mirror.make({"a.txt": "a"})
    more = flags(include=["*.txt"])
    filtered(mirror, *more)
    assert set(list_keys(store.client(), mirror.bucket)) == {*theirs, "a.txt"}
    quiet(mirror, *more)


def test_a_resume_takes_up_the_options(mirror: Mirror) -> None:
    fill(mirror.store, mirror.bucket, {"keep.tmp": b"1", "gone.txt": b"2"})
    mirror.make(FOLDER)
    more = flags(exclude=["*.tmp", "cache/"], wait=600)
    running, job = mirror.shell.begin(mirror.bucket, "photos", *more)
    status = mirror.shell.wait_file(job, lambda status: status["progress"]["files_uploaded"] == 1)
    running.kill()
    running.wait()
    mirror.shell.file(job, "json").write_text(json.dumps({**status, "wait": 0}))
    assert mirror.shell.run("resume", job).returncode == 0
    assert mirror.shell.status(job)["options"] == {"exclude": ["*.tmp", "cache/"]}
    assert mirror.contents == {"keep.tmp": b"1", "a.txt": b"a", "deep/e.txt": b"e"}


def test_every_form_carries_lists(make_service: Callable[..., Service], juicefs: Store, bucket: str) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", FOLDER)
    wanted = {"exclude": ["*.tmp", "cache/"]}
    pairs = [("source", "photos"), ("dest", bucket), ("exclude", "*.tmp"), ("exclude", "cache/")]
    answers = [service.request("GET", "/sync", pairs)]
    for _ in range(2):
        service.wait_state(answers[-1].json()["id"], "done")
        if len(answers) == 1:
            answers.append(service.post_json("/sync", {"source": "photos", "dest": bucket, **wanted}))
    for answer in answers:
        assert answer.status == 202, answer
        assert answer.json()["options"] == wanted
        status = service.wait_state(answer.json()["id"], "done")
        assert status["options"] == wanted
    assert contents(juicefs, bucket) == {"a.txt": b"a", "deep/e.txt": b"e"}


BAD = [
    ("exclude", "["),
    ("exclude", "a\\"),
    ("exclude", "a\nb"),
    ("exclude", "a\0b"),
    ("include", "!a"),
    ("exclude", [1]),
    ("exclude", ["a", None]),
    ("exclude", {"a": "b"}),
    ("exclude", ["x"] * 1001),
    ("exclude", ["x" * 40_000]),
    ("delete", "2"),
    ("delete", True),
    ("delete", [0]),
    ("forget_mounts", "yes"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_400_and_names_its_parameter(service: Service, name: str, value: Any) -> None:
    answers = [service.post_json("/sync", {"source": "", "dest": "bucket", name: value})]
    if isinstance(value, str):
        pair = {"source": "", "dest": "bucket", name: value}
        answers += [service.get("/sync", **pair), service.post("/sync", **pair)]
    for answer in answers:
        assert answer.status == 400, answer
        assert answer.problem["param"] == name, answer.problem
    assert service.ids() == []
    assert not exists(service.store, "bucket") if service.store else True

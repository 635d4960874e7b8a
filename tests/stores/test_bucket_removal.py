"""A bucket that is to go: by the thousand on every store, in an order that brings nothing back, and never
what the store retains."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from bench import Mirror, Shell, fill, s3_error
from odd_store import Dialect, OddStore
from proxy import Cut, Request
from stores import Store

UNTIL = "2031-01-01T00:00:00.000Z"


def emptied(store: OddStore, make_shell: Callable[..., Shell], *more: str) -> Any:
    shell = make_shell(store)
    (shell.uploads / "photos").mkdir()
    run = shell.start("bucket", "photos", *more)
    return run, shell.report(run.status["id"])


def locked_store(page_size: int = 1000) -> OddStore:
    """Seven keys: what is retained is a latest version, an older one, and one below a delete marker."""
    store = OddStore(Dialect(page_size, versioned=True))
    with store:
        for key in ("free", "twice", "twice"):
            store.put(key)
        store.put("latest", b"older")
        store.put("latest", b"locked", until=UNTIL)
        store.put("older", b"locked", until=UNTIL)
        store.put("older", b"newer")
        store.put("hidden", b"locked", until=UNTIL)
        store.put("held", b"locked", hold=True)
        store.put("deleted", b"free")
        for key in ("hidden", "deleted", "never"):
            store.answer("DELETE", key, {}, b"")
        store.requests.clear()
    return store


@pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
def test_what_the_store_retains_stays_as_it_was_and_is_told_once(
    page_size: int, make_shell: Callable[..., Shell]
) -> None:
    with locked_store(page_size) as store:
        before = store.objects()
        run, report = emptied(store, make_shell)
        assert (run.exit_status, run.status["error"]["code"]) == (1, "Retained")
        assert store.exists
        kept = {"latest", "older", "hidden", "held"}
        assert store.objects() == {key: body for key, body in before.items() if key in kept}
        assert {key for key, versions in store.keys.items() if versions} == kept
        told = {e["key"]: e["message"] for e in run.status["errors"]}
        assert set(told) == kept == {line["key"] for line in report if "error" in line}
        assert told["latest"].startswith(f"Retained until {UNTIL}")
        assert told["held"].startswith("Retained by a legal hold")
        assert len(run.status["errors"]) == len(kept)
        assert (run.progress["objects_kept"], run.progress["objects_deleted"]) == (4, 2), "free and twice"
        assert store.count("DELETE") == 0, "nothing that was refused is tried again, the bucket neither"
        assert sum("object-lock" in q for _, _, q in store.requests) == 0


def test_nothing_that_was_deleted_comes_back_on_the_way(make_shell: Callable[..., Shell]) -> None:
    with OddStore(Dialect(2, versioned=True)) as store:
        for number in range(6):
            store.put(f"gone{number}", b"old")
            store.answer("DELETE", f"gone{number}", {}, b"")
            store.put(f"live{number}", b"old")
            store.put(f"live{number}", b"new")
        seen: set[tuple[str, bytes]] = set()
        store.before = lambda *_: seen.update(store.objects().items())
        run, _ = emptied(store, make_shell)
        assert (run.exit_status, store.exists) == (0, False), run
        assert {body for _, body in seen} == {b"new"}
        assert run.progress["objects_deleted"] == 6


def test_an_object_that_may_not_be_deleted_is_asked_for_once(make_shell: Callable[..., Shell]) -> None:
    """By a policy, say: it is no retention, and another round would be answered the same."""
    with OddStore() as store:
        for key in ("a", "b", "c"):
            store.put(key)
        delete = store._delete
        store._delete = lambda key, version: key != "b" and delete(key, version)  # type: ignore[method-assign]
        run, _ = emptied(store, make_shell)
        assert (run.exit_status, run.status["error"]["code"]) == (1, "AccessDenied")
        assert (sorted(store.objects()), store.exists) == (["b"], True)
        assert [(e["key"], e["code"]) for e in run.status["errors"]] == [("b", "AccessDenied")]
        assert (run.progress["objects_deleted"], run.progress["objects_kept"]) == (2, 1)
        assert store.count("POST", "delete") == 1


def test_what_appears_meanwhile_is_deleted_only_after_it_was_listed(
    make_shell: Callable[..., Shell],
) -> None:
    with OddStore() as store:
        store.put("a")
        listed: list[set[str]] = []
        deleted: set[str] = set()
        late = iter(["z1", "z2", "a"])

        def before(method: str, _key: str, query: dict[str, str]) -> None:
            if method == "GET" and "list-type" in query:
                listed.append(set(store.objects()))
            if method == "POST" and "delete" in query and (key := next(late, None)):
                store.put(key)

        delete = store._delete

        def noted(key: str, version: str | None) -> bool:
            assert any(key in keys for keys in listed), key
            deleted.add(key)
            return delete(key, version)

        store.before, store._delete = before, noted  # type: ignore[method-assign]
        run, _ = emptied(store, make_shell)
        assert (run.exit_status, store.exists, deleted) == (0, False, {"a", "z1", "z2"})


def test_a_bucket_is_emptied_by_the_thousand_on_every_store(mirror: Mirror, store: Store) -> None:
    """Over plain http, and whether or not the store's answer names what it has deleted."""
    keys = {f"d{number % 7}/e/k{number:04d}": b"1" for number in range(70)}
    fill(store, mirror.bucket, keys)
    mirror.folder.mkdir()
    run = mirror.start()
    assert (run.exit_status, mirror.exists) == (0, False), run
    assert run.progress["objects_deleted"] == len(keys)
    assert len(mirror.proxy.of_kind("DeleteObjects")) <= 3
    assert len(mirror.proxy.of_kind("DELETE")) <= 15, "folder markers at most"
    lines = [line["key"] for line in mirror.shell.report(run.status["id"]) if line["op"] == "delete"]
    assert sorted(lines) == sorted(keys)


@pytest.mark.parametrize("kind", ["refused", "lost"])
def test_where_deletions_by_the_thousand_do_not_work_they_go_one_by_one(kind: str, mirror: Mirror) -> None:
    fill(mirror.store, mirror.bucket, {f"k{number}": b"1" for number in range(9)})
    mirror.folder.mkdir()
    answer = s3_error(501, "NotImplemented") if kind == "refused" else Cut()

    def refuse(request: Request) -> Any:
        return answer if request.kind == "DeleteObjects" else None

    mirror.proxy.on_request(refuse)
    run = mirror.start()
    assert (run.exit_status, mirror.exists) == (0, False), run
    assert run.progress["objects_deleted"] == 9


@pytest.mark.parametrize("store", ["moto", "seaweedfs"], indirect=True)
def test_a_locked_bucket_of_a_real_store_stays(mirror: Mirror, store: Store) -> None:
    client = store.client()
    client.create_bucket(Bucket=mirror.bucket, ObjectLockEnabledForBucket=True)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)
    lock: dict[str, Any] = {"ContentMD5": base64.b64encode(hashlib.md5(b"1").digest()).decode()}
    lock |= {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    client.put_object(Bucket=mirror.bucket, Key="locked", Body=b"1", **lock)
    client.put_object(Bucket=mirror.bucket, Key="hidden", Body=b"1", **lock)
    client.put_object(Bucket=mirror.bucket, Key="free", Body=b"1")
    client.delete_object(Bucket=mirror.bucket, Key="hidden")
    mirror.folder.mkdir()
    run = mirror.start()
    assert (run.exit_status, run.status["error"]["code"]) == (1, "Retained"), run
    assert set(mirror.contents) == {"locked"}
    told = {e["key"]: e["message"] for e in run.status["errors"]}
    assert set(told) == {"locked", "hidden"}
    assert all(message.startswith(f"Retained until {until:%Y-%m-%d}") for message in told.values()), told
    assert (run.progress["objects_deleted"], run.progress["objects_kept"]) == (1, 2)
    for version in client.list_object_versions(Bucket=mirror.bucket)["Versions"]:
        client.delete_object(
            Bucket=mirror.bucket,
            Key=version["Key"],
            VersionId=version["VersionId"],
            BypassGovernanceRetention=True,
        )

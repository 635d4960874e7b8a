"""Stores whose listings are not as Amazon's are: through every operation that lists, and whole syncs."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import pytest
from bench import Shell, tree
from odd_store import ODD_NAMES, Dialect, OddStore

from syncworker.errors import FatalError, FileError, RetryError
from syncworker.plan.listing import Listing
from syncworker.s3 import multipart, xml_messages
from syncworker.s3.bucket import Bucket
from syncworker.s3.client import Client
from syncworker.s3.credentials import Given
from syncworker.s3.request import Target
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.pool import ConnectionPool
from syncworker.worker.pages import Arriving

PAGES = pytest.mark.parametrize("page_size", [1, 2, 3, 1000])


def ask(store: OddStore, work: Callable[[Bucket], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with ConnectionPool(Endpoint.of(store.url, "us-east-1"), None) as pool:
            return await work(
                Bucket(Client(pool, Target("b", "us-east-1"), Given(store.access_key, store.secret_key)))
            )

    return asyncio.run(run())


def listed(store: OddStore, cuts: list[str] | None = None) -> list[str]:
    """The keys of the whole listing, as a sync reads it."""

    async def work(bucket: Bucket) -> list[str]:
        loop = asyncio.get_running_loop()

        def later(coroutine: Any) -> Future[Any]:
            return asyncio.run_coroutine_threadsafe(coroutine, loop)

        def later_range(low: str | None, high: str | None) -> Arriving:
            arriving = Arriving(loop, 20)
            later(arriving.fetch(bucket.list_range(low, high), lambda *_: None, knows_first=False))
            return arriving

        def read() -> list[str]:
            listing = Listing(lambda token: later(bucket.list_page(token)), later_range, cuts)
            keys = [entry.key for page in listing.pages() for entry in page]
            assert listing.complete
            return keys

        return await asyncio.to_thread(read)

    found: list[str] = ask(store, work)
    return found


@PAGES
@pytest.mark.parametrize("cuts", [[], ["&", "a"], ["%41", "caf\u00e9", "n"], ["\x01control", "tab\tname"]])
def test_odd_names_are_listed_whatever_the_store_makes_of_its_tokens(page_size: int, cuts: list[str]) -> None:
    with OddStore(Dialect(page_size)) as store:
        for name in ODD_NAMES:
            store.put(name)
        assert listed(store, cuts) == sorted(ODD_NAMES)


@PAGES
@pytest.mark.parametrize("encodes_markers", [False, True])
def test_odd_names_are_listed_as_versions_and_as_uploads(page_size: int, encodes_markers: bool) -> None:
    """Some versions of Ceph's gateway encode a marker, others do not: the last key of the page tells."""
    with OddStore(Dialect(page_size, encodes_markers, versioned=True)) as store:
        for name in ODD_NAMES:
            store.put(name)
            store.put(name)
            store.uploads[name, "u1"] = store.uploads[name, "u2"] = None

        async def versions(bucket: Bucket) -> list[tuple[str, str]]:
            found: list[tuple[str, str]] = []
            marker: dict[str, str] | None = {}
            while marker is not None:
                page, marker = await bucket.list_versions(marker) or ([], None)
                found += [version[:2] for version in page]
            return found

        every = sorted((key, version.id) for key, held in store.keys.items() for version in held)
        assert sorted(ask(store, versions)) == every
        uploads = ask(store, multipart.list_uploads)
        assert [tuple(upload) for upload in uploads] == sorted(store.uploads)
        for name in ODD_NAMES:
            alone = ask(store, lambda bucket, name=name: multipart.list_uploads(bucket, name))
            assert {upload.upload_id for upload in alone if upload.key == name} == {"u1", "u2"}, name


@pytest.mark.parametrize("name", ODD_NAMES)
def test_one_key_is_found_by_its_own_name(name: str) -> None:
    with OddStore() as store:
        store.put(name)
        assert name in ask(store, lambda bucket: bucket.list_exact(name))


@pytest.mark.parametrize(
    "name", [*ODD_NAMES, "0", "a/0", "\u4e00", "a/\u4e00", "\ue000", "a" * 1024, "~", "!"]
)
def test_a_key_is_listed_anew_only_while_its_object_is_there(name: str) -> None:
    """From right before it, however its name ends: a page does not reach further."""
    with OddStore(Dialect(page_size=3)) as store:
        store.put(name)
        for number in range(0x4D00, 0x4D80):  # before the last two characters, and beside them
            store.put(f"{name[:-1]}{chr(number)}")
        assert ask(store, lambda bucket: bucket.listed_anew([name])) == name
        assert ask(store, lambda bucket: bucket.listed_anew(["\u4dff", name])) == name
        del store.keys[name]
        assert ask(store, lambda bucket: bucket.listed_anew([name, f"{name}1", f"{name}2"])) is None


def test_a_folder_that_precedes_the_key_does_not_hide_it() -> None:
    """`a/` comes between `a.` and `a0`."""
    with OddStore(Dialect(page_size=10)) as store:
        for number in range(150):
            store.put(f"a/{number:03}")
        assert ask(store, lambda bucket: bucket.listed_anew(["a0"])) is None
        store.put("a0")
        assert ask(store, lambda bucket: bucket.listed_anew(["a0"])) == "a0"
        del store.keys["a0"]
        for number in range(150, 250):
            store.put(f"a/{number:03}")
        assert ask(store, lambda bucket: bucket.listed_anew(["a0"])) == "a0", "not reached, so not excluded"


def test_a_key_is_never_listed_anew_from_where_an_earlier_listing_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not by tokens, and at no position twice: the juicefs gateway continues the earlier listing there."""
    began: list[str | None] = []
    list_page = Bucket.list_page

    async def noted(bucket: Bucket, token: str | None, start_after: str | None = None) -> xml_messages.Page:
        assert token is None
        began.append(start_after)
        return await list_page(bucket, token, start_after)

    monkeypatch.setattr(Bucket, "list_page", noted)
    with OddStore(Dialect(page_size=10)) as store:
        for number in range(40):
            store.put(f"a/{number:02}")
        for _ in range(2):
            assert ask(store, lambda bucket: bucket.listed_anew(["a0"])) is None
    assert len(began) == len(set(began)) == 10
    assert not store.keys.keys() & set(began)


def folder_of(names: tuple[str, ...]) -> dict[str, str]:
    return {name: f"content of {name[:20]!a}" for name in names}


@pytest.mark.parametrize("page_size", [1, 3])
@pytest.mark.parametrize("versioned", [False, True])
def test_a_folder_of_odd_names_is_mirrored_and_its_bucket_deleted(
    page_size: int, versioned: bool, make_shell: Callable[..., Shell]
) -> None:
    files = folder_of(ODD_NAMES)
    with OddStore(Dialect(page_size, versioned=versioned)) as store:
        shell = make_shell(store)
        tree(shell.uploads / "photos", files)
        store.put("\x02gone")
        store.put("gone+%41")
        shell.sync("bucket")
        assert store.objects() == {name: text.encode() for name, text in sorted(files.items())}
        again = shell.sync("bucket")
        assert again.progress["files_uploaded"] == again.progress["objects_deleted"] == 0
        store.uploads["\x01control", "u1"] = store.uploads["%41", "u2"] = None
        shutil.rmtree(shell.uploads / "photos")
        end = shell.sync("bucket")
        assert (store.exists, end.progress["objects_deleted"]) == (False, len(files))


@pytest.mark.parametrize("refuses", [False, True])
def test_a_first_sync_lists_a_store_far_away_by_ranges_that_the_folder_tells(
    refuses: bool, make_shell: Callable[..., Shell]
) -> None:
    """Each missing file is sent, each object without a file deleted, nothing else; a store that
    refuses ranges is listed page by page, and is asked for none by the next sync."""
    with OddStore(Dialect(refuses_start_after=refuses)) as store:
        store.before = lambda _method, _key, query: time.sleep(0.05 if "list-type" in query else 0)
        shell = make_shell(store)
        keys = [f"{folder}/{number:04}" for folder in "ab" for number in range(2000)]
        tree(shell.uploads / "photos", dict.fromkeys(keys, "x"))
        for key in {*keys, "0", "a/0500x", "c"} - {"a/0000", "b/1999"}:
            store.put(key)
        progress = shell.sync("bucket").progress
        assert (progress["files_uploaded"], progress["objects_deleted"]) == (2, 3)
        assert sorted(store.objects()) == keys
        asked = store.count("GET", "start-after")
        assert asked
        progress = shell.sync("bucket").progress
        assert progress["files_uploaded"] == progress["objects_deleted"] == 0
        assert not refuses or store.count("GET", "start-after") == asked


def test_an_answer_about_one_key_that_cannot_be_read_fails_that_file_alone(
    make_shell: Callable[..., Shell],
) -> None:
    """A control character makes a sync look whether the store keeps the name."""
    with OddStore(Dialect(forbids=lambda prefix: prefix == "\x01control")) as store:
        with pytest.raises(FileError, match="this key alone"):
            ask(store, lambda bucket: bucket.list_exact("\x01control"))
        shell = make_shell(store)
        tree(shell.uploads / "photos", {"\x01control": "1", "plain": "2"})
        run = shell.start("bucket")
        assert (run.exit_status, run.status["error"]["code"]) == (1, "FilesFailed")
        assert [(e["key"], e["code"]) for e in run.status["errors"]] == [("\x01control", "BadAnswer")]
        assert store.objects()["plain"] == b"2"


# -- listings that do not say whether they go on


SILENT = [
    Dialect(says_truncated=False),
    Dialect(says_truncated=False, gives_tokens=False),
    Dialect(2, says_truncated=False),
    Dialect(2, says_truncated=False, gives_tokens=False),
    Dialect(7, says_truncated=False, gives_tokens=False, versioned=True),
]


@pytest.mark.parametrize("dialect", SILENT)
def test_a_listing_that_does_not_say_whether_it_goes_on_is_read_to_its_end(dialect: Dialect) -> None:
    with OddStore(dialect) as store:
        for number in range(2500 if dialect.page_size == 1000 else 14):
            store.put(f"k{number:05d}")
            store.uploads[f"k{number:05d}", "u1"] = None
        assert listed(store) == sorted(store.keys)
        assert listed(store, ["k00004", "k00009"]) == sorted(store.keys)
        assert len(ask(store, multipart.list_uploads)) == len(store.keys)


@pytest.mark.parametrize("dialect", SILENT)
def test_nothing_is_deleted_by_a_listing_that_does_not_say_whether_it_goes_on(
    dialect: Dialect, make_shell: Callable[..., Shell]
) -> None:
    """Taken for whole, its first page made every file behind it new and every key behind it stay."""
    files = {f"k{number:02d}": str(number) for number in range(9)}
    with OddStore(dialect) as store:
        shell = make_shell(store)
        tree(shell.uploads / "photos", files)
        shell.sync("bucket")
        store.put("zz")
        store.put("aa")
        run = shell.sync("bucket")
        assert (run.progress["files_uploaded"], run.progress["objects_deleted"]) == (0, 2)
        assert sorted(store.objects()) == sorted(files)


def test_a_listing_that_says_both_is_an_error_and_nothing_is_deleted(
    make_shell: Callable[..., Shell],
) -> None:
    with OddStore(Dialect(token_on_last=True)) as store:
        shell = make_shell(store)
        tree(shell.uploads / "photos", {"a": "1"})
        store.put("gone")
        run = shell.start("bucket")
        assert (run.exit_status, run.status["error"]["code"]) == (1, "BrokenListing")
        assert "gone" in store.objects()


NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def page(inner: str, keys: int = 0) -> xml_messages.Page:
    rows = "".join(
        f"<Contents><Key>k{n:04d}</Key><LastModified>t</LastModified><ETag>&quot;ab&quot;</ETag><Size>1</Size>"
        "</Contents>"
        for n in range(keys)
    )
    return xml_messages.parse_listing(f"<ListBucketResult {NS}>{inner}{rows}</ListBucketResult>".encode())


FALSE, TRUE = "<IsTruncated>false</IsTruncated>", "<IsTruncated>true</IsTruncated>"
TOKEN = "<NextContinuationToken>t</NextContinuationToken>"


@pytest.mark.parametrize(
    ("inner", "keys", "goes_on"),
    [
        (FALSE, 1000, None),
        (TRUE + TOKEN, 0, "t"),
        (TRUE + TOKEN, 1, "t"),
        ("", 0, None),
        ("<IsTruncated/>", 999, None),
        ("", 999, None),
        ("", 1000, "k0999"),
        (TOKEN, 0, "t"),
        (TOKEN, 1, "t"),
        ("<NextContinuationToken/>", 1, None),
        ("<MaxKeys>100</MaxKeys>", 99, None),
        ("<MaxKeys>100</MaxKeys>", 100, "k0099"),
        ("<MaxKeys>5000</MaxKeys>", 1000, "k0999"),
        ("<MaxKeys>0</MaxKeys>", 3, None),
        ("<MaxKeys>many</MaxKeys>", 3, None),
    ],
)
def test_where_a_listing_goes_on(inner: str, keys: int, goes_on: str | None) -> None:
    found = page(inner, keys)
    assert (found.token, found.truncated, len(found.entries)) == (goes_on, goes_on is not None, keys)
    assert isinstance(found.token, xml_messages.StartAfter) == (goes_on is not None and TOKEN not in inner)


@pytest.mark.parametrize("inner", [FALSE + TOKEN, FALSE + TRUE, TRUE + TOKEN + FALSE])
def test_a_page_that_contradicts_itself_is_broken(inner: str) -> None:
    with pytest.raises(RetryError, match="nothing was deleted") as caught:
        page(inner, 1)
    assert caught.value.code == "BrokenListing"


VERSION = "<Version><Key>k</Key><VersionId>v</VersionId></Version>"
UPLOAD = "<Upload><Key>k</Key><UploadId>v</UploadId></Upload>"


@pytest.mark.parametrize(
    ("inner", "entries", "following"),
    [
        ("", 1, None),
        ("", 1000, ("k", "v")),
        ("<MaxKeys>3</MaxKeys><MaxUploads>3</MaxUploads>", 3, ("k", "v")),
        ("<NextKeyMarker>m</NextKeyMarker>", 1, ("m", None)),
        (FALSE + "<NextKeyMarker>m</NextKeyMarker>", 1, None),
        (TRUE + "<NextKeyMarker>m</NextKeyMarker>", 1, ("m", None)),
    ],
)
def test_where_versions_and_uploads_go_on(
    inner: str, entries: int, following: tuple[str, str | None] | None
) -> None:
    for root, entry, parse, name in (
        ("ListVersionsResult", VERSION, xml_messages.parse_versions, "version-id-marker"),
        ("ListMultipartUploadsResult", UPLOAD, xml_messages.parse_uploads, "upload-id-marker"),
    ):
        marker = parse(f"<{root} {NS}>{inner}{entry * entries}</{root}>".encode())[1]
        assert (marker and (marker["key-marker"], marker.get(name))) == following
        with pytest.raises(RetryError, match="does not say where"):
            parse(f"<{root} {NS}>{TRUE}{entry}</{root}>".encode())


# -- references to characters that XML forbids


@pytest.mark.parametrize("reference", ["&#x1;", "&#x01;", "&#1;", "&#x1f;", "&#xFFFE;", "&#0;"])
def test_a_forbidden_reference_is_read_and_nothing_else_is(reference: str) -> None:
    body = f"<ListBucketResult {NS}>{TRUE}<NextContinuationToken>a{reference}b</NextContinuationToken>%s"
    number = int(reference[3:-1], 16) if "x" in reference else int(reference[2:-1])
    for inside in ("", "\U000f0001", "\U000fffff"):  # what would stand in for it is there already
        found = xml_messages.parse_listing((body % f"<Prefix>{inside}</Prefix></ListBucketResult>").encode())
        assert found.token == f"a{chr(number)}b"
    for odd in ("<Open>", "&none;", "&#X1;", "<!DOCTYPE a>", "\x01", "&#xD800;"):
        with pytest.raises(RetryError):
            xml_messages.parse_listing((body % odd + "</ListBucketResult>").encode())


def test_a_broken_listing_is_asked_for_again_and_then_ends_the_job() -> None:
    with OddStore(Dialect(token_on_last=True)) as store:
        store.put("a")
        with pytest.raises(FatalError) as caught:
            ask(store, lambda bucket: bucket.list_page(None))
        assert caught.value.code == "BrokenListing"
        assert store.count("GET", "list-type") > 1

"""The type that an object is given: by a table of our own, alike on every machine and store."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from bench import Mirror
from stores import Store

from syncworker.options import content_types
from syncworker.options.content_types import DEFAULT, content_type

SITE = {
    "index.html": "text/html",
    "css/style.css": "text/css",
    "js/app.mjs": "text/javascript",
    "film.mp4": "video/mp4",
    "font.woff2": "font/woff2",
    "site.webmanifest": "application/manifest+json",
    "module.wasm": "application/wasm",
    "page.html.gz": "application/gzip",
    "data.parquet": "application/vnd.apache.parquet",
    "README": DEFAULT,
    "ünïcode & more.svg": "image/svg+xml",
}


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        *SITE.items(),
        ("a.JPG", "image/jpeg"),
        ("a.tar.gz", "application/gzip"),
        ("a.gz.html", "text/html"),
        ("a.html.", DEFAULT),
        ("a.unheard-of", DEFAULT),
        ("folder.html/a", DEFAULT),
        (".html", DEFAULT),
        ("d/.gitignore", DEFAULT),
        ("d/.config.json", "application/json"),
        ("a.css\n", DEFAULT),
        ("", DEFAULT),
        ("bytes-\udcff.txt", "text/plain"),
    ],
)
def test_the_outermost_suffix_of_the_name_decides(key: str, wanted: str) -> None:
    assert content_type(key) == wanted


def test_the_table_has_each_suffix_once_and_types_that_may_go_into_a_header() -> None:
    rows = content_types.rows()
    assert len(rows) >= 300
    assert [suffix for suffix, count in Counter(suffix for suffix, _ in rows).items() if count > 1] == []
    for suffix, name in rows:
        assert re.fullmatch(r"[a-z0-9]+", suffix), suffix
        assert re.fullmatch(r"[a-z]+/[a-z0-9][a-z0-9.+-]*", name), name
    assert content_types.VERSION == 1


def test_every_store_gives_back_the_type_of_small_and_large_files(mirror: Mirror, store: Store) -> None:
    mirror.make(dict.fromkeys(SITE, "content") | {"large.mkv": 9 << 20, "large": 9 << 20})
    mirror.twice()
    client = store.client()
    for key, wanted in {**SITE, "large.mkv": "video/matroska", "large": DEFAULT}.items():
        head = client.head_object(Bucket=mirror.bucket, Key=key)
        assert head["ContentType"] == wanted, key
        assert not head.get("ContentEncoding"), key
    typed = [r for r in mirror.proxy.requests if r.kind in ("PUT", "CreateMultipartUpload")]
    assert len(typed) == len(SITE) + 2
    for request in typed:
        assert "content-type" in request.headers["authorization"].split("SignedHeaders=")[1], request.kind


def test_what_was_sent_before_keeps_the_type_it_has(mirror: Mirror) -> None:
    client = mirror.store.client()
    client.create_bucket(Bucket=mirror.bucket)
    client.put_object(Bucket=mirror.bucket, Key="a.css", Body=b"a", ContentType="text/odd")
    mirror.make({"a.css": "a"})
    mirror.twice()
    assert client.head_object(Bucket=mirror.bucket, Key="a.css")["ContentType"] == "text/odd"
    mirror.make({"a.css": "b"})
    mirror.sync()
    assert client.head_object(Bucket=mirror.bucket, Key="a.css")["ContentType"] == "text/css"

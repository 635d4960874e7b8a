"""Every option on every store, read back by other tools; and every bad value, in every form."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Mirror, Service, tree
from stores import Store
from test_filters import flags
from test_foreign import Tool

from syncworker.options import table
from syncworker.web import openapi

HEADER = [
    "* Cache-Control: max-age=60", "* Content-Disposition: inline", "* Content-Type: text/x-a",
    "* Content-Encoding: identity", "* Content-Language: de", "* Expires: Wed, 21 Oct 2026 07:28:00 GMT",
    "* x-amz-meta-team: photo",
]  # fmt: skip
KEPT, FORGOTTEN, REFUSED = "kept", "forgotten", "refused"
# What the stores of the tests do with an option; a store that is not named keeps what it is given.
STORES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "class": ({"storage_class": "STANDARD_IA"}, {"juicefs": REFUSED}),
    "another class": ({"storage_class": "REDUCED_REDUNDANCY"}, {"juicefs": FORGOTTEN}),
    "acl": ({"acl": "public-read"}, {"juicefs": FORGOTTEN, "seaweedfs": FORGOTTEN, "rclone": FORGOTTEN}),
    "sse": ({"sse": "AES256"}, {"juicefs": REFUSED, "seaweedfs": REFUSED}),
    "kms": (
        {"sse": "aws:kms", "sse_kms_key_id": "alias/x"},
        {"juicefs": REFUSED, "seaweedfs": REFUSED},
    ),
    "tags": ({"tags": "a=1&b=x%20y"}, {"juicefs": FORGOTTEN, "rclone": FORGOTTEN}),
    "header": ({"header": HEADER}, {}),
}


def told(client: Any, bucket: str, what: str) -> Any:
    """What boto3 reads of the object `a.txt`."""
    if what == "tags":
        tags = client.get_object_tagging(Bucket=bucket, Key="a.txt")["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in tags}
    if what == "acl":
        grants = client.get_object_acl(Bucket=bucket, Key="a.txt")["Grants"]
        return any(g["Grantee"].get("URI", "").endswith("/AllUsers") for g in grants)
    head = client.head_object(Bucket=bucket, Key="a.txt")
    names = {"sse": ["ServerSideEncryption"], "kms": ["ServerSideEncryption", "SSEKMSKeyId"]}
    names["header"] = ["CacheControl", "ContentDisposition", "ContentType"]
    return [head.get(name) for name in names.get(what, ["StorageClass"])]


WANTED: dict[str, Any] = {
    "class": ["STANDARD_IA"], "another class": ["REDUCED_REDUNDANCY"], "acl": True, "sse": ["AES256"],
    "kms": ["aws:kms", "alias/x"], "tags": {"a": "1", "b": "x y"},
    "header": ["max-age=60", "inline", "text/x-a"],
}  # fmt: skip


@pytest.mark.parametrize("what", STORES)
def test_what_is_asked_is_what_the_store_has(mirror: Mirror, store: Store, what: str, tmp_path: Path) -> None:
    asked, exceptions = STORES[what]
    does = exceptions.get(store.name, KEPT)
    mirror.make({"a.txt": "1"})
    run = mirror.start(*flags(**asked))
    if does == REFUSED:
        assert run.status["error"]["code"] == "OptionRefused", run.status
        assert all(f"{name}={value}" in run.status["error"]["message"] for name, value in asked.items())
        return
    assert run.status["state"] == "done", run.status["error"]
    if does == KEPT:
        assert told(store.client(), mirror.bucket, what) == WANTED[what]
    mirror.proxy.reset()
    again = mirror.start(*flags(**asked))  # also where it was forgotten: it was given
    assert set(mirror.proxy.kinds()) == {"LIST"}
    assert again.progress["files_updated"] == again.progress["files_uploaded"] == 0
    if does == KEPT and what in ("header", "class"):
        aws = Tool(store, tmp_path).run(
            "aws", "s3api", "head-object", "--bucket", mirror.bucket, "--key", "a.txt"
        )
        seen = json.loads(aws)
        names = {"header": ["CacheControl", "ContentDisposition", "ContentType"], "class": ["StorageClass"]}
        assert [seen[name] for name in names[what]] == WANTED[what]
    if what == "header":
        listed = Tool(store, tmp_path).run("rclone", "lsjson", "-M", f"s:{mirror.bucket}")
        (entry,) = json.loads(listed[listed.index("[") : listed.rindex("]") + 1])
        metadata = {name.lower(): value for name, value in entry["Metadata"].items()}
        assert (metadata["cache-control"], metadata["content-disposition"]) == ("max-age=60", "inline")
        assert (metadata["content-type"], metadata["team"]) == ("text/x-a", "photo")


def test_all_of_them_at_once(mirror: Mirror, store: Store) -> None:
    """The place, the filters, what is given and how it ends: none gets into another's way."""
    mirror.make({"a.txt": "1", "b.tmp": "2", "sub/c.txt": "3"})
    asked = {"prefix": "p/", "exclude": ["*.tmp"], "include": ["*.txt", "*.tmp"], "delete": 0}
    asked |= {"verify": "deep", "header": HEADER, "wait": 0.01}
    run = mirror.start(*flags(**asked))
    assert run.status["state"] == "done", run.status["error"]
    assert run.status["options"] == {name: value for name, value in asked.items() if name != "wait"}
    assert mirror.contents == {"p/a.txt": b"1", "p/sub/c.txt": b"3"}
    assert store.client().head_object(Bucket=mirror.bucket, Key="p/a.txt")["CacheControl"] == "max-age=60"


def test_without_options_an_upload_has_no_header_more(mirror: Mirror) -> None:
    mirror.make({"a.txt": "1", "big": 9 << 20})
    mirror.sync()
    (put,) = mirror.proxy.of_kind("PUT")
    always = {"host", "authorization", "x-amz-date", "x-amz-content-sha256"}
    ours = {"content-type", "x-amz-meta-mtime"}
    assert set(put.headers) == always | ours | {"content-length", "content-md5", "x-amz-meta-md5chksum"}
    (begun,) = mirror.proxy.of_kind("CreateMultipartUpload")
    assert set(begun.headers) - {"content-length"} == always | ours


# -- bad values -------------------------------------------------------------------------------------------

SCHEMAS: dict[str, Any] = {
    p["name"]: p["schema"]
    for p in openapi.document(token_needed=False)["paths"]["/sync"]["get"]["parameters"]
    if p["in"] == "query" and p["name"] in table.NAMES
}
# What no value of a schema that says `string` alone may hold.
BAD_TEXTS = {
    "prefix": ["/a", "a//b", "../a", "a\x01", "x" * 901],
    "sse_kms_key_id": ["with space", "é", "k" * 2049],
    "storage_class": ["standard", "A" * 65, "A B"],
    "tags": ["a", "=b", "a=1&a=2", "a=\x01", "&".join(f"{n}=1" for n in range(11))],
    "exclude": ["[", "a\\", "!"],
    "include": ["[", "!a", "a\\"],
    "header": ["*", "* Host: a", "* Cache-Control: é", "[ Cache-Control: a"],
}


def _kinds(schema: Any) -> list[Any]:
    return schema.get("anyOf", [schema])


def bad_texts(name: str, chance: random.Random) -> list[str]:
    """Texts that the schema does not allow, and those that only the words of the description do not."""
    allowed = {str(word) for kind in _kinds(SCHEMAS[name]) for word in kind.get("enum", ())}
    patterns = [kind["pattern"] for kind in _kinds(SCHEMAS[name]) if "pattern" in kind]
    found = list(BAD_TEXTS.get(name, ()))
    if allowed or patterns:
        while len(found) < 6:
            text = "".join(
                chance.choices(string.ascii_letters + string.digits + "-+. ", k=chance.randint(1, 8))
            )
            if text not in allowed and not any(re.search(pattern, text) for pattern in patterns):
                found.append(text)
    return found


def bad_json(name: str) -> Iterator[Any]:
    """Values of types that the schema does not have."""
    types = {kind.get("type") for kind in _kinds(SCHEMAS[name])}
    values = {"boolean": True, "number": 1.5, "object": {"a": "b"}, "array": ["a"]}
    yield from (value for kind, value in values.items() if kind not in types)
    if "array" in types:
        yield from ([1], [None], [["a"]], [{}])


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_a_bad_value_is_refused_in_all_four_forms_and_names_its_option(service: Service, name: str) -> None:
    tree(service.uploads / "photos", {"a": "1"})
    chance = random.Random(name)
    pair = {"source": "photos", "dest": "bucket"}
    for text in bad_texts(name, chance):
        answers = [
            service.get("/sync", **pair, **{name: text}),
            service.post("/sync", **pair, **{name: text}),
            service.post_json("/sync", {**pair, name: [text] if name in table.LISTS else text}),
        ]
        for answer in answers:
            assert (answer.status, answer.problem["param"]) == (400, name), (text, answer)
    for value in bad_json(name):
        answer = service.post_json("/sync", {**pair, name: value})
        assert (answer.status, answer.problem["param"]) == (400, name), (value, answer)
    assert service.ids() == []


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_the_shell_refuses_a_bad_value_and_names_its_option(mirror: Mirror, name: str) -> None:
    text = bad_texts(name, random.Random(name))[0]
    found = mirror.shell.run("start", "--source", "photos", f"--{name.replace('_', '-')}={text}")
    assert found.returncode == 2, found
    assert name in found.stderr.replace("-", "_"), found.stderr
    assert mirror.shell.ids() == []


def test_each_option_of_the_table_is_in_the_document() -> None:
    assert set(SCHEMAS) == set(table.NAMES)

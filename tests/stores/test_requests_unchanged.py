"""A sync without options sends the requests that it sent before there were options: `requests_before.json`.

The worker of that time wrote the file: `RECORD=write pytest tests/stores/test_requests_unchanged.py`, in a
tree that has its `syncworker/`. It is never written from a later one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from bench import Mirror
from proxy import Request
from stores import Store

BEFORE = Path(__file__).with_name("requests_before.json")
FILES = {f"d{n % 3}/f{n}": 100 + n for n in range(12)} | {"empty": 0, "index.html": 7, "film": 20 << 20}
# Its value differs from run to run; what is asked for is that it is there.
VOLATILE = {
    "authorization": r"AWS4-HMAC-SHA256 Credential=.*, ?SignedHeaders=(.*), ?Signature=.*",
    "x-amz-date": "",
    "host": "",
    "x-amz-meta-mtime": "",
}


def canonical(request: Request, mirror: Mirror) -> dict[str, Any]:
    """What the request asks for, without what no two runs have in common."""
    headers = {}
    for name, value in sorted((name.lower(), value) for name, value in request.headers.items()):
        if name == "content-type":
            continue
        if name == "x-amz-content-sha256" and request.kind == "PUT" and value == "UNSIGNED-PAYLOAD":
            # The body's, which is not signed since then: the answer's ETag proves it.
            value = hashlib.sha256((mirror.folder / request.key).read_bytes()).hexdigest()
        rule = VOLATILE.get(name)
        found = re.fullmatch(rule, value) if rule else None
        headers[name] = found[1].replace("content-type;", "") if found else "*" if rule is not None else value
    query = {
        name: "*" if name in ("uploadId", "continuation-token", "start-after") else value
        for name, value in sorted(request.query.items())
    }
    path = request.target.partition("?")[0].replace(mirror.bucket, "BUCKET")
    body = "" if request.kind == "PUT" or "partNumber" in query else request.body.decode("utf-8", "replace")
    if "<Delete" not in body:
        body = ""  # a CompleteMultipartUpload is held against the store by other tests
    return {"method": request.method, "path": path, "query": query, "headers": headers, "body": body}


def recorded(mirror: Mirror) -> dict[str, list[dict[str, Any]]]:
    """The requests of four syncs, each sorted, as files go side by side, but for listings: since then, a run
    that wrote lists once more."""

    def of_this() -> list[dict[str, Any]]:
        found = [canonical(request, mirror) for request in mirror.proxy.requests if request.kind != "LIST"]
        return sorted(found, key=lambda one: json.dumps(one, sort_keys=True))

    seen = {}
    for name, size in FILES.items():
        (mirror.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror.folder / name).write_bytes((name.encode() * size)[:size])
        os.utime(mirror.folder / name, (1_700_000_000, 1_700_000_000))
    mirror.sync()
    seen["first"] = of_this()
    mirror.sync()
    seen["nothing to do"] = of_this()
    (mirror.folder / "d0/f0").write_bytes(b"z" * 100)
    os.utime(mirror.folder / "index.html", (1_700_000_001, 1_700_000_001))
    mirror.sync()
    seen["one changed, one touched"] = of_this()
    for name in ("d1/f1", "d1/f4", "empty"):
        (mirror.folder / name).unlink()
    mirror.sync()
    seen["three gone"] = of_this()
    return seen


@pytest.mark.parametrize("store", ["juicefs", "seaweedfs"], indirect=True)
def test_a_sync_without_options_sends_what_it_sent_before_there_were_any(
    store: Store, mirror: Mirror
) -> None:
    name = store.name
    found = recorded(mirror)
    if os.environ.get("RECORD") == "write":
        before = json.loads(BEFORE.read_text()) if BEFORE.exists() else {}
        BEFORE.write_text(json.dumps(before | {name: found}, indent=1, sort_keys=True) + "\n")
    before = json.loads(BEFORE.read_text())[name]
    assert {phase: len(requests) for phase, requests in found.items()} == {
        phase: len(requests) for phase, requests in before.items()
    }
    for phase, requests in found.items():
        assert requests == before[phase], phase

"""A large upload whose last answer is lost or wrong: the object itself tells whether it is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from bench import Answer, Cut, Mirror, s3_error
from proxy import Request
from stores import list_uploads

INSIDE = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>made up</Message></Error>"
ANSWERS: dict[str, Answer | Cut] = {
    "200 with an error inside, to be tried again": Answer(200, {}, INSIDE % b"InternalError"),
    "200 with an error inside, for good": Answer(200, {}, INSIDE % b"InvalidPart"),
    "500": s3_error(500, "InternalError"),
    "502 of a proxy": Answer(502, {"Content-Type": "text/html"}, b"<html>Bad gateway</html>"),
    "no upload": s3_error(404, "NoSuchUpload"),
    "another refusal": s3_error(400, "InvalidRequest"),
    "denied": s3_error(403, "AccessDenied"),
    "reset": Cut(answer_bytes=0),
    "an empty 200": Answer(200, {}, b""),
}


def finishing(mirror: Mirror, answer: Answer | Cut) -> Callable[[Request], Answer | Cut | None]:
    """The store makes the object, and the client is answered so, each time it asks."""

    def hook(request: Request) -> Answer | Cut | None:
        if request.kind != "CompleteMultipartUpload":
            return None
        upload = {"Bucket": request.bucket, "Key": request.key, "UploadId": request.query["uploadId"]}
        client = mirror.store.client()
        with contextlib.suppress(client.exceptions.NoSuchUpload):
            parts = [
                {"PartNumber": part["PartNumber"], "ETag": part["ETag"]}
                for part in client.list_parts(**upload)["Parts"]
            ]
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        return answer

    return hook


@pytest.mark.parametrize("name", ANSWERS)
def test_an_upload_that_was_completed_is_done_whatever_was_answered(name: str, mirror: Mirror) -> None:
    mirror.make({"large": 17 << 20})
    mirror.proxy.on_request(finishing(mirror, ANSWERS[name]))
    run = mirror.sync()
    assert run.progress["files_uploaded"] == 1
    assert len(mirror.proxy.of_kind("UploadPart")) == 3, "no part is sent twice"
    mirror.proxy.clear_hooks()
    mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}


@pytest.mark.parametrize("name", ["500", "another refusal", "200 with an error inside, for good"])
def test_an_upload_that_was_not_completed_fails_though_an_older_object_is_there(
    name: str, mirror: Mirror
) -> None:
    mirror.make({"large": 17 << 20, "gone": "1"})
    mirror.sync()
    before = mirror.contents
    mirror.make({"large": 17 << 20, "gone": None})
    answer = ANSWERS[name]
    mirror.proxy.on_request(lambda r: answer if r.kind == "CompleteMultipartUpload" else None)
    run = mirror.start()
    assert run.exit_status == 1
    assert mirror.contents == before
    mirror.proxy.clear_hooks()
    mirror.sync()
    assert list_uploads(mirror.store.client(), mirror.bucket) == []

"""Uploads by parts: begun, sent, completed, ended, and those that somebody left unfinished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from syncworker.errors import FatalError, FileError, RetryError
from syncworker.s3 import error_codes, xml_documents, xml_messages
from syncworker.s3.bucket import Bucket, has_own_etag
from syncworker.s3.client import TRIES
from syncworker.s3.request import S3Request
from syncworker.s3.sums import Algorithm, encode
from syncworker.system.control import settling
from syncworker.wire.body import Body

T = TypeVar("T")


class Begun(NamedTuple):
    """`server`: what the store calls itself in the answer's headers."""

    upload_id: str
    server: str


class Stored(NamedTuple):
    """What an UploadPart was answered: see Head. `checksum`: "" when the store says none."""

    etag: str
    has_own_etag: bool
    checksum: str


async def create_upload(bucket: Bucket, key: str, headers: dict[str, str]) -> Begun:
    """A new upload. One that the store began although its answer was lost is ended."""
    lost: list[None] = []
    response = await bucket.client.call(
        S3Request("CreateMultipartUpload", "POST", key, {"uploads": ""}, headers),
        on_retry=lambda: lost.append(None),
    )
    upload_id = xml_messages.parse_upload_id(response.body)
    with settling():
        for upload in await list_uploads(bucket, key) if lost else ():
            if upload.key == key and upload.upload_id != upload_id:
                await abort_upload(bucket, key, upload.upload_id)
    return Begun(upload_id, response.headers.get("server", ""))


async def upload_part(
    bucket: Bucket,
    key: str,
    upload_id: str,
    number: int,
    body: Body,
    digests: Mapping[Algorithm, bytes],
    refusals: frozenset[str] = frozenset(),
) -> Stored:
    """Sends a part with its sums, those that have a header; SHA-256 is the body's own."""
    headers = {a.header: encode(digest) for a, digest in digests.items() if a.header}
    response = await bucket.client.call(
        S3Request(
            "UploadPart",
            "PUT",
            key,
            {"partNumber": str(number), "uploadId": upload_id},
            headers,
            body,
        ),
        refusals=refusals,
    )
    etag = xml_messages.clean_etag(response.headers.get("etag"))
    said = next((response.headers.get(a.header, "") for a in digests if a.is_crc), "")
    return Stored(etag, has_own_etag(response.headers), said)


async def list_parts(bucket: Bucket, key: str, upload_id: str) -> list[xml_messages.Part] | None:
    """All parts that the store has of an upload; None when it does not know the upload, or says nothing
    that can be read: then there is nothing to go on with."""
    parts: list[xml_messages.Part] = []
    marker: str | None = None
    while True:
        query = {"uploadId": upload_id}
        if marker is not None:
            query["part-number-marker"] = marker
        try:
            response = await bucket.client.call(S3Request("ListParts", "GET", key, query))
        except FileError as error:
            if error.code in ("NoSuchUpload", "NoSuchKey", "NotFound", "NotImplemented"):
                return None
            raise
        try:
            page, following = xml_messages.parse_parts(response.body)
        except RetryError:
            return None
        parts += page
        if following is None:
            return parts
        if not page or following == marker:
            raise FatalError("BrokenListing", f"the storage repeats itself listing the parts of {key}")
        marker = following


async def complete_upload(
    bucket: Bucket, key: str, upload_id: str, parts: Sequence[xml_documents.PartName]
) -> xml_messages.Completed:
    """The ETag of the new object, "" when the store does not say, and its checksum likewise."""
    for attempt in range(1, TRIES):
        response = await bucket.client.call(
            S3Request(
                "CompleteMultipartUpload",
                "POST",
                key,
                {"uploadId": upload_id},
                {"content-type": "application/xml"},
                xml_documents.complete_document(parts),
            )
        )
        code, message, _ = bucket.client.said(response)
        if not code:
            return xml_messages.parse_completed(response.body)
        # 200 and an error inside: the store had begun to answer before it knew.
        failure = error_codes.classify("CompleteMultipartUpload", 500, code, message, response.headers)
        if not isinstance(failure, RetryError) or attempt == TRIES - 1:
            raise failure
        await bucket.client.wait(failure, attempt)
    raise AssertionError("unreachable")


async def abort_upload(bucket: Bucket, key: str, upload_id: str) -> None:
    try:
        await bucket.client.call(S3Request("AbortMultipartUpload", "DELETE", key, {"uploadId": upload_id}))
    except FileError as error:
        if error.code not in ("NoSuchUpload", "NoSuchKey", "NotFound"):
            raise


async def list_uploads(bucket: Bucket, prefix: str | None = None) -> list[xml_messages.Upload]:
    """Unfinished multipart uploads, all pages; none where the store does not know the operation."""
    base = {"uploads": "", "encoding-type": "url"}
    if prefix is not None or bucket.key_prefix:
        base["prefix"] = bucket.key_prefix + (prefix or "")
    try:
        uploads = await _all_pages(bucket, "ListMultipartUploads", base, xml_messages.parse_uploads)
        return [
            upload._replace(key=upload.key.removeprefix(bucket.key_prefix))
            for upload in uploads
            if upload.key.startswith(bucket.key_prefix)
        ]
    except FileError as error:
        if error.code in ("NotImplemented", "NoSuchUpload", "NoSuchKey", "MethodNotAllowed", "NotFound"):
            return []
        raise


async def _all_pages(
    bucket: Bucket,
    operation: str,
    base: dict[str, str],
    parse: Callable[[bytes], tuple[list[T], dict[str, str] | None]],
) -> list[T]:
    found: list[T] = []
    marker: dict[str, str] = {}
    while True:
        page, following = await bucket.read(operation, base | marker, parse)
        found += page
        if following is None:
            return found
        if following == marker or not page:
            raise FatalError("BrokenListing", f"the storage repeats itself in {operation}")
        marker = following

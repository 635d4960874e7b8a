"""Multipart uploads: create, send parts, complete, abort, list."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from syncworker.errors import FatalError, FileError, RetryError
from syncworker.s3 import xml_documents, xml_messages
from syncworker.s3.bucket import Bucket, has_own_etag, none_if
from syncworker.s3.request import S3Request
from syncworker.s3.sums import Algorithm, encode
from syncworker.system.control import settling
from syncworker.wire.body import Body

T = TypeVar("T")

UPLOAD_GONE = frozenset({"NoSuchUpload", "NoSuchKey", "NotFound"})
_NO_UPLOADS = UPLOAD_GONE | {"NotImplemented", "MethodNotAllowed"}


class Begun(NamedTuple):
    """`server`: the Server header of the answer."""

    upload_id: str
    server: str


class Stored(NamedTuple):
    """The answer to an UploadPart: see Head. `checksum`: "" if the store sends none."""

    etag: str
    has_own_etag: bool
    checksum: str


async def create_upload(bucket: Bucket, key: str, headers: dict[str, str]) -> Begun:
    """Begins an upload. If an answer was lost, aborts the upload that the store began nevertheless."""
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
    """Sends a part with its sums in headers, except for SHA-256, which is in the signature."""
    query = {"partNumber": str(number), "uploadId": upload_id}
    headers = {a.header: encode(digest) for a, digest in digests.items() if a.header}
    request = S3Request("UploadPart", "PUT", key, query, headers, body)
    response = await bucket.client.call(request, refusals=refusals)
    etag = xml_messages.clean_etag(response.headers.get("etag"))
    said = next((response.headers.get(a.header, "") for a in digests if a.is_crc), "")
    return Stored(etag, has_own_etag(response.headers), said)


async def list_parts(bucket: Bucket, key: str, upload_id: str) -> list[xml_messages.Part] | None:
    """Returns all parts that the store has of an upload. Returns None if the upload cannot be continued: the
    store does not know it, or its answer cannot be parsed."""

    async def fetch(marker: dict[str, str]) -> tuple[list[xml_messages.Part], dict[str, str] | None]:
        request = S3Request("ListParts", "GET", key, {"uploadId": upload_id} | marker)
        response = await bucket.client.call(request)
        try:
            return xml_messages.parse_parts(response.body)
        except RetryError as error:  # not parsable, for example if the operation is unknown
            raise FileError("NotImplemented", error.message) from error

    return await none_if(UPLOAD_GONE | {"NotImplemented"}, _all_pages(f"the parts of {key}", fetch))


async def complete_upload(
    bucket: Bucket, key: str, upload_id: str, parts: Sequence[xml_documents.PartName]
) -> xml_messages.Completed:
    """Completes an upload. Returns the ETag and the checksum of the object; "" if the store sends none."""
    query, headers = {"uploadId": upload_id}, {"content-type": "application/xml"}
    body = xml_documents.complete_document(parts)
    request = S3Request("CompleteMultipartUpload", "POST", key, query, headers, body)
    return xml_messages.parse_completed((await bucket.call_whole(request)).body)


async def abort_upload(bucket: Bucket, key: str, upload_id: str) -> None:
    request = S3Request("AbortMultipartUpload", "DELETE", key, {"uploadId": upload_id})
    await none_if(UPLOAD_GONE, bucket.client.call(request))


async def list_uploads(bucket: Bucket, prefix: str | None = None) -> list[xml_messages.Upload]:
    """Lists all unfinished multipart uploads; none if the store does not know the operation."""
    base = {"uploads": "", "encoding-type": "url"}
    if prefix is not None or bucket.key_prefix:
        base["prefix"] = bucket.key_prefix + (prefix or "")

    def fetch(marker: dict[str, str]) -> Awaitable[tuple[list[xml_messages.Upload], dict[str, str] | None]]:
        return bucket.read("ListMultipartUploads", base | marker, xml_messages.parse_uploads)

    uploads = await none_if(_NO_UPLOADS, _all_pages("uploads by parts", fetch))
    return [
        upload._replace(key=upload.key.removeprefix(bucket.key_prefix))
        for upload in uploads or ()
        if upload.key.startswith(bucket.key_prefix)
    ]


async def _all_pages(
    what: str, fetch: Callable[[dict[str, str]], Awaitable[tuple[list[T], dict[str, str] | None]]]
) -> list[T]:
    """Returns the entries of all pages. `fetch` takes the marker of a page ({}: the first) and returns the
    page's entries and the next marker."""
    found: list[T] = []
    marker: dict[str, str] = {}
    while True:
        page, following = await fetch(marker)
        found += page
        if following is None:
            return found
        if following == marker or not page:
            raise FatalError("BrokenListing", f"the storage repeated a page when listing {what}")
        marker = following

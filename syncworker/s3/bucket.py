"""The S3 operations on one bucket and its objects. Multipart uploads: multipart.py; DeleteObjects:
deletions.py; sending and retrying requests: client.py.

PutObject, UploadPart and DeleteObjects carry Content-MD5, the only integrity header that nearly every store
checks. Trailing checksums are never used, because several stores keep their framing inside the object.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from syncworker.errors import FatalError, FileError, RetryError
from syncworker.model import ObjectEntries, ObjectEntry
from syncworker.options.object_headers import HEADER_NAMES, OPTION_HEADERS
from syncworker.s3 import error_codes, xml_documents, xml_messages
from syncworker.s3.client import TRIES, Client
from syncworker.s3.request import S3Request
from syncworker.s3.signing import encode_path, is_plain
from syncworker.s3.sums import encode
from syncworker.wire.connection import Response
from syncworker.wire.endpoint import why_never_created

T = TypeVar("T")

_UNREADABLE = frozenset({"BadAnswer", "BrokenListing"})
# The headers that were sent with an object's content, and that HEAD returns.
GIVEN = (*HEADER_NAMES, *(OPTION_HEADERS[name] for name in ("storage_class", "sse", "sse_kms_key_id")))
MISSING = frozenset({"NoSuchKey", "NotFound", "NoSuchVersion"})
_PAGES_ANEW = 20  # of a new listing, until it reaches a key
_NO_VERSIONS = frozenset({"NotImplemented", "MethodNotAllowed", "InvalidRequest", "InvalidArgument"})


_rewritten = re.compile("[\x00-\x1f\x7f\\\\]|\u201b|[ .]$|[ .]/").search  # seen so by SeaweedFS and rclone


def may_be_rewritten(key: str) -> bool:
    """Whether some stores list an object with this key under another one."""
    if is_plain(key):  # nearly always so, and found out in a third of the time
        return key[-1:] == "." or "./" in key
    return _rewritten(key) is not None


def _shortly_before(key: str) -> str:
    """Returns a position in a listing before this key, where no listing has stopped; "" for the start."""
    name = key[key.rfind("/") + 1 :]
    is_long = len(key.encode()) > 1010 or len(name.encode()) > 240  # stores refuse longer ones
    at = len(key) - (12 if is_long else 1)
    code = ord(key[at])
    if code <= ord("!") or 0x7F < code <= 0xA1:
        return key[:at]
    # "/" precedes "0", and would be a folder. Surrogates are no characters.
    before = chr({ord("0"): ord("."), 0xE000: 0xD7FF}.get(code, code - 1))
    return f"{key[:at]}{before}~{os.urandom(4).hex()}"


async def none_if(codes: frozenset[str], answer: Awaitable[T]) -> T | None:
    """Awaits an answer; returns None if the store refuses the request with one of these codes."""
    try:
        return await answer
    except FileError as error:
        if error.code in codes:
            return None
        raise


class Head(NamedTuple):
    """The answer to HEAD. `metadata` has lower-case names without `x-amz-meta-`; `has_own_etag`: encryption
    makes the ETag other than an MD5. `given`: the headers of GIVEN that the object has."""

    size: int
    etag: str
    metadata: dict[str, str]
    has_own_etag: bool = False
    given: Mapping[str, str] = MappingProxyType({})
    crc64: str = ""  # of the whole object, if it was requested and the store knows it

    def carries(self, md5: bytes) -> bool:
        """Whether the metadata has this MD5 of the content, in the form that rclone writes."""
        return self.metadata.get("md5chksum") == encode(md5)


def has_own_etag(headers: Mapping[str, str]) -> bool:
    """Whether an answer shows that the ETag is not an MD5, although it looks like one (Amazon S3 API
    Reference, "Object": objects encrypted with SSE-C or SSE-KMS)."""
    return headers.get("x-amz-server-side-encryption", "").startswith("aws:kms") or (
        "x-amz-server-side-encryption-customer-algorithm" in headers
    )


class Bucket:
    """One bucket of one storage, or the part of it below `client.key_prefix`: arguments and results then have
    keys without the prefix, and no other key is listed or used."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.name = client.name
        self.key_prefix = client.key_prefix
        self.uses_tls = client.uses_tls
        # Whether DeleteObjects answers with the keys; None: unknown.
        self.delete_result_lists_keys: bool | None = None

    async def create(self) -> bool:
        """Creates the bucket. Returns False if it exists already and is ours."""
        if reason := why_never_created(self.name):
            raise FatalError(
                "BadBucketName",
                f"there is no bucket {self.name}, and it cannot be created: {reason}; check dest",
            )
        region = self.client.signer.region
        body = b"" if region in ("us-east-1", "auto") else xml_documents.location_document(region)
        try:
            await self.client.call(S3Request("CreateBucket", "PUT", body=body))
        except (FileError, FatalError) as error:
            if error.code == "BucketAlreadyOwnedByYou":
                return False
            if not body or error.code not in ("InvalidLocationConstraint", "InvalidRegion", "MalformedXML"):
                raise
            await self.client.call(S3Request("CreateBucket", "PUT"))
        return True

    async def exists(self) -> bool:
        return await none_if(MISSING, self.client.call(S3Request("HeadBucket", "HEAD"))) is not None

    async def delete_bucket(self) -> None:
        """Deletes the bucket; a missing one is success. Raises FileError BucketNotEmpty."""
        try:
            await self.client.call(S3Request("DeleteBucket", "DELETE"))
        except (FatalError, FileError) as error:
            if error.code not in ("NoSuchBucket", "NotFound"):
                raise

    async def list_page(
        self,
        token: str | None,
        start_after: str | None = None,
        below: str = "",
        most: int = xml_messages.PAGE_KEYS,
    ) -> xml_messages.Page:
        """Lists a page of the keys that begin with `below`. Raises FatalError NoSuchBucket."""
        query = {"list-type": "2", "encoding-type": "url", "max-keys": str(most)}
        if isinstance(token, xml_messages.StartAfter):
            query["start-after"] = token
        elif token is not None:
            query["continuation-token"] = token
        elif start_after:
            query["start-after"] = self.key_prefix + start_after
        if prefix := self.key_prefix + below:
            query["prefix"] = prefix
        return await self.read("ListObjectsV2", query, lambda body: self._page(body, below))

    def _page(self, body: bytes, below: str = "") -> xml_messages.Page:
        """Parses a page, and returns its keys below the prefix, without an object whose key is the prefix.
        `below`: the requested start of the keys."""
        page = xml_messages.parse_listing(body, self.key_prefix + below)
        if not self.key_prefix:
            return page
        cut = len(self.key_prefix)
        found = ObjectEntries.of(page.entries)
        if any(len(key) <= cut for key in found.keys):
            found = ObjectEntries.of(e for e in found if len(e.key) > cut)
        keys = tuple(key[cut:] for key in found.keys)
        return page._replace(entries=ObjectEntries(keys, found.sizes, found.etags, found.modified))

    async def list_range(
        self, low: str | None, high: str | None, first: xml_messages.Page | None = None
    ) -> AsyncIterator[xml_messages.Page]:
        """Yields the pages after the key `low`, up to the page that passes `high` or the last one. `first`:
        the first of these pages, if the caller has it already."""
        page = first or await self.list_page(None, low)
        yield page
        while page.truncated and page.token is not None:
            if high is not None and page.entries and page.entries[-1].key > high:
                return
            page = await self.list_page(page.token)
            yield page

    async def list_exact(self, key: str, most: int = 2) -> list[str]:
        """Lists the first keys that begin with this key: also the key itself, if the store has it."""
        return [entry.key for entry in await self.list_under(key, most)]

    async def lacks(self, key: str) -> bool:
        """Whether there is no object under this key, by HEAD and by a listing of this key. If HEAD is
        forbidden or keeps failing, a listing from right before the key must show it, too."""
        try:
            if await self.head(key) is not None:
                return False
            is_told = True
        except (FileError, RetryError):
            is_told = False
        if key in await self.list_exact(key):
            return False
        return is_told or await self.listed_anew([key]) is None

    async def listed_anew(self, keys: Sequence[str]) -> str | None:
        """Returns one of these keys that a new listing names, too, or does not reach within a few pages. A
        store may continue an earlier listing, outdated as it is, for a request that begins where that one
        stopped (juicefs gateway), so this one begins where none has stopped."""
        left = deque(sorted(keys))
        while left:
            first, last = left[0], ""
            for _ in range(_PAGES_ANEW):  # not by tokens: an earlier listing may have stopped there, too
                page = await self.list_page(None, _shortly_before(last or first))
                found = ObjectEntries.of(page.entries).keys
                if named := set(found).intersection(left):
                    return min(named)
                before, last = last, max(found, default="")
                if not page.truncated or last > first or last <= before:
                    break
            if page.truncated and last < first:
                return first
            left.popleft()
            is_ordered = list(found) == sorted(found)
            while left and is_ordered and (not page.truncated or left[0] < last):
                left.popleft()  # the page has passed it
        return None

    async def list_under(self, key: str, most: int = 2) -> Sequence[ObjectEntry]:
        """Lists the first objects whose keys begin with this prefix. Raises FileError if the answer cannot be
        parsed: we blame this key until others fail the same way."""
        try:
            return (await self.list_page(None, below=key, most=most)).entries
        except FatalError as error:
            if error.code not in _UNREADABLE:
                raise
            raise FileError(error.code, f"looking for this key alone: {error.message}") from error

    async def read(self, operation: str, query: dict[str, str], parse: Callable[[bytes], T]) -> T:
        """Sends a GET and parses the answer; repeats the request a few times if the answer is broken."""
        for attempt in range(1, TRIES):
            response = await self.client.call(S3Request(operation, "GET", query=query))
            try:
                parsed = parse(response.body)
                self.client.is_s3 = True
                return parsed
            except RetryError as error:
                code, message, _ = self.client.said(response)
                if code:
                    self.client.is_s3 = True
                    failure = error_codes.classify(operation, 500, code, message, response.headers)
                    if not isinstance(failure, RetryError):
                        raise failure from error
                if attempt == TRIES - 1:
                    is_s3 = self.client.is_s3 or b"Result" in response.body[:500]  # S3's, but broken
                    why = FatalError(error.code, f"{error.message}: check storage_url")
                    raise (why if is_s3 else self.client.no_storage(error.message)) from error
                await self.client.wait(error, attempt)
        raise AssertionError("unreachable")

    async def put(
        self,
        key: str,
        body: bytes,
        digest: bytes,
        headers: dict[str, str],
        may_be_blocked: Callable[[str], bool] | None = None,
        payload: str | None = None,
    ) -> str:
        """Sends PutObject and returns the ETag of the answer, "" for none. Adds Content-MD5 to the headers.
        `payload`: the value for the body in the signature, None for its SHA-256."""
        headers["content-md5"] = encode(digest)
        request = S3Request("PutObject", "PUT", key, None, headers, body, payload=payload)
        response = await self.client.call(request, may_be_blocked=may_be_blocked)
        return xml_messages.clean_etag(response.headers.get("etag"))

    async def head(self, key: str, *, checksum: bool = False) -> Head | None:
        """Sends HeadObject; returns None if there is no such object. `checksum`: requests its checksum,
        too."""
        asked = {"x-amz-checksum-mode": "ENABLED"} if checksum else None
        request = S3Request("HeadObject", "HEAD", key, headers=asked)
        if (response := await none_if(MISSING, self.client.call(request))) is None:
            return None
        told = response.headers
        meta, size = "x-amz-meta-", told.get("content-length", "")
        return Head(
            int(size) if size.isdigit() else -1,
            xml_messages.clean_etag(told.get("etag")),
            {name.removeprefix(meta): value for name, value in told.items() if name.startswith(meta)},
            has_own_etag(told),
            {name: told[name] for name in GIVEN if name in told},
            told.get("x-amz-checksum-crc64nvme", ""),
        )

    async def copy(
        self, key: str, etag: str, headers: dict[str, str], query: dict[str, str] | None = None
    ) -> str:
        """Copies an object onto itself (CopyObject; with a query, UploadPartCopy) if it still has this ETag,
        with these headers instead of its own. Returns the ETag of the answer, "" for none."""
        operation = "UploadPartCopy" if query else "CopyObject"
        asked = {
            "x-amz-copy-source": encode_path(f"/{self.name}/{self.key_prefix}{key}"),
            "x-amz-copy-source-if-match": f'"{etag}"',
            **headers,
        }
        response = await self.call_whole(S3Request(operation, "PUT", key, query, asked))
        try:
            return xml_messages.parse_copied(response.body, operation)
        except RetryError:
            return ""  # the caller then sends HEAD

    async def call_whole(self, request: S3Request) -> Response:
        """Sends a request whose answer may be 200 with an error in the body, because the store begins to
        answer before it knows the result. Retries a few times."""
        for attempt in range(1, TRIES):
            response = await self.client.call(request)
            code, message, _ = self.client.said(response)
            if not code:
                return response
            failure = error_codes.classify(request.operation, 500, code, message, response.headers)
            if not isinstance(failure, RetryError) or attempt == TRIES - 1:
                raise failure
            await self.client.wait(failure, attempt)
        raise AssertionError("unreachable")

    async def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Reads exactly `size` bytes of an object from `offset`. Raises FileError."""
        if size == 0:
            return b""
        headers = {"range": f"bytes={offset}-{offset + size - 1}"}
        request = S3Request("GetObject", "GET", key, headers=headers, max_body=size + 65536)
        response = await self.client.call(request)
        body = response.body
        if response.status == 200 and "content-range" not in response.headers:  # the store ignores ranges
            body = body[offset : offset + size]
        if len(body) != size:
            raise FileError(
                "ReadBackFailed", "the storage returned a different number of bytes than requested"
            )
        return body

    async def delete(self, key: str, version_id: str | None = None) -> None:
        query = {"versionId": version_id} if version_id is not None else None
        await none_if(MISSING, self.client.call(S3Request("DeleteObject", "DELETE", key, query)))

    async def retained(self, key: str, version_id: str | None = None) -> str:
        """Returns why the store still retains this version, or the current one (`until …`, `by a legal
        hold`); "" if it does not, or does not report it. Source: Amazon S3 API Reference, HeadObject."""
        query = {"versionId": version_id} if version_id is not None else None
        try:
            response = await self.client.call(S3Request("HeadObject", "HEAD", key, query))
        except (FileError, RetryError):
            return ""
        if response.headers.get("x-amz-object-lock-legal-hold", "").upper() == "ON":
            return "by a legal hold"
        until = response.headers.get("x-amz-object-lock-retain-until-date", "")
        return f"until {self.client.without_keys(until)[:40]}" if until else ""

    async def has_versions(self) -> bool:
        """Whether versioning is or was on; also True if the credentials may not request this."""
        request = S3Request("GetBucketVersioning", "GET", query={"versioning": ""})
        try:
            response = await self.client.call(request)
        except FileError as error:
            return error.code == "AccessDenied"
        return b"Enabled" in response.body or b"Suspended" in response.body

    async def list_versions(
        self, marker: dict[str, str]
    ) -> tuple[list[xml_messages.Version], dict[str, str] | None] | None:
        """Lists up to 1,000 versions and delete markers after a marker ({}: from the first). Returns them and
        the next marker, or None if the store does not support versioning."""
        query = {"versions": "", "encoding-type": "url", "max-keys": str(xml_messages.PAGE_KEYS)} | marker
        return await none_if(
            _NO_VERSIONS, self.read("ListObjectVersions", query, xml_messages.parse_versions)
        )

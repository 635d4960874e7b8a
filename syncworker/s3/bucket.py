"""The operations of S3 on one bucket, each answered or failed within bounded time.

`Bucket.call` signs, sends, classifies (error_codes.py) and tries again what may pass: exponential waits with
full jitter, while fewer requests are in flight as long as the store asks to slow down (throttle.py). Each
operation raises RetryError when it has given up trying, FileError when the store refuses this key, FatalError
when nothing will work. Redirects are not followed; a region named by the store is taken over once.

Content-MD5 goes with PutObject, UploadPart and DeleteObjects: the one integrity header that nearly every
store checks. No trailing checksums, ever: several stores keep their framing inside the object.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import random
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from syncworker.errors import FatalError, FileError, RetryError, Stopped, SyncError
from syncworker.model import ObjectEntry
from syncworker.s3 import error_codes, xml_messages
from syncworker.s3.body import Body
from syncworker.s3.connection import Response
from syncworker.s3.credentials import KeySource
from syncworker.s3.endpoint import Endpoint, why_never_created
from syncworker.s3.outage import Outage
from syncworker.s3.pool import ConnectionPool
from syncworker.s3.signing import EMPTY_SHA256, UNSIGNED, Keys, Signer, encode_path, encode_query
from syncworker.s3.throttle import Gate
from syncworker.system.bandwidth import Turn
from syncworker.system.control import is_settling, settling
from syncworker.system.gather import side_by_side
from syncworker.system.pause import Pause

T = TypeVar("T")
Deletion = tuple[str, str | None]  # key, version id

DELETE_BATCH = 1000  # Amazon S3 API Reference, DeleteObjects
_REGION = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what a store names goes into a header
_TRIES = 6
_TRIES_THROTTLED = 60
_TRIES_SILENT = 3  # each of them has waited long already
_FAILURES_IN_A_ROW = 40  # lost connections, on whichever requests: more than are in flight at a time
_UNREACHABLE = frozenset({"ConnectFailed", "ProxyUnreachable", "ConnectTimeout", "DnsError"})
SENDS = frozenset({"PutObject", "CreateMultipartUpload", "UploadPart"})
_BODIES = frozenset({"PutObject", "UploadPart", "GetObject"})
WRITES = SENDS | {"CreateBucket", "CompleteMultipartUpload", "CopyObject", "UploadPartCopy"}
_SLOW = frozenset(
    {"CompleteMultipartUpload", "CopyObject", "UploadPartCopy"}
)  # silent while the store copies
_CUT = frozenset({"ConnectionLost", "Timeout", "TlsError", "BadAnswer"})
# Failures that are answers all the same: the storage is there.
_ANSWERS = frozenset(
    {
        "WrongRegion",
        "WrongAddressing",
        "BadDigest",
        "InvalidDigest",
        "IncompleteBody",
        "XAmzContentSHA256Mismatch",
    }
    | {"OperationAborted", "RequestTimeout", "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
)
_FIRST_ANSWER_SECONDS = 50.0
_NOTICED_SECONDS = 2.0  # without any success: the storage may be away
_NOT_REPEATED = frozenset({"CreateMultipartUpload", "DeleteObjects"})  # by itself, when its answer is lost
_LISTINGS = frozenset({"ListObjectsV2", "ListObjectVersions", "ListMultipartUploads", "ListParts"})
_LONG = _SLOW | {"DeleteObjects"}  # blanks may come while they are at work
_WAIT_SECONDS = 0.2
_WAIT_MAX_SECONDS = 8.0
_INTERNAL = frozenset({"InternalError", "Http500"})
_UNREADABLE = frozenset({"BadAnswer", "BrokenListing"})
GIVEN = (  # what HEAD tells of what an object was given
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-storage-class",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
)
_MISSING = frozenset({"NoSuchKey", "NotFound", "NoSuchVersion"})


def _size(body: bytes | Body) -> int:
    return len(body) if isinstance(body, bytes) else body.size


def _tries(error: RetryError) -> int:
    if error.throttled:
        return _TRIES_THROTTLED
    return _TRIES_SILENT if error.code in ("Timeout", "ConnectTimeout") else _TRIES


class Head(NamedTuple):
    """An object as HEAD tells it. `metadata` has lower-case names without `x-amz-meta-`;
    `has_own_etag`: it is encrypted so that its ETag is no MD5. `given`: those of GIVEN that it has."""

    size: int
    etag: str
    metadata: dict[str, str]
    has_own_etag: bool = False
    given: Mapping[str, str] = MappingProxyType({})


class Stored(NamedTuple):
    """What an UploadPart was answered: see Head."""

    etag: str
    has_own_etag: bool


def _has_own_etag(headers: Mapping[str, str]) -> bool:
    """Whether an answer says that the ETag is no MD5 though it looks like one (Amazon S3 API Reference,
    "Object": objects encrypted with SSE-C or SSE-KMS)."""
    return headers.get("x-amz-server-side-encryption", "").startswith("aws:kms") or (
        "x-amz-server-side-encryption-customer-algorithm" in headers
    )


class InFlight(NamedTuple):
    """A request that a stop waits for: what writes, and what finds out what a write has done."""

    operation: str
    key: str | None
    since: float  # by the monotonic clock


class Bucket:
    """One bucket of one storage, or what lies below `key_prefix` in it: keys are then given and answered
    without it, and nothing else is listed or named. `stopping` says that no request may begin, and none be
    tried again."""

    def __init__(
        self,
        pool: ConnectionPool,
        name: str,
        region: str,
        keys: KeySource,
        *,
        key_prefix: str = "",
        most_requests: int = 160,
        stopping: Callable[[], bool] = lambda: False,
        patience_seconds: float = 0.0,
        is_full: Callable[[], FatalError | None] = lambda: None,
        pause: Pause | None = None,
    ) -> None:
        self.pool = pool
        self.advice = "check storage_url"  # what to do when it never answers
        self.name = name
        self.key_prefix = key_prefix
        self.signer = Signer(region)
        self.keys = keys
        self._used: Keys | None = None  # those of the last request
        self.gate = Gate(most_requests)
        self.stopping = stopping
        self.pause = pause or Pause()
        self.outage = Outage(patience_seconds, self._ask, self._is_stopping, self.pause)
        self._first_answer_by: float | None = None  # by the loop's clock
        self.is_full = is_full  # asked before each try that sends: why it would be of no use
        self.requests: dict[tuple[str, int], int] = {}  # (operation, HTTP status) -> how many
        self.retries = 0
        self.in_flight: dict[object, InFlight] = {}  # oldest first
        self._failures = 0  # requests given up in a row
        self._is_s3 = False  # an answer was S3's
        self.is_sealed = pool.tls is not None  # no bit can turn on the way unseen
        self.names_deleted: bool | None = None  # whether DeleteObjects answers with the keys; None: unknown
        # How long they may be silent; others as long as the pool allows.
        self._silences = dict.fromkeys(_LISTINGS, pool.limits.listing_seconds)
        self._silences |= dict.fromkeys(_SLOW, pool.limits.completing_seconds)
        self._aim(pool.endpoint)

    def _aim(self, place: Endpoint) -> None:
        """Where requests go from now on."""
        pool = self.pool
        self._place = place
        host, self._prefix = place.bucket_address(self.name)
        self._host, self._host_header = host, place.host_header(host)
        self._target = "" if pool.proxy is None or pool.tls is not None else f"http://{self._host_header}"
        self._proxy_line = (
            f"proxy-authorization: {pool.proxy.authorization}\r\n"
            if self._target and pool.proxy and pool.proxy.authorization
            else ""
        )

    def waits_to_send(self, seconds: float) -> bool:
        """Whether a request that brings something has been under way for so long."""
        since = time.monotonic() - seconds
        return any(r.since < since and r.operation in WRITES for r in self.in_flight.values())

    # -- one request
    async def call(
        self,
        operation: str,
        method: str,
        key: str | None = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | Body = b"",
        *,
        max_body: int = 8 << 20,
        is_hopeless: Callable[[str], bool] | None = None,
        on_retry: Callable[[], None] | None = None,
    ) -> Response:
        """The answer with a 2xx status; everything else is raised, after the tries it is worth. Stopped: it
        was not begun, or not once more."""
        tries = 0
        renewed = False
        while True:
            tries = 1 if self.outage.is_asked_about and await self.outage.pass_by() else tries + 1
            if operation in SENDS and (full := self.is_full()) is not None:
                raise full
            turn: Turn | None = None
            is_held = self.pause.on or self.pool.bandwidth.on or self.stopping()
            if is_held or not self.gate.enters_at_once():
                turn = await self._enter(operation, max_body if operation == "GetObject" else _size(body))
            error: SyncError | None = None
            began_at = time.time()
            try:
                keys = self._used = await self.keys.keys()
                once = self._once(keys, operation, method, key, query, headers, body, max_body, turn)
                return await (once if self.pool.answered else self._in_time(once))
            except SyncError as failure:
                error = failure
            finally:
                self.gate.leave(error)
                if turn is not None:
                    turn.leave()
                if error is None:
                    self._failures = 0
                    self.outage.answered()
                else:
                    self._failed(error, began_at)
            if not isinstance(error, RetryError):
                raise error
            if operation == "DeleteObjects" and error.code in _CUT and not self.is_sealed:
                raise error  # `delete_many` looks what it has done
            if error.code in ("ExpiredToken", "ExpiredTokenException") and not renewed:
                renewed = True
                if await self.keys.renew(keys):
                    continue
            if error.code in ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"):
                raise FatalError(
                    error.code,
                    "the credentials have expired: renew them and resume the job"
                    f" (the keys are {self.keys.origin})",
                )
            if is_hopeless and key and tries > 1 and error.code in _INTERNAL and is_hopeless(key):
                raise error  # a store that is a file system fails so on a key below another object
            tries = await self._wait(error, tries)
            if on_retry is not None:
                on_retry()

    async def _enter(self, operation: str, size: int) -> Turn | None:
        """Waits while the job is paused, then for a place among the requests; where there is a limit of
        bandwidth, for the turn of the body before. Stopped: none may begin."""
        bandwidth = self.pool.bandwidth
        turn: Turn | None = None
        while True:
            if self.pause.on:
                await self.pause.wait()
            if self.stopping():
                raise Stopped("told to stop")
            if bandwidth.on and operation in _BODIES:
                turn = await bandwidth.enter(size, self.stopping)
            try:
                await self.gate.enter(self.stopping)
            except BaseException:
                if turn is not None:
                    turn.leave()
                raise
            if not (self.pause.on or self.stopping()) or is_settling():
                return turn
            self.gate.give_back()  # paused, or stopped, while it waited there
            if turn is not None:
                turn.leave()

    def go_on(self) -> None:
        """After a pause: times that ran on meanwhile begin anew."""
        self._first_answer_by = None
        self.outage.forgive()

    def _is_stopping(self) -> bool:
        return self.stopping()  # which is changed later on

    def _failed(self, error: SyncError, began_at: float) -> None:
        """What a request that failed tells of the storage."""
        if isinstance(error, RetryError) and error.code not in _ANSWERS:
            self.outage.failed(error, began_at)
        elif not isinstance(error, Stopped):
            self.outage.answered()

    async def _ask(self) -> RetryError | None:
        """A HEAD of the bucket; None when it was answered, whatever that is."""
        try:
            await self._once(await self.keys.keys(), "HeadBucket", "HEAD", None, None, None, b"", 0)
        except RetryError as error:
            return None if error.code in _ANSWERS else error
        except SyncError:
            pass
        return None

    async def _in_time(self, once: Coroutine[Any, Any, Response]) -> Response:
        """An exchange with a storage that has not answered yet: its address may be wrong, and nobody waits as
        long as for one that is known. Where the request itself takes long, a HEAD beside it is answered."""
        loop = asyncio.get_running_loop()
        if self._first_answer_by is None:
            self._first_answer_by = loop.time() + _FIRST_ANSWER_SECONDS

        async def look() -> None:
            while not self.pool.answered:
                await asyncio.sleep(_FIRST_ANSWER_SECONDS / 4)
                await self.pause.wait()
                await self._ask()
            limit.reschedule(None)

        try:
            async with asyncio.timeout_at(self._first_answer_by) as limit:
                beside = asyncio.create_task(look())
                try:
                    return await once
                finally:
                    beside.cancel()
        except TimeoutError as error:
            raise FatalError(
                "Timeout",
                f"the storage does not answer: it was silent for {_FIRST_ANSWER_SECONDS:g} s: {self.advice}",
            ) from error

    async def _wait(self, error: RetryError, tries: int) -> int:
        """Sleeps before the next try, or raises when there is none left; how many have been made."""
        if error.code in ("WrongRegion", "WrongAddressing"):  # nothing passes by waiting: at once, as it asks
            if tries >= 3:
                raise FatalError(error.code, error.message)
            return tries
        if self.stopping():
            raise self._exhausted(error)
        is_spent = tries >= _tries(error)
        if is_spent or (not error.throttled and self.outage.has_lasted(_NOTICED_SECONDS)):
            if await self.outage.is_over():
                self.retries += 1
                return 0
            if is_spent or self.stopping():
                raise self._exhausted(error)
        self.retries += 1
        pause = random.random() * min(_WAIT_MAX_SECONDS, _WAIT_SECONDS * 2**tries)  # noqa: S311
        while pause > 0 and not self.stopping():
            await asyncio.sleep(min(pause, 0.2))
            pause -= 0.2
        return tries

    def _exhausted(self, error: RetryError) -> SyncError:
        """No try is left: is it this request, or the storage?"""
        self._failures += 1
        if self.stopping():
            return error
        if not self.pool.answered:
            if error.code == "BadAnswer":
                return self._no_storage(error.message)
            if error.code == "ProxyUnreachable":
                return FatalError(error.code, f"{error.message}: start the proxy, or correct that variable")
            return FatalError(error.code, f"the storage does not answer: {error.message}: {self.advice}")
        if error.code in _UNREACHABLE or (error.code in _CUT and self._failures >= _FAILURES_IN_A_ROW):
            return FatalError(
                error.code, f"the storage answers no more: {error.message}: resume when it does"
            )
        return error

    def _no_storage(self, why: str) -> FatalError:
        return FatalError(
            "NoStorage", f"No S3 storage answers at {self.pool.endpoint.url}: {why}: {self.advice}"
        )

    async def _once(
        self,
        keys: Keys,
        operation: str,
        method: str,
        key: str | None,
        query: dict[str, str] | None,
        headers: dict[str, str] | None,
        body: bytes | Body,
        max_body: int,
        turn: Turn | None = None,
    ) -> Response:
        if key is None:
            path = self._prefix or "/"
        else:
            key = f"{self.key_prefix}{key}"
            path = encode_path(f"{self._prefix}/{key}")
        query_text = encode_query(query) if query else ""
        size = _size(body)
        signed = {"host": self._host_header, **headers} if headers else {"host": self._host_header}
        if isinstance(body, bytes):
            payload = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        else:
            payload = UNSIGNED
        signer = self.signer
        lines = signer.sign(keys, method, path, query_text, signed, payload)
        target = f"{path}?{query_text}" if query_text else path
        length = f"content-length: {size}\r\n" if size or method in ("PUT", "POST") else ""
        head = f"{method} {self._target}{target} HTTP/1.1\r\n{lines}{self._proxy_line}{length}\r\n"
        settles, flight = is_settling(), object()
        if settles or method not in ("GET", "HEAD"):
            made: InFlight = tuple.__new__(InFlight, (operation, key, time.monotonic()))
            self.in_flight[flight] = made
        try:
            response = await self.pool.exchange(
                self._host,
                method,
                head.encode("latin-1"),
                body,
                max_body=max_body,
                may_repeat=operation not in _NOT_REPEATED,
                settles=settles,
                idle_seconds=self._silences.get(operation),
                blanks=operation in _LONG,
                turn=turn,
                paces_answer=operation == "GetObject",
            )
        finally:
            self.in_flight.pop(flight, None)
        counter = (operation, response.status)
        self.requests[counter] = self.requests.get(counter, 0) + 1
        if 200 <= response.status < 300:
            return response
        raise self._error(operation, response, signer.region)

    def _said(self, response: Response) -> tuple[str, str, dict[str, str]]:
        """The error in an answer."""
        code, message, fields = xml_messages.parse_error(response.body)
        return self._without_keys(code), self._without_keys(message), fields

    def _without_keys(self, text: str) -> str:
        """What a store says goes into statuses and reports; some say the access key back."""
        for key in self._used or ():
            if key and len(key) >= 6:  # a shorter one would only garble what is said
                for spelling in (key, quote(key, safe="")):
                    text = text.replace(spelling, "...")
        return text

    def _error(self, operation: str, response: Response, signed_for: str) -> SyncError:
        code, message, fields = self._said(response)
        self._is_s3 = self._is_s3 or bool(code)
        is_passing = response.status < 400 or response.status in (408, 429) or response.status >= 500
        if operation in _LISTINGS and not (self._is_s3 or is_passing):
            return self._no_storage(f"{operation} is answered with {response.status} and nothing of S3's")
        region = fields.get("Region") or response.headers.get("x-amz-bucket-region")
        # Others in flight may have been told, too: what counts is the region that this one was signed for.
        is_new = bool(region and _REGION.fullmatch(region) and region != signed_for)
        if region and is_new and response.status in (301, 307, 400, 403):
            # Sign for the region the bucket is in. The host stays: it was checked, another was not.
            self.signer = Signer(region)
            return RetryError("WrongRegion", f"the bucket is in region {region}: set AWS_REGION")
        turned = self._place._replace(virtual=True)
        if (
            code in error_codes.WANTS_VIRTUAL
            and turned.may_turn
            and turned.bucket_address(self.name)[0] != turned.host
        ):
            self._aim(turned)  # once more where it has turned: others in flight are told so as well
            return RetryError("WrongAddressing", f"the storage wants the bucket in the host ({code})")
        error = error_codes.classify(operation, response.status, code, message[:300], response.headers)
        if error.code in error_codes.ABOUT_KEYS and not isinstance(error, RetryError):
            return type(error)(error.code, f"{error.message} (the keys are {self.keys.origin})")
        return error

    # -- the bucket
    async def create(self) -> bool:
        """Makes the bucket. False: it is there already, and our own."""
        if reason := why_never_created(self.name):
            raise FatalError(
                "BadBucketName",
                f"there is no bucket {self.name}, and none of that name is made: {reason}; check dest",
            )
        region = self.signer.region
        body = b"" if region in ("us-east-1", "auto") else xml_messages.location_document(region)
        try:
            await self.call("CreateBucket", "PUT", body=body)
        except (FileError, FatalError) as error:
            if error.code == "BucketAlreadyOwnedByYou":
                return False
            if body and error.code in ("InvalidLocationConstraint", "InvalidRegion", "MalformedXML"):
                await self.call("CreateBucket", "PUT")
                return True
            raise
        return True

    async def exists(self) -> bool:
        try:
            await self.call("HeadBucket", "HEAD")
        except FileError as error:
            if error.code == "NotFound":
                return False
            raise
        return True

    async def delete_bucket(self) -> None:
        """FileError BucketNotEmpty when something is in it; a missing bucket is success."""
        try:
            await self.call("DeleteBucket", "DELETE")
        except (FatalError, FileError) as error:
            if error.code not in ("NoSuchBucket", "NotFound"):
                raise

    async def list_page(
        self, token: str | None, start_after: str | None = None, below: str = ""
    ) -> xml_messages.Page:
        """Of the keys that begin with `below`. FatalError NoSuchBucket when the bucket is missing."""
        query = {"list-type": "2", "encoding-type": "url", "max-keys": str(xml_messages.PAGE_KEYS)}
        if isinstance(token, xml_messages.StartAfter):
            query["start-after"] = token
        elif token is not None:
            query["continuation-token"] = token
        elif start_after:
            query["start-after"] = self.key_prefix + start_after
        if prefix := self.key_prefix + below:
            query["prefix"] = prefix
        return await self._read("ListObjectsV2", query, lambda body: self._page(body, below))

    def _page(self, body: bytes, below: str = "") -> xml_messages.Page:
        """A page with keys as they are below the prefix; an object that is the prefix itself is left out.
        `below`: what these keys were asked to begin with."""
        page = xml_messages.parse_listing(body, self.key_prefix + below)
        if not self.key_prefix:
            return page
        cut = len(self.key_prefix)
        return page._replace(entries=[e._replace(key=e.key[cut:]) for e in page.entries if len(e.key) > cut])

    async def list_range(
        self, low: str | None, high: str | None, most: int, first: xml_messages.Page | None = None
    ) -> list[xml_messages.Page]:
        """The pages behind the key `low`: up to the one that passes `high`, the last one, or `most`. `first`
        is the first of them, where it is known already."""
        pages = [first or await self.list_page(None, low)]
        while pages[-1].truncated and pages[-1].token is not None and len(pages) < most:
            if high is not None and pages[-1].entries and pages[-1].entries[-1].key > high:
                break
            pages.append(await self.list_page(pages[-1].token))
        return pages

    async def list_exact(self, key: str, most: int = 2) -> list[str]:
        """The first keys listed under a key's own name: the key itself, if the store kept it."""
        return [entry.key for entry in await self.list_under(key, most)]

    async def list_under(self, key: str, most: int = 2) -> list[ObjectEntry]:
        """The first objects whose keys begin so. FileError when the answer cannot be read: that is this key's
        fault, until others fail so as well."""
        query = {"list-type": "2", "encoding-type": "url", "max-keys": str(most)}
        query["prefix"] = self.key_prefix + key
        try:
            page = await self._read("ListObjectsV2", query, lambda body: self._page(body, key))
        except FatalError as error:
            if error.code not in _UNREADABLE:
                raise
            raise FileError(error.code, f"looking for this key alone: {error.message}") from error
        return page.entries

    async def _read(self, operation: str, query: dict[str, str], parse: Callable[[bytes], T]) -> T:
        """A GET whose answer is parsed; one that is broken is asked for again, a few times."""
        for attempt in range(1, _TRIES):
            response = await self.call(operation, "GET", query=query)
            try:
                parsed = parse(response.body)
                self._is_s3 = True
                return parsed
            except RetryError as error:
                code, message, _ = self._said(response)
                if code:
                    self._is_s3 = True
                    failure = error_codes.classify(operation, 500, code, message, response.headers)
                    if not isinstance(failure, RetryError):
                        raise failure from error
                if attempt == _TRIES - 1:
                    if not self._is_s3 and b"Result" not in response.body[:500]:  # else S3's, but broken
                        raise self._no_storage(error.message) from error
                    raise FatalError(error.code, f"{error.message}: check storage_url") from error
                await self._wait(error, attempt)
        raise AssertionError("unreachable")

    # -- objects
    async def put(
        self,
        key: str,
        body: bytes,
        digest: bytes,
        headers: dict[str, str],
        is_hopeless: Callable[[str], bool] | None = None,
    ) -> str:
        """PutObject with Content-MD5, which is added to the headers. The ETag that the store answers with,
        "" for none."""
        headers["content-md5"] = binascii.b2a_base64(digest, newline=False).decode()
        response = await self.call(
            "PutObject", "PUT", key, headers=headers, body=body, is_hopeless=is_hopeless
        )
        return xml_messages.clean_etag(response.headers.get("etag"))

    async def head(self, key: str) -> Head | None:
        """None when there is no such object."""
        try:
            response = await self.call("HeadObject", "HEAD", key)
        except FileError as error:
            if error.code in _MISSING:
                return None
            raise
        metadata = {
            name.removeprefix("x-amz-meta-"): value
            for name, value in response.headers.items()
            if name.startswith("x-amz-meta-")
        }
        size = response.headers.get("content-length", "")
        return Head(
            int(size) if size.isdigit() else -1,
            xml_messages.clean_etag(response.headers.get("etag")),
            metadata,
            _has_own_etag(response.headers),
            {name: response.headers[name] for name in GIVEN if name in response.headers},
        )

    async def copy(
        self, key: str, etag: str, headers: dict[str, str], query: dict[str, str] | None = None
    ) -> str:
        """CopyObject of an object onto itself, if it still has this ETag, with these headers in the place of
        its own; with a query, UploadPartCopy. The ETag that the store answers with, "" for none."""
        operation = "UploadPartCopy" if query else "CopyObject"
        asked = {
            "x-amz-copy-source": encode_path(f"/{self.name}/{self.key_prefix}{key}"),
            "x-amz-copy-source-if-match": f'"{etag}"',
            **headers,
        }
        for attempt in range(1, _TRIES):
            response = await self.call(operation, "PUT", key, query, asked)
            code, message, _ = self._said(response)
            if not code:
                try:
                    return xml_messages.parse_copied(response.body, operation)
                except RetryError:
                    return ""  # HEAD tells
            failure = error_codes.classify(
                operation, 500, code, message, response.headers
            )  # 200, and an error inside
            if not isinstance(failure, RetryError) or attempt == _TRIES - 1:
                raise failure
            await self._wait(failure, attempt)
        raise AssertionError("unreachable")

    async def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes of an object from `offset`, or FileError."""
        if size == 0:
            return b""
        headers = {"range": f"bytes={offset}-{offset + size - 1}"}
        response = await self.call("GetObject", "GET", key, headers=headers, max_body=size + 65536)
        body = response.body
        if response.status == 200 and "content-range" not in response.headers:  # the store ignores ranges
            body = body[offset : offset + size]
        if len(body) != size:
            raise FileError(
                "ReadBackFailed", "the storage gave back another number of bytes than it was sent"
            )
        return body

    async def delete(self, key: str, version_id: str | None = None) -> None:
        query = {"versionId": version_id} if version_id is not None else None
        try:
            await self.call("DeleteObject", "DELETE", key, query)
        except FileError as error:
            if error.code not in _MISSING:
                raise

    async def delete_many(self, objects: Sequence[Deletion]) -> list[tuple[Deletion, SyncError]]:
        """One DeleteObjects for up to 1,000; returns those that are not gone, with their errors: a RetryError
        where a request of its own may work.

        Few stores check the body of this request, so over plain http a bit that turns there may delete
        another object. There, an answer that does not name every key proves nothing, nor does a lost one, and
        the request is not repeated, which would hide what the first has done. What is there still tells: of
        two objects or more, whose keys it got right are gone. So there are two at least, without versions.
        """
        try:
            response, result = await self._delete_objects(objects)
        except RetryError as error:
            if self.is_sealed or error.code not in _CUT or self.stopping():
                raise
            with settling():
                return await self._judge(objects, set(), set())
        failures = self._refused(objects, response, result)
        keys = {key for key, _ in objects}
        self.names_deleted = keys <= result.named
        others = result.named - keys
        if others or not (self.is_sealed or self.names_deleted):
            with settling():
                failures += await self._judge(objects, result.named & keys, others)
        return failures

    async def delete_listed(self, objects: Sequence[Deletion]) -> dict[Deletion, SyncError]:
        """One DeleteObjects for up to 1,000 of a bucket in which everything is to go: which of them the store
        refuses. Whether the others are gone is for the next listing to show, not for this answer."""
        response, result = await self._delete_objects(objects)
        return dict(self._refused(objects, response, result))

    async def _delete_objects(
        self, objects: Sequence[Deletion]
    ) -> tuple[Response, xml_messages.DeleteResult]:
        body = xml_messages.delete_document([(self.key_prefix + key, version) for key, version in objects])
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {"content-md5": digest, "content-type": "application/xml"}
        response = await self.call("DeleteObjects", "POST", query={"delete": ""}, headers=headers, body=body)
        return response, self._below(xml_messages.parse_delete_result(response.body))

    def _refused(
        self, objects: Sequence[Deletion], response: Response, result: xml_messages.DeleteResult
    ) -> list[tuple[Deletion, SyncError]]:
        failures: list[tuple[Deletion, SyncError]] = []
        asked = {(key, version or ""): (key, version) for key, version in objects}
        for key, version, code, said in result.errors:
            if code not in _MISSING:
                message = self._without_keys(said)
                failure = error_codes.classify("DeleteObjects", 400, code, message, response.headers)
                failures.append((asked.get((key, version)) or asked.get((key, "")) or (key, None), failure))
        return failures

    async def retained(self, key: str, version_id: str | None = None) -> str:
        """Why the store deletes this version, or the current one, no sooner (`until …`, `by a legal hold`);
        "" when it does not retain it, or does not say. Source: Amazon S3 API Reference, HeadObject."""
        try:
            query = {"versionId": version_id} if version_id is not None else None
            response = await self.call("HeadObject", "HEAD", key, query)
        except (FileError, RetryError):
            return ""
        if response.headers.get("x-amz-object-lock-legal-hold", "").upper() == "ON":
            return "by a legal hold"
        until = response.headers.get("x-amz-object-lock-retain-until-date", "")
        return f"until {self._without_keys(until)[:40]}" if until else ""

    def _below(self, result: xml_messages.DeleteResult) -> xml_messages.DeleteResult:
        """With keys as they are below the prefix; others, which nobody asked for, get a NUL before them."""

        def below(key: str) -> str:
            return key.removeprefix(self.key_prefix) if key.startswith(self.key_prefix) else f"\0{key}"

        if not self.key_prefix:
            return result
        errors = [(below(key), *rest) for key, *rest in result.errors]
        return xml_messages.DeleteResult(errors, set(map(below, result.named)))  # type: ignore[arg-type]

    async def _judge(
        self, objects: Sequence[Deletion], named: set[str], others: set[str]
    ) -> list[tuple[Deletion, SyncError]]:
        """What a deletion has done whose answer does not prove it, told by what is there still."""
        unnamed = [item for item in objects if item[0] not in named]
        there: set[Deletion] = set()
        unsure: list[FileError] = []

        async def look(item: Deletion) -> None:
            try:
                if await self.head(item[0]) is None:
                    return
            except FileError as error:  # HEAD is not allowed: nothing can be proved
                unsure.append(error)
            there.add(item)

        await side_by_side(look, unnamed)
        still = [item for item in unnamed if item in there]
        if not still:  # with another spelling of the keys, perhaps
            return []
        if len(still) == len(objects) > 1 and not others and not unsure:
            return [(item, RetryError("NotDeleted", "the storage has deleted nothing")) for item in still]
        instead = f"{', '.join(sorted(others)[:3])!r}, perhaps" if others else "perhaps"
        error = FileError(
            "DeletedOther",
            f"the storage has deleted another object instead, {instead}: the request may have been changed on"
            " its way; use https, and resume the job to send again what is missing",
        )
        return [(item, error) for item in still]

    # -- multipart uploads
    async def create_upload(self, key: str, headers: dict[str, str]) -> str:
        """The id of a new upload. One that the store began although its answer was lost is ended."""
        lost: list[None] = []
        response = await self.call(
            "CreateMultipartUpload",
            "POST",
            key,
            {"uploads": ""},
            headers,
            on_retry=lambda: lost.append(None),
        )
        upload_id = xml_messages.parse_upload_id(response.body)
        with settling():
            for upload in await self.list_uploads(key) if lost else ():
                if upload.key == key and upload.upload_id != upload_id:
                    await self.abort_upload(key, upload.upload_id)
        return upload_id

    async def upload_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        body: Body,
        digest: bytes,
    ) -> Stored:
        response = await self.call(
            "UploadPart",
            "PUT",
            key,
            {"partNumber": str(number), "uploadId": upload_id},
            {"content-md5": base64.b64encode(digest).decode()},
            body,
        )
        etag = xml_messages.clean_etag(response.headers.get("etag"))
        return Stored(etag, _has_own_etag(response.headers))

    async def list_parts(self, key: str, upload_id: str) -> list[xml_messages.Part] | None:
        """All parts that the store has of an upload; None when it does not know the upload, or says nothing
        that can be read: then there is nothing to go on with."""
        parts: list[xml_messages.Part] = []
        marker: str | None = None
        while True:
            query = {"uploadId": upload_id}
            if marker is not None:
                query["part-number-marker"] = marker
            try:
                response = await self.call("ListParts", "GET", key, query)
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

    async def complete_upload(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> str:
        """The ETag of the new object, "" when the store does not say."""
        for attempt in range(1, _TRIES):
            response = await self.call(
                "CompleteMultipartUpload",
                "POST",
                key,
                {"uploadId": upload_id},
                {"content-type": "application/xml"},
                xml_messages.complete_document(parts),
            )
            code, message, _ = self._said(response)
            if not code:
                return xml_messages.parse_completed(response.body)
            # 200 and an error inside: the store had begun to answer before it knew.
            failure = error_codes.classify("CompleteMultipartUpload", 500, code, message, response.headers)
            if not isinstance(failure, RetryError) or attempt == _TRIES - 1:
                raise failure
            await self._wait(failure, attempt)
        raise AssertionError("unreachable")

    async def abort_upload(self, key: str, upload_id: str) -> None:
        try:
            await self.call("AbortMultipartUpload", "DELETE", key, {"uploadId": upload_id})
        except FileError as error:
            if error.code not in ("NoSuchUpload", "NoSuchKey", "NotFound"):
                raise

    async def list_uploads(self, prefix: str | None = None) -> list[xml_messages.Upload]:
        """Unfinished multipart uploads, all pages; none where the store does not know the operation."""
        base = {"uploads": "", "encoding-type": "url"}
        if prefix is not None or self.key_prefix:
            base["prefix"] = self.key_prefix + (prefix or "")
        try:
            uploads = await self._all_pages("ListMultipartUploads", base, xml_messages.parse_uploads)
            return [
                upload._replace(key=upload.key.removeprefix(self.key_prefix))
                for upload in uploads
                if upload.key.startswith(self.key_prefix)
            ]
        except FileError as error:
            if error.code in ("NotImplemented", "NoSuchUpload", "NoSuchKey", "MethodNotAllowed", "NotFound"):
                return []
            raise

    async def has_versions(self) -> bool:
        """Whether versioning is or was on; True as well where the keys may not ask."""
        try:
            response = await self.call("GetBucketVersioning", "GET", query={"versioning": ""})
        except FileError as error:
            return error.code == "AccessDenied"
        return b"Enabled" in response.body or b"Suspended" in response.body

    async def list_versions(
        self, marker: dict[str, str]
    ) -> tuple[list[xml_messages.Version], dict[str, str] | None] | None:
        """Up to 1,000 versions and delete markers behind a marker ({}: from the first), and the marker of the
        next; None where there is no versioning."""
        query = {"versions": "", "encoding-type": "url", "max-keys": str(xml_messages.PAGE_KEYS)} | marker
        try:
            return await self._read("ListObjectVersions", query, xml_messages.parse_versions)
        except FileError as error:
            if error.code in ("NotImplemented", "MethodNotAllowed", "InvalidRequest", "InvalidArgument"):
                return None
            raise

    async def _all_pages(
        self,
        operation: str,
        base: dict[str, str],
        parse: Callable[[bytes], tuple[list[T], dict[str, str] | None]],
    ) -> list[T]:
        found: list[T] = []
        marker: dict[str, str] = {}
        while True:
            page, following = await self._read(operation, base | marker, parse)
            found += page
            if following is None:
                return found
            if following == marker or not page:
                raise FatalError("BrokenListing", f"the storage repeats itself in {operation}")
            marker = following

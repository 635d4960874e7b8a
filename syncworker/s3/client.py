"""Sends requests to one bucket; each is answered or fails within bounded time. Operations: bucket.py and its
neighbours.

`Client.call` signs and sends a request, classifies its failure (error_codes.py), and retries if it may
succeed later: with exponential backoff and full jitter, and with fewer requests in flight while the store
asks to slow down (throttle.py). It raises RetryError after the last try, FileError if the store refuses this
key, and FatalError if no request can succeed. Redirects are not followed. If the store names another region,
requests are signed for that region.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from syncworker.errors import FatalError, RetryError, Stopped, SyncError
from syncworker.s3 import error_codes, xml_messages
from syncworker.s3.credentials import KeySource
from syncworker.s3.error_codes import DAMAGED, EXPIRED
from syncworker.s3.outage import Outage, gone
from syncworker.s3.request import (
    LISTINGS,
    NOT_REPEATED,
    SENDS,
    SLOW,
    WITH_BLANKS,
    WITH_BODY,
    WRITES,
    Conditions,
    InFlight,
    S3Request,
    Target,
)
from syncworker.s3.signing import EMPTY_SHA256, Keys, Signer, encode_path, encode_query
from syncworker.system.bandwidth import Turn
from syncworker.system.control import is_settling
from syncworker.wire.connection import Response
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.pool import READS, ConnectionPool
from syncworker.wire.throttle import AdaptiveThrottle

_REGION = re.compile(r"[A-Za-z0-9_-]{1,64}")  # the region that a store names goes into a header
TRIES = 6
_TRIES_THROTTLED = 60
_TRIES_SILENT = 3  # each of them already waits long
_FAILURES_IN_A_ROW = 40  # lost connections, over all requests
_UNREACHABLE = frozenset({"ConnectFailed", "ProxyUnreachable", "ConnectTimeout", "DnsError"})
CUT = frozenset({"ConnectionLost", "Timeout", "TlsError", "BadAnswer"})
# Failures that show that the storage is there.
_ANSWERS = DAMAGED | EXPIRED | {"WrongRegion", "WrongAddressing", "OperationAborted", "RequestTimeout"}
_FIRST_ANSWER_SECONDS = 50.0
_NOTICED_SECONDS = 2.0  # without any success: the storage may be down
_WAIT_SECONDS = 0.2
_WAIT_MAX_SECONDS = 8.0
_INTERNAL = frozenset({"InternalError", "Http500"})


def _tries(error: RetryError) -> int:
    if error.throttled:
        return _TRIES_THROTTLED
    return _TRIES_SILENT if error.code in ("Timeout", "ConnectTimeout") else TRIES


class Client:
    """Sends requests to one bucket, or below a prefix in it; the keys of requests do not have the prefix."""

    def __init__(
        self, pool: ConnectionPool, target: Target, keys: KeySource, conditions: Conditions | None = None
    ) -> None:
        conditions = conditions or Conditions()
        self.pool = pool
        self.name, self.key_prefix = target.bucket, target.key_prefix
        self.signer = Signer(target.region)
        self.conditions, self.advice = conditions, conditions.advice
        self.keys = keys
        self._used: Keys | None = None  # the keys of the last request
        self.throttle = AdaptiveThrottle(conditions.most_requests)
        self.stop, self.pause = conditions.stop, conditions.pause
        self.outage = Outage(conditions.patience_seconds, self._ask, self.stop, self.pause)
        self._first_answer_by: float | None = None  # by the loop's clock
        self.requests: dict[tuple[str, int], int] = {}  # (operation, HTTP status) -> how many
        self.retries = 0
        self.in_flight: dict[object, InFlight] = {}  # oldest first
        self._failures = 0  # requests given up in a row
        self.is_s3 = False  # an answer came from an S3 storage
        self.uses_tls = pool.tls is not None  # detects flipped bits in transit
        # How long these operations may be silent; others: as long as the pool allows.
        self._silences = dict.fromkeys(LISTINGS, pool.limits.listing_seconds)
        self._silences |= dict.fromkeys(SLOW, pool.limits.completing_seconds)
        self._aim(pool.endpoint)

    def _aim(self, place: Endpoint) -> None:
        """Sends all further requests to this endpoint."""
        pool = self.pool
        self._place = place
        host, self._prefix = place.bucket_address(self.name)
        self._host, self._host_header = host, place.host_header(host)
        proxy = None if pool.tls is not None else pool.proxy  # one that gets the request, and not a tunnel
        self._target = f"http://{self._host_header}" if proxy else ""
        login = proxy.authorization if proxy else ""
        self._proxy_line = f"proxy-authorization: {login}\r\n" if login else ""

    def full_disk(self) -> FatalError | None:
        """Returns an error if the store's disk is on this machine and full, so that uploads would fail."""
        if self.conditions.store_dir is None:
            return None
        from syncworker.system import disk_space  # importing it slows each start; most storages are remote

        return disk_space.refusal(self.conditions.store_dir)

    def waits_to_send(self, seconds: float) -> bool:
        """Whether a request that writes has been in flight for this long."""
        since = time.monotonic() - seconds
        return any(r.since < since and r.operation in WRITES for r in self.in_flight.values())

    async def call(
        self,
        request: S3Request,
        *,
        may_be_blocked: Callable[[str], bool] | None = None,
        on_retry: Callable[[], None] | None = None,
        refusals: frozenset[str] = frozenset(),
    ) -> Response:
        """Sends the request. Returns an answer with status 2xx; raises any other as an error, after all
        tries. Raises Stopped if no request may begin. `refusals`: codes that are never retried."""
        operation, key = request.operation, request.key
        if self.conditions.only_reads and request.method not in READS:
            raise AssertionError(f"{operation} of a job that changes nothing at the storage")
        tries = 0
        renewed = False
        while True:
            tries = 1 if self.outage.asking and await self.outage.pass_by() else tries + 1
            if operation in SENDS and (full := self.full_disk()) is not None:
                raise full
            turn: Turn | None = None
            is_held = self.pause.on or self.pool.bandwidth.on or self.stop.requested()
            if is_held or not self.throttle.try_acquire():
                turn = await self._enter(request)
            error: SyncError | None = None
            began_at = time.time()
            try:
                keys = self._used = await self.keys.keys()
                once = self._once(keys, request, turn)
                return await (once if self.pool.answered else self._in_time(once))
            except SyncError as failure:
                error = failure
            finally:
                self.throttle.release(error)
                if turn is not None:
                    turn.leave()
                if error is None:
                    self._failures = 0
                    self.outage.answered()
                else:
                    self._record(error, began_at)
            if not isinstance(error, RetryError) or error.code in refusals:
                raise error
            if operation == "DeleteObjects" and error.code in CUT and not self.uses_tls:
                raise error  # `delete_many` finds out what the request has done
            if error.code in EXPIRED:
                if not renewed and error.code != "TokenRefreshRequired":
                    renewed = True
                    if await self.keys.renew(keys):
                        continue
                raise self._expired(error)
            if may_be_blocked and key and tries > 1 and error.code in _INTERNAL and may_be_blocked(key):
                raise error  # the answer of a store that is a file system to a key below an object
            tries = await self.wait(error, tries)
            if on_retry is not None:
                on_retry()

    def _expired(self, error: RetryError) -> FatalError:
        return FatalError(
            error.code,
            f"the credentials have expired: renew them and resume the job (the keys are {self.keys.origin})",
        )

    async def _enter(self, request: S3Request) -> Turn | None:
        """Waits while the job is paused, and until the throttle has room; under a bandwidth limit, also for
        the body's turn. Raises Stopped if no request may begin."""
        bandwidth = self.pool.bandwidth
        turn: Turn | None = None
        while True:
            if self.pause.on:
                await self.pause.wait()
            if self.stop.requested():
                raise Stopped("told to stop")
            if bandwidth.on and request.operation in WITH_BODY:
                size = request.max_body if request.operation == "GetObject" else request.size
                turn = await bandwidth.enter(size, self.stop.requested)
            try:
                await self.throttle.acquire(self.stop.requested)
            except BaseException:
                if turn is not None:
                    turn.leave()
                raise
            if not (self.pause.on or self.stop.requested()) or is_settling():
                return turn
            self.throttle.release_unused()  # paused or stopped while it waited
            if turn is not None:
                turn.leave()

    def go_on(self) -> None:
        """Restarts the time limits that continued during a pause."""
        self._first_answer_by = None
        self.outage.forgive()

    def _record(self, error: SyncError, began_at: float) -> None:
        """Records what the error of a request shows about the storage."""
        if isinstance(error, RetryError) and error.code not in _ANSWERS:
            self.outage.failed(error, began_at)
        elif not isinstance(error, Stopped):
            self.outage.answered()

    async def _ask(self) -> RetryError | None:
        """Sends a HEAD of the bucket. Returns None if there was any answer, else the error."""
        try:
            await self._once(await self.keys.keys(), S3Request("HeadBucket", "HEAD", max_body=0))
        except RetryError as error:
            return None if error.code in _ANSWERS else error
        except SyncError:
            pass
        return None

    async def _in_time(self, once: Coroutine[Any, Any, Response]) -> Response:
        """Limits the time of an exchange with a storage that has never answered: its address may be wrong. A
        concurrent HEAD of the bucket shows whether only this request takes long."""
        loop = asyncio.get_running_loop()
        if self._first_answer_by is None:
            self._first_answer_by = loop.time() + _FIRST_ANSWER_SECONDS

        async def ask_beside() -> None:
            while not self.pool.answered:
                await asyncio.sleep(_FIRST_ANSWER_SECONDS / 4)
                await self.pause.wait()
                await self._ask()
            limit.reschedule(None)

        try:
            async with asyncio.timeout_at(self._first_answer_by) as limit:
                beside = asyncio.create_task(ask_beside())
                try:
                    return await once
                finally:
                    beside.cancel()
        except TimeoutError as error:
            raise FatalError(
                "Timeout",
                f"the storage does not answer: it was silent for {_FIRST_ANSWER_SECONDS:g} s: {self.advice}",
            ) from error

    async def wait(self, error: RetryError, tries: int) -> int:
        """Sleeps before the next try and returns the number of tries made; raises if none is left."""
        if error.code in ("WrongRegion", "WrongAddressing"):  # the next try differs, so it is made at once
            if tries >= 3:
                raise FatalError(error.code, error.message)
            return tries
        if self.stop.requested():
            raise self._exhausted(error)
        is_spent = tries >= _tries(error)
        if is_spent or (not error.throttled and self.outage.has_lasted(_NOTICED_SECONDS)):
            if await self.outage.is_over() or (is_spent and self.outage.is_just_over):
                self.retries += 1
                return 0
            if is_spent or self.stop.requested():
                raise self._exhausted(error)
        self.retries += 1
        import random  # importing it slows each start; most jobs retry nothing

        pause = random.random() * min(_WAIT_MAX_SECONDS, _WAIT_SECONDS * 2**tries)  # noqa: S311
        await self.stop.sleep(pause)
        return tries

    def _exhausted(self, error: RetryError) -> SyncError:
        """Returns the error for a request with no try left: its own, or that of a storage that is down."""
        self._failures += 1
        if self.stop.requested():
            return error
        if not self.pool.answered:
            if error.code == "BadAnswer":
                return self.no_storage(error.message)
            if error.code == "ProxyUnreachable":
                return FatalError(error.code, f"{error.message}: start the proxy, or correct that variable")
            return FatalError(error.code, f"the storage does not answer: {error.message}: {self.advice}")
        if error.code in _UNREACHABLE or (error.code in CUT and self._failures >= _FAILURES_IN_A_ROW):
            return gone(error)
        return error

    def no_storage(self, why: str) -> FatalError:
        return FatalError(
            "NoStorage", f"No S3 storage answers at {self.pool.endpoint.url}: {why}: {self.advice}"
        )

    async def _once(self, keys: Keys, request: S3Request, turn: Turn | None = None) -> Response:
        operation, method, key, query, headers, body, max_body, payload = request
        path = self._prefix or "/"
        if key is not None:
            key = f"{self.key_prefix}{key}"
            path = encode_path(f"{self._prefix}/{key}")
        query_text = encode_query(query) if query else ""
        signed = {"host": self._host_header, **headers} if headers else {"host": self._host_header}
        size = len(body) if isinstance(body, bytes) else body.size
        if not isinstance(body, bytes):
            payload = body.sha256
        elif payload is None:
            payload = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        signer = self.signer
        lines = signer.sign(keys, method, path, query_text, signed, payload)
        target = f"{path}?{query_text}" if query_text else path
        length = f"content-length: {size}\r\n" if size or method in ("PUT", "POST") else ""
        head = f"{method} {self._target}{target} HTTP/1.1\r\n{lines}{self._proxy_line}{length}\r\n"
        settles, flight = is_settling(), object()
        if settles or method not in READS:
            made: InFlight = tuple.__new__(InFlight, (operation, key, time.monotonic()))
            self.in_flight[flight] = made
        try:
            response = await self.pool.exchange(
                self._host,
                method,
                head.encode("latin-1"),
                body,
                max_body=max_body,
                may_repeat=operation not in NOT_REPEATED,
                settles=settles,
                idle_seconds=self._silences.get(operation),
                blanks=operation in WITH_BLANKS,
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

    def said(self, response: Response) -> tuple[str, str, dict[str, str]]:
        """Returns the code, message and fields of the error in an answer."""
        code, message, fields = xml_messages.parse_error(response.body)
        return self.without_keys(code), self.without_keys(message), fields

    def without_keys(self, text: str) -> str:
        """Removes the credentials from a store's text for a status, because some stores repeat them."""
        for key in self._used or ():
            if key and len(key) >= 6:  # replacing a shorter one would only garble the text
                for spelling in (key, quote(key, safe="")):
                    text = text.replace(spelling, "...")
        return text

    def _error(self, operation: str, response: Response, signed_for: str) -> SyncError:
        code, message, fields = self.said(response)
        self.is_s3 |= bool(code)
        is_passing = response.status < 400 or response.status in (408, 429) or response.status >= 500
        if operation in LISTINGS and not (self.is_s3 or is_passing):
            return self.no_storage(f"{operation} got status {response.status} without an S3 error")
        region = fields.get("Region") or response.headers.get("x-amz-bucket-region")
        # Compare with the region that this request was signed for: another request may have changed it since.
        is_new = bool(region and _REGION.fullmatch(region) and region != signed_for)
        if region and is_new and response.status in (301, 307, 400, 403):
            # Sign for the bucket's region from now on. The host stays: another one has not been checked.
            self.signer = Signer(region)
            return RetryError("WrongRegion", f"the bucket is in region {region}: set AWS_REGION")
        turned = self._place._replace(virtual=True)
        can_turn = turned.may_turn and turned.bucket_address(self.name)[0] != turned.host
        if can_turn and code in error_codes.WANTS_VIRTUAL:
            self._aim(turned)  # also if another request has done so already
            return RetryError("WrongAddressing", f"the storage wants the bucket in the host ({code})")
        error = error_codes.classify(operation, response.status, code, message[:300], response.headers)
        if error.code in error_codes.ABOUT_KEYS and not isinstance(error, RetryError):
            return type(error)(error.code, f"{error.message} (the keys are {self.keys.origin})")
        return error

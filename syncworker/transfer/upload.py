"""Sends small files, each as one PUT, and learns what the store's ETags prove. Every byte is checked.

When a file counts as sent
- The store received the MD5 of the body (or of each part), and answered with it as ETag. If the ETag is
  something else, the object is read back and compared byte for byte, once for each destination: then its
  ETags are known to be opaque (the facts `etag`, `multipart_etag`), and we rely on Content-MD5. `kms`: the
  ETags of some objects are opaque, and HEAD shows which.
- Any client can write metadata. It is used only if the ETag proves nothing, and never against an ETag that is
  an MD5.
- An object whose bytes do not match the MD5 in its metadata is deleted, because a later check would rely on
  the metadata.
- If a key has characters that stores are known to rewrite, the listing must show it unchanged.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from syncworker.errors import FileError, RetryError, Stopped, SyncError
from syncworker.index.records import IndexRow
from syncworker.jobs.progress import Operation, UploadResult
from syncworker.model import FileEntry
from syncworker.options.object_headers import ObjectHeaders
from syncworker.plan.compare import Candidate
from syncworker.s3 import etag as etags
from syncworker.s3.bucket import Head, may_be_rewritten
from syncworker.system.control import settling
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.part_sums import NOT_TO_GO_ON, PartSums
from syncworker.transfer.readers import Changed, ReadResult, describe, restat
from syncworker.wire.body import UNSIGNED

T = TypeVar("T")

KEPT, KMS, OPAQUE = "md5", "kms", "opaque"  # a fact changes only in this order
_ORDER = (None, KEPT, KMS, OPAQUE)
_SIGNED = "signed"
_WRONG_BYTES = "the storage stored different bytes than it was sent"


class Vanished(FileError):
    def __init__(self) -> None:
        super().__init__("vanished", "the file is gone")


def key_changed() -> FileError:
    return FileError(
        "KeyChangedByStore",
        "the storage stores this object under a different name: rename the file, or use"
        " a storage that keeps names",
    )


def row_of(sent: UploadResult) -> IndexRow:
    """Returns the index row of an uploaded file."""
    read_ns = 0 if sent.changes else sent.read_ns
    return IndexRow.of(sent.file, sent.etag, sent.digest, sent.part_size, "", read_ns)


class Sender:
    """Sends to one bucket. Everything here runs in the event loop; reading and hashing run in `pool`."""

    def __init__(self, attempt: Attempt, headers: ObjectHeaders) -> None:
        self.bucket, self.index, self.progress = attempt.bucket, attempt.index, attempt.progress
        self.tree, self.pool = attempt.tree, attempt.pool
        self.check, self.halted = attempt.stop.raise_stopped, attempt.stop.requested
        self.halted_in_thread = self.bucket.client.pause.blocking(self.halted)
        # An upload to such a key is not retried if the store fails.
        self.may_be_blocked = attempt.obstacles.may_be_blocked
        self.headers = headers
        if (self.index.fact("given") or "") != self.headers.fingerprint:
            for upload in self.index.uploads():  # begun with other headers, so not to be continued
                self.index.begin_upload(upload._replace(part_size=NOT_TO_GO_ON))
            self.index.set_fact("given", self.headers.fingerprint)
        self.part_sums = PartSums(self.bucket, self.index)
        self._probing = asyncio.Lock()
        self.facts = {name: self.index.fact(name) for name in ("etag", "multipart_etag", "payload")}
        self._payload = self._choose_payload()
        self._unsigned_taken = False  # the store accepts a body whose SHA-256 is not signed

    @property
    def etags_are_md5(self) -> bool:
        return self.facts["etag"] == KEPT

    @property
    def etags_are_opaque(self) -> bool:
        return self.facts["multipart_etag"] == OPAQUE or self.facts["etag"] in (KMS, OPAQUE)

    async def small(self, result: ReadResult, operation: Operation) -> UploadResult:
        """Sends a body in memory by one PUT."""
        file, body = result.file, result.body
        headers = self.headers.of(file, result.md5)
        payload = self._payload  # of the signature
        try:
            answered = await self.bucket.put(
                file.key, body, result.md5, headers, self.may_be_blocked, payload
            )
        except SyncError as error:
            if payload is not None and self._signs_instead(error):
                sent = await self.small(result, operation)
                self.index.set_fact("payload", _SIGNED)
                return sent
            self.headers.blame(error)
            raise
        self.headers.taken = True
        self._unsigned_taken = self._unsigned_taken or payload is not None
        operation.sent = len(body)
        is_md5 = answered == result.digest
        if is_md5:
            self.learn("etag", KEPT)
        if not is_md5 or may_be_rewritten(file.key):
            with settling():
                if not is_md5 and (self.facts["etag"] not in (KMS, OPAQUE) or not answered):
                    verified = self._verify_put(file.key, body, answered, result.digest)
                    answered = await self.verify_or_delete(file.key, result.digest, verified)
                await self.check_key(file.key)
        return UploadResult(file, answered, result.digest, 0, result.read_ns, result.changes)

    def _choose_payload(self) -> str | None:
        """Leaves the body's SHA-256 out of the signature if the ETag of the answer proves the body."""
        return UNSIGNED if self.facts["etag"] == KEPT and self.facts["payload"] is None else None

    def _signs_instead(self, error: SyncError) -> bool:
        """Whether a PUT may have been refused because its signature lacks the SHA-256 of the body, which some
        stores require. All further PUTs then include it."""
        if self._unsigned_taken or isinstance(error, RetryError | Stopped):
            return False
        self.facts["payload"], self._payload = _SIGNED, None
        return True

    async def verify_or_delete(self, key: str, md5: str, verified: Coroutine[Any, Any, T]) -> T:
        """Awaits the verification and returns its result. If the stored bytes are wrong, deletes the object,
        but only if its metadata carries our MD5; otherwise it may be the previous object and must stay."""
        try:
            return await verified
        except FileError as error:
            if error.code == "StoredWrongBytes" and md5:
                head = await self.bucket.head(key)
                if head is not None and head.carries(bytes.fromhex(md5)):
                    await self.bucket.delete(key)
            raise

    async def _verify_put(self, key: str, body: bytes, answered: str, digest: str) -> str:
        """Reads the stored object back, because its ETag is not the MD5. Returns the ETag that HEAD shows."""
        kept = await self.bucket.read_range(key, 0, len(body))
        if kept != body:
            if answered == hashlib.md5(kept, usedforsecurity=False).hexdigest():
                self.learn("etag", KEPT)  # of the wrong bytes; still, metadata must not be used instead
            raise FileError("StoredWrongBytes", _WRONG_BYTES)
        head = await self.head_sent(key, len(body))
        if head.etag == digest:
            return digest
        self.learn("etag", KMS if head.has_own_etag else OPAQUE)
        return head.etag or answered

    async def head_sent(self, key: str, size: int, *, checksum: bool = False) -> Head:
        """Sends HEAD for an object that was just sent. Raises FileError if the size is not this one."""
        head = await self.bucket.head(key, checksum=checksum)
        if head is None or head.size != size:
            raise FileError("StoredWrongBytes", "the stored object has a different size than was sent")
        return head

    async def is_known(self, work: Candidate, file: FileEntry, md5: bytes) -> bool:
        """Whether an object with another ETag still has the file's content, according to its metadata. If the
        ETag may be an MD5, metadata that contradicts it is out of date."""
        head = await self.bucket.head(file.key)
        if head is None or head.size != file.size or not head.carries(md5):
            return False
        tag = head.etag or (work.object.etag if work.object else "")
        if etags.parts_of(tag) != 0 or head.has_own_etag or tag == md5.hex():
            return True
        async with self._probing:
            if self.facts["etag"] is None:
                return await self._probe(file, tag) == md5.hex()
        return self.facts["etag"] == OPAQUE

    async def _probe(self, file: FileEntry, tag: str) -> str:
        """Reads an object once to find out whether this store's ETags are MD5s; returns its MD5."""
        digest = hashlib.md5(usedforsecurity=False)
        async for _, piece in self._stored(file):
            await self.in_pool(digest.update, piece)
        self.learn("etag", KEPT if digest.hexdigest() == tag else OPAQUE)
        return digest.hexdigest()

    def learn(self, fact: str, value: str) -> None:
        known = self.facts[fact]
        if known != value and _ORDER.index(value) > _ORDER.index(known):
            self.facts[fact] = value
            self.index.set_fact(fact, value)
            self._payload = self._choose_payload()

    async def check_key(self, key: str) -> None:
        """Raises FileError if the store lists the object that was just sent under another key."""
        if may_be_rewritten(key) and key not in await self.bucket.list_exact(key):
            raise key_changed()

    async def plain_md5(self, fd: int, file: FileEntry) -> bytes:
        found = await self.in_pool(etags.hash_file, fd, file.size, [0], self.halted_in_thread)
        return bytes.fromhex(found[0])

    async def read_back(self, fd: int, file: FileEntry) -> None:
        """Compares the object with the open file, byte for byte. Raises FileError."""
        async for offset, kept in self._stored(file):
            if kept != await self.in_pool(os.pread, fd, len(kept), offset):
                if restat(fd, file) != file:
                    raise Changed
                raise FileError("StoredWrongBytes", _WRONG_BYTES)

    async def _stored(self, file: FileEntry) -> AsyncIterator[tuple[int, bytes]]:
        """Reads as many bytes of the object as the file has; yields pieces with their offsets."""
        for offset in range(0, file.size, etags.PART_MIN):
            self.check()
            size = min(etags.PART_MIN, file.size - offset)
            yield offset, await self.bucket.read_range(file.key, offset, size)

    async def in_pool(self, function: Callable[..., Any], *values: Any) -> Any:
        if await self.bucket.client.pause.wait():
            self.check()
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, function, *values)
        except InterruptedError:
            self.check()
            raise Stopped("told to stop") from None
        except OSError as error:
            raise describe(error) from error

"""Chooses the checksum for the parts of large files: the cheapest that the storage demonstrably checks.

A store that accepts a part with a wrong sum does not check it, and one that refuses it may refuse any part.
So we test it with a separate upload, under the key of the file that is about to be sent: it must refuse
a few bytes with a wrong sum, accept them with the right one, and refuse them with the wrong one again.
CRC64NVME is tried first, then CRC32C, then SHA-256 in the signature (if it is faster than MD5 here). If none
passes, Content-MD5 is used, as for small files.

- The test upload is aborted, so it never becomes an object. Its id is in the index like that of every upload:
  if the job dies, the next one aborts it.
- The result is kept for the destination for a day. The store is tested again at another address, with other
  keys, if its Server header changes, and if any evidence contradicts the result (`doubt`).
- Only a run that sends many bytes in parts tests: the test and the import of the CRC library cost as much as
  the MD5 of 32 MiB or more.
- Until one part of this run has an ETag that is its MD5, the MD5 of every part is computed as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import time

from syncworker.errors import FileError, RetryError
from syncworker.index.database import Index
from syncworker.index.records import PendingUpload
from syncworker.s3 import multipart, sums
from syncworker.s3.bucket import Bucket
from syncworker.s3.sums import MD5, SHA256, Algorithm
from syncworker.wire.body import UNSIGNED, FileSlice

WORTH_BYTES = 64 << 20  # of files that are sent in parts in this run
NOT_TO_GO_ON = 0  # the part size of an upload that is not to be continued
FACT = "part_sum"
_AGE_SECONDS = 86_400
REFUSALS = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_BYTES = b"Is this sum checked?"
_RIGHT = {  # of these bytes, so that the test needs no library
    sums.CRC64NVME: bytes.fromhex("199e91aaa10449da"),
    sums.CRC32C: bytes.fromhex("a2024e5b"),
    SHA256: hashlib.sha256(_BYTES).digest(),
}


class PartSums:
    """The choice for one destination. `is_held`: a part had an ETag that is its MD5. `is_doubted`: the store
    seems not to check sums."""

    def __init__(self, bucket: Bucket, index: Index) -> None:
        self.bucket, self.index = bucket, index
        self.is_held = self.is_doubted = False
        self._begun_bytes = 0
        self._chosen: Algorithm | None = None
        self._server: str | None = None  # hash of the store's Server header at the test
        self._changes = 0
        self._asking = asyncio.Lock()

    async def choose(self, key: str, size: int, *, may_ask: bool = True) -> Algorithm:
        """Returns the sum for the parts of a file that is to be sent. Without `may_ask` (the key has an open
        upload, which is continued), it does not test, and uses an earlier result."""
        self._begun_bytes += size
        if self._begun_bytes < WORTH_BYTES:
            return MD5
        async with self._asking:
            chosen = self._chosen or await self._remembered()
            if chosen is None and may_ask:
                chosen = await self._find_out(key)
            self._chosen = chosen
        return chosen or MD5

    def is_of(self, server: str) -> bool:
        """Whether the store that began an upload sends the same Server header as the one that was tested. If
        not, it is tested again; if the header changes again, MD5 is used."""
        if self._chosen in (None, MD5) or _hash(server) == self._server:
            return True
        self._changes += 1
        self._chosen = None if self._changes == 1 else MD5
        self.index.drop_facts([FACT])
        return False

    def doubt(self) -> None:
        """Called if the store seems not to check sums: uses MD5 from now on, and forgets what is known."""
        self._chosen = MD5
        self.is_held, self.is_doubted = False, True
        self.index.drop_facts([FACT])

    async def _remembered(self) -> Algorithm | None:
        name, at, place, server, *_ = *(self.index.fact(FACT) or "").split(" "), "", "", ""
        algorithm = sums.BY_NAME.get(name)
        if algorithm is None or not at.isdecimal() or place != await self._place():
            return None
        if not 0 <= time.time() - int(at) < _AGE_SECONDS or not sums.loads(algorithm):
            return None
        self._server = server
        return algorithm

    async def _place(self) -> str:
        client = self.bucket.client
        return _hash(f"{client.pool.endpoint.url}\n{(await client.keys.keys()).access_key}")

    async def _find_out(self, key: str) -> Algorithm:
        found = MD5
        for algorithm in (*sums.CRCS, SHA256):
            if not sums.can_make(algorithm):
                continue
            try:
                is_checked = await self._is_checked(key, algorithm)
            except RetryError:  # if the store fails on every request, the upload itself reports it
                return MD5
            if is_checked and sums.loads(algorithm):
                found = algorithm
                break
        self.index.set_fact(FACT, f"{found.name} {int(time.time())} {await self._place()} {self._server}")
        return found

    async def _is_checked(self, key: str, algorithm: Algorithm) -> bool:
        """Tests whether the store checks this sum, with an upload that is aborted."""
        right = _RIGHT[algorithm]
        wrong = bytes([right[0] ^ 1]) + right[1:]
        self.index.begin_upload(PendingUpload(key, "", NOT_TO_GO_ON, 0))
        try:
            begun = await multipart.create_upload(self.bucket, key, dict(algorithm.naming))
        except FileError:
            self.index.end_upload(key)
            return False
        self.index.begin_upload(PendingUpload(key, begun.upload_id, NOT_TO_GO_ON, 0))
        self._server = _hash(begun.server)

        async def takes(digest: bytes) -> bool:
            signed = digest.hex() if algorithm is SHA256 else UNSIGNED
            body = FileSlice(-1, 0, len(_BYTES), memoryview(_BYTES), signed)
            part = (begun.upload_id, 1, body, {algorithm: digest}, REFUSALS)
            try:
                await multipart.upload_part(self.bucket, key, *part)
            except (FileError, RetryError) as error:
                if error.code in REFUSALS:
                    return False
                raise
            return True

        try:
            is_checked = not await takes(wrong) and await takes(right) and not await takes(wrong)
        except FileError:  # refused for another reason
            is_checked = False
        try:
            await multipart.abort_upload(self.bucket, key, begun.upload_id)
        except FileError:  # the credentials may not abort uploads
            is_checked = False
        self.index.end_upload(key)
        return is_checked


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]

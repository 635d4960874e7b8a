"""By which sum a storage checks the parts of large files: the cheapest that it is seen to check.

A store that takes a part with a wrong sum does not check it, and one that refuses it may refuse any. So an
upload of its own is begun, under the key of the file that is about to be sent, and ended: the same few bytes
with a wrong sum must be refused, with the right one taken, with the wrong one refused again. CRC64NVME is
tried first, then CRC32C, then SHA-256 in the signature (where it is faster than MD5 here); else it is
Content-MD5, as for small files.

- Never completed, it is never an object. Its id is in the index like that of every upload, so what a crash
  leaves of it is ended by whichever run comes next.
- The answer is a fact of the destination, for a day: the store is asked anew at another address, with other
  keys, when it calls itself otherwise, and when anything speaks against it (`doubt`).
- Only a run that sends much by parts asks: asking and the library of the CRCs cost as much as the MD5 of
  32 MiB or more.
- Until one part of this run was seen to have an ETag that is its MD5, all parts have their MD5 made as well.
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

WORTH_BYTES = 64 << 20  # of files that go by parts in this run
NOT_TO_GO_ON = 0  # the size of the parts of an upload that no file goes on with
FACT = "part_sum"
_AGE_SECONDS = 86_400
REFUSALS = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})
_BYTES = b"Is this sum checked?"
_RIGHT = {  # of these bytes: so asking needs no library
    sums.CRC64NVME: bytes.fromhex("199e91aaa10449da"),
    sums.CRC32C: bytes.fromhex("a2024e5b"),
    SHA256: hashlib.sha256(_BYTES).digest(),
}


class PartSums:
    """Chooses for one destination. `is_held`: a part was seen to have an ETag that is its MD5. `is_doubted`:
    something was seen that speaks against the store."""

    def __init__(self, bucket: Bucket, index: Index) -> None:
        self.bucket, self.index = bucket, index
        self.is_held = self.is_doubted = False
        self._begun_bytes = 0
        self._chosen: Algorithm | None = None
        self._server: str | None = None  # what the store called itself when it was asked
        self._changes = 0
        self._asking = asyncio.Lock()

    async def choose(self, key: str, size: int, *, may_ask: bool = True) -> Algorithm:
        """The sum for the parts of a file that is to be sent. While it may not ask, since the key has an
        upload that is gone on with: what is known."""
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
        """Whether the store that began an upload is the one that was asked, by the name it gives itself. If
        not, it is asked once more; where the names take turns, MD5 remains."""
        if self._chosen in (None, MD5) or _hash(server) == self._server:
            return True
        self._changes += 1
        self._chosen = None if self._changes == 1 else MD5
        self.index.drop_facts([FACT])
        return False

    def doubt(self) -> None:
        """Something was not as it should be if the store checked: MD5s from now on, and nothing is known."""
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
            except RetryError:  # it fails on such a request, or on any: then the upload itself says so
                return MD5
            if is_checked and sums.loads(algorithm):
                found = algorithm
                break
        self.index.set_fact(FACT, f"{found.name} {int(time.time())} {await self._place()} {self._server}")
        return found

    async def _is_checked(self, key: str, algorithm: Algorithm) -> bool:
        """Asks the store, by an upload of its own that is ended."""
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
            body = FileSlice(-1, 0, len(_BYTES), _BYTES, signed)
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
        except FileError:  # keys that may not: their uploads are never ended
            is_checked = False
        self.index.end_upload(key)
        return is_checked


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]

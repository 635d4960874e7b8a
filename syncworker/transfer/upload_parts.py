"""Sends large files in parts. After a crash, the parts already sent are kept. Every byte is checked.

A process has at most `PARTS_IN_FLIGHT` parts of a file in flight, and a member of a cluster as many of each
run of parts that it was given. A crash loses no more than these.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from syncworker.errors import FatalError, FileError, RetryError, Stopped, SyncError
from syncworker.folder.uploads_root import VANISHED
from syncworker.index.records import Part
from syncworker.jobs.progress import Operation, UploadResult
from syncworker.model import FileEntry
from syncworker.plan.compare import NEW, Candidate
from syncworker.s3 import etag as etags
from syncworker.s3 import multipart, sums, xml_documents, xml_messages
from syncworker.s3.sums import CRC64NVME, MD5, SHA256, Algorithm
from syncworker.system.control import settling
from syncworker.transfer.open_uploads import OpenUploads, SentPart, Upload
from syncworker.transfer.part_sums import REFUSALS
from syncworker.transfer.parts import Others, Parts
from syncworker.transfer.readers import TRIES, Changed, Outcome, ReadResult, describe, entry_of, restat
from syncworker.transfer.upload import KEPT, OPAQUE, Sender, Vanished
from syncworker.wire.body import UNSIGNED, Chunk, FileSlice

PARTS_IN_FLIGHT = 2
ONCE_BYTES = 8 << 20  # a part up to this size may be held in memory until it is sent
_OTHER_BYTES = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody"})
# Errors of a part or of the completion if the store requires other sums or an ETag was corrupted in transit.
# The last one is our own: the store seemed to check the sums, but does not.
_SUM_REFUSED = REFUSALS | {
    "InvalidRequest",
    "InvalidArgument",
    "InvalidDigest",
    "InvalidPart",
    "NotImplemented",
    "StoredWrongBytes",
}


class PartSender:
    """Sends files that are too large for one PUT; runs in the event loop, as its `Sender` does."""

    def __init__(self, sender: Sender) -> None:
        self.sender, self.uploads = sender, OpenUploads(sender)
        self.bucket, self.index, self.progress = sender.bucket, sender.index, sender.progress
        self.others: Others | None = None

    def share(self, others: Others) -> None:
        """Lets other processes send parts, too."""
        self.others = others

    async def large(self, file: FileEntry, md5: bytes, operation: Operation) -> UploadResult:
        """Sends a file by a multipart upload. Continues an earlier one, and starts again if the file
        changes."""
        for attempt in range(1, TRIES + 1):
            operation.sent = 0
            as_opened = attempt == TRIES
            try:
                loop = asyncio.get_running_loop()
                read_ns = time.time_ns()
                fd, info = await loop.run_in_executor(self.sender.pool, self.sender.tree.open_file, file.path)
            except OSError as error:
                raise (Vanished() if error.errno in VANISHED else describe(error)) from error
            try:
                now = entry_of(info, file)
                operation.size = now.size
                if now != file:
                    md5 = b""  # it is of an older version of the file
                if not now.size:
                    return await self._empty(now, read_ns, operation)
                return await self._large_open(fd, now, md5, read_ns, operation, as_opened)
            except (Changed, EOFError):
                await self.uploads.abandon(file.key)
                md5 = b""
                await asyncio.sleep(0.05)
            finally:
                os.close(fd)
        raise Changed

    async def _empty(self, file: FileEntry, read_ns: int, operation: Operation) -> UploadResult:
        """Sends a large file that was truncated to nothing as one PUT: an upload needs at least one part."""
        await self.uploads.abandon(file.key)
        work = Candidate(file, None, None, NEW)
        md5 = hashlib.md5(b"", usedforsecurity=False)
        body = ReadResult(work, Outcome.BODY, file, read_ns, b"", md5.digest(), md5.hexdigest())
        return await self.sender.small(body, operation)

    async def _large_open(
        self, fd: int, file: FileEntry, md5: bytes, read_ns: int, operation: Operation, as_opened: bool
    ) -> UploadResult:
        """`as_opened`: sends a file that is written to constantly up to the size that it had when opened."""
        if file.size > etags.OBJECT_MAX:
            raise FileError("EntityTooLarge", "the file is larger than 5 TiB, the limit of S3")
        part = etags.part_size(file.size)
        if self.sender.etags_are_opaque and not md5:
            # If ETags prove nothing, the metadata must, so the MD5 is needed before the upload begins.
            md5 = await self.sender.plain_md5(fd, file)
        for fresh in (False, True):
            upload, kept = await self.uploads.begin(fd, file, part, md5, fresh=fresh)
            parts = Parts(self.sender, file, upload, part, kept, operation)
            try:
                return await self._send_parts(fd, parts, read_ns, as_opened)
            except (FileError, RetryError) as error:
                # If the file has changed, the store may have noticed: the part did not match its MD5.
                if restat(fd, file) != file and (not as_opened or error.code in _OTHER_BYTES):
                    raise Changed from error
                refused = upload.algorithm is not MD5 and error.code in _SUM_REFUSED
                again = kept or error.code in multipart.UPLOAD_GONE
                if fresh or not (refused or (again and isinstance(error, FileError))):
                    raise
                if refused:
                    self.sender.part_sums.doubt()
                # The store no longer knows the upload, does not replace a part, or refuses the sums: begin a
                # new upload.
                await self.uploads.abandon(file.key)
                operation.sent = 0
        raise AssertionError("unreachable")

    async def _send_parts(self, fd: int, parts: Parts, read_ns: int, as_opened: bool) -> UploadResult:
        file = parts.file
        await self._send_all(fd, parts, alone=as_opened)
        self.sender.check()  # completing the upload is a separate operation
        changes = restat(fd, file) != file
        if changes and not (as_opened and await self._has_parts(fd, parts)):
            raise Changed
        answered = await self._complete(parts)
        parts.is_completed = True
        with settling():
            verified = self._verify_parts(fd, parts, answered)
            begun = self.index.upload(file.key)
            md5 = begun.md5 if begun else ""
            etag, expected = await self.sender.verify_or_delete(file.key, md5, verified)
            self.index.end_upload(file.key)
            await self.sender.check_key(file.key)
        return UploadResult(file, etag, expected, parts.size, read_ns, changes)

    async def _send_all(self, fd: int, parts: Parts, *, alone: bool) -> None:
        """Sends the remaining parts, here and, unless `alone`, by other processes. Parts in flight always
        finish."""

        async def lane() -> None:
            memory = self.memory(parts.size)
            for number in parts.each():
                self.sender.check()
                try:
                    where = parts.pieces[number]
                    sent = await self.send_part(
                        fd, parts.file.key, parts.upload, number, *where, parts.operation, memory
                    )
                except BaseException:
                    parts.close()  # the other lanes finish their part and begin no other
                    raise
                parts.put(number, sent)

        others = None if alone else self.others
        if others is not None:
            others.offer(parts)
        try:
            await run_all([lane() for _ in range(PARTS_IN_FLIGHT)])
            await parts.others_done()
            while parts.left:  # others have given them back
                await run_all([lane() for _ in range(PARTS_IN_FLIGHT)])
                await parts.others_done()
        finally:
            parts.close()
            await parts.others_done()
            if others is not None:
                others.withdraw(parts)
        if parts.error is not None:
            raise parts.error

    def memory(self, size: int) -> memoryview | None:
        """Returns a buffer for one part after the other, all of this size, if they are to be encrypted or
        come from another machine, for which the loop must not wait; None for parts that the kernel sends, or
        that are read while they are sent. New memory for each part would cost a seventh of the processor
        time."""
        by_kernel = self.sender.tree.is_local and not self.bucket.client.uses_tls
        return None if by_kernel or size > ONCE_BYTES else memoryview(bytearray(size))

    async def _has_parts(self, fd: int, parts: Parts) -> bool:
        """Whether the file, read again, begins with the bytes sent: then these have not changed since."""
        for number, piece in parts.pieces.items():
            self.sender.check()
            if await self.sender.in_pool(etags.md5_range, fd, *piece) != parts.sent[number].md5:
                return False
        return True

    async def send_part(
        self,
        fd: int,
        key: str,
        upload: Upload,
        number: int,
        offset: int,
        size: int,
        operation: Operation,
        memory: memoryview | None,
    ) -> SentPart:
        """Sends a part with its sum, and also with its MD5 until one ETag of the store has matched one.
        `memory`: of this lane; not used again after an error, because a thread may still use it."""
        body = _Counted(fd, offset, size, None if memory is None else memory[:size], operation=operation)
        digests = await self._sums_of(body, upload)
        answered = ""
        for attempt in range(TRIES):
            if attempt:
                digests = await self._read_again(body, upload)
            once_more = REFUSALS if body.data is None and size <= ONCE_BYTES else frozenset[str]()
            try:
                stored = await multipart.upload_part(
                    self.bucket, key, upload.id, number, body, digests, once_more
                )
            except RetryError as error:
                if error.code not in once_more:
                    raise
                continue
            except OSError as error:  # the file, which is read while it is sent
                raise describe(error) from error
            crc = digests[upload.algorithm] if upload.algorithm.is_crc else b""
            answered = stored.etag
            is_md5 = etags.parts_of(answered) == 0 and not stored.has_own_etag
            if MD5 not in digests:
                if is_md5 and stored.checksum in ("", sums.encode(crc)):
                    return SentPart(answered, bytes.fromhex(answered), crc, True)
                md5 = await self.sender.in_pool(etags.md5_range, fd, offset, size)
                digests = {**digests, MD5: md5}
            if answered == digests[MD5].hex():
                by_sum = upload.algorithm is not MD5 and is_md5
                self.sender.part_sums.is_held |= by_sum and not self.sender.part_sums.is_doubted
                return SentPart(answered, digests[MD5], crc)
            if self.sender.halted():
                return SentPart(answered, digests[MD5], crc)
            if not is_md5 or self.sender.facts["multipart_etag"] == OPAQUE:
                break
            self.sender.part_sums.doubt()
        self.index.remember_part(Part(key, upload.id, number, answered, digests[MD5].hex()))
        return SentPart(answered, digests[MD5], crc)

    async def _read_again(self, body: _Counted, upload: Upload) -> Mapping[Algorithm, bytes]:
        """Reads a part into memory, to be sent from there: it may have changed between its sum and its
        sending. Returns its sums."""
        if body.data is None and body.size <= ONCE_BYTES:
            body.data = memoryview(bytearray(body.size))
        return await self._sums_of(body, upload)

    async def _sums_of(self, body: _Counted, upload: Upload) -> Mapping[Algorithm, bytes]:
        """Reads a part, into its memory if it has one, and returns its sums."""
        by_md5 = not self.sender.part_sums.is_held or self.sender.etags_are_opaque
        made = {upload.algorithm, MD5} if by_md5 else {upload.algorithm}
        digests: Mapping[Algorithm, bytes] = await self.sender.in_pool(
            sums.of_range, body.fd, body.offset, body.size, made, body.data
        )
        body.sha256 = digests[SHA256].hex() if SHA256 in digests else UNSIGNED
        return digests

    async def _complete(self, parts: Parts) -> xml_messages.Completed:
        file, upload, in_order = parts.file, parts.upload, parts.in_order()
        expected = etags.composite([part.md5 for part in in_order])
        algorithm = upload.algorithm.name
        names = [
            xml_documents.PartName(n, part.etag or part.md5.hex(), algorithm, sums.encode(part.crc))
            for n, part in enumerate(in_order, 1)
        ]
        try:
            return await multipart.complete_upload(self.bucket, file.key, upload.id, names)
        except SyncError as error:
            # It may have succeeded: the answer was lost or late, so a later try found no upload, or the error
            # came from a proxy. So check the object.
            if isinstance(error, Stopped) or not await self._is_there(file, expected):
                raise
            return xml_messages.Completed(expected)

    async def _is_there(self, file: FileEntry, expected: str) -> bool:
        """Whether the store has an object of exactly these parts under the file's key."""
        try:
            with settling():
                head = await self.bucket.head(file.key)
        except SyncError:
            return False  # the error of the upload says more
        return head is not None and (head.size, head.etag) == (file.size, expected)

    async def _verify_parts(self, fd: int, parts: Parts, answered: xml_messages.Completed) -> tuple[str, str]:
        """Returns the ETag that the store will list, and the ETag expected for these parts. Reads the object
        back if nothing else proves its bytes."""
        file, pieces, in_order = parts.file, parts.pieces.values(), parts.in_order()
        expected = etags.composite([part.md5 for part in in_order])
        crc64 = ""
        if parts.upload.algorithm is CRC64NVME:
            crc64 = sums.encode(sums.combine([part.crc for part in in_order], [size for _, size in pieces]))
        # If one part's answer is not its MD5, the whole object is read back.
        exact = all(part.etag == part.md5.hex() for part in in_order)
        by_word = any(part.is_word for part in in_order)

        def is_believed(whole: str) -> bool:
            """Whether to accept the ETags that were not compared: if the sum of the whole object proves them
            or, without such a sum, if the store is not doubted."""
            return whole == crc64 if crc64 else not self.sender.part_sums.is_doubted

        if exact and answered.etag == expected and (not by_word or is_believed(answered.crc64)):
            self.sender.learn("multipart_etag", KEPT)
            return expected, expected
        head = await self.sender.head_sent(file.key, file.size, checksum=bool(crc64))
        if by_word and not (is_believed(head.crc64) and head.etag == expected):
            # The store's sum of the whole does not fit its parts, or is missing: compare by MD5.
            self.sender.part_sums.doubt()
            md5s = [await self.sender.in_pool(etags.md5_range, fd, *piece) for piece in pieces]
            expected = etags.composite(md5s)
            exact = all(part.etag == md5.hex() for part, md5 in zip(in_order, md5s, strict=True))
        if head.etag == expected and exact:
            return expected, expected
        if self.sender.facts["multipart_etag"] != OPAQUE:
            if not crc64 or head.crc64 != crc64:
                await self.sender.read_back(fd, file)
            self.sender.learn("multipart_etag", OPAQUE)
        return head.etag, expected


@dataclass(eq=False, kw_only=True)
class _Counted(FileSlice):
    """A part that counts its sent bytes in its operation; when it is sent again, it counts from 0."""

    operation: Operation
    counted: int = 0

    def chunks(self) -> Iterator[Chunk]:
        self.operation.sent -= self.counted
        self.counted = 0
        for piece in FileSlice.chunks(self):
            yield piece
            self.counted += len(piece)
            self.operation.sent += len(piece)


async def run_all(coroutines: list[Coroutine[Any, Any, None]]) -> None:
    """Runs all to their end, then raises the most severe error, so that requests in flight always finish."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise min(errors, key=_gravity)


# From the most severe down. An error of any other class is a bug, and more severe than these.
_BY_GRAVITY = (FatalError, Changed, EOFError, FileError, RetryError, SyncError)


def _gravity(error: BaseException) -> int:
    """Returns the rank of an error; a lower one is more severe."""
    return next((n for n, kind in enumerate(_BY_GRAVITY) if isinstance(error, kind)), -1)

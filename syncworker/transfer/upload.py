"""Sends files: small ones as one PUT, large ones in parts that a crash does not lose. Every byte is checked.

What counts as sent
- The store was given the MD5 of the body (or of each part), and answered with it as ETag. Where the ETag is
  something else, the object is read back and compared byte for byte, once a destination: then its ETags are
  known to be opaque (the facts `etag`, `multipart_etag`), and Content-MD5 is relied on. `kms`: they are for
  some objects, and HEAD says for which.
- Metadata is a claim of whoever wrote it. It is believed where the ETag cannot tell, and never against an
  ETag that is an MD5.
- An object that holds other bytes than its metadata vouches for is removed: it would be believed later.
- A key with characters that stores are known to rewrite is looked for in the listing under its own name.

Large files: the intent, then the upload's id, is in the index before the first part goes out. A later run
asks the store which parts it has, keeps those whose MD5 still is the file's, and sends the rest. At most
`PARTS_IN_FLIGHT` parts of a file are under way, so that is what a crash can cost.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from typing import Any

from syncworker.errors import FatalError, FileError, RetryError, Stopped, SyncError
from syncworker.folder.uploads_root import VANISHED, Tree
from syncworker.index import Index, Part, Row, Unfinished
from syncworker.jobs.progress import Operation, Progress, Sent
from syncworker.model import FileEntry
from syncworker.options.object_headers import ObjectHeaders
from syncworker.plan.compare import NEW
from syncworker.plan.events import Work
from syncworker.s3 import etag as etags
from syncworker.s3 import multipart, xml_messages
from syncworker.s3.body import FileSlice
from syncworker.s3.bucket import Bucket
from syncworker.system.control import settling
from syncworker.transfer.readers import TRIES, Changed, Outcome, Read, describe, entry_of, restat

PARTS_IN_FLIGHT = 2
NOT_TO_GO_ON = 0  # the size of the parts of an upload that no file goes on with
_REWRITTEN = re.compile("[\x00-\x1f\x7f\\\\]|\u201b|[ .]$|[ .]/")  # seen rewritten by SeaweedFS and rclone
_OTHER_BYTES = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody"})
_UPLOAD_GONE = frozenset({"NoSuchUpload", "NotFound", "NoSuchKey"})
_KEPT, _KMS, _OPAQUE = "md5", "kms", "opaque"  # each may follow on those before it, never the reverse
_ORDER = (None, _KEPT, _KMS, _OPAQUE)


class Vanished(FileError):
    def __init__(self) -> None:
        super().__init__("vanished", "the file is gone")


def row_of(sent: Sent) -> Row:
    """What the index is to remember of an upload."""
    file = sent.file
    digest = "" if sent.digest == sent.etag else sent.digest
    return Row(
        file.key, file.size, file.mtime_ns, file.ctime_ns, file.inode,
        sent.etag, digest, sent.part_size, "", 0 if sent.changes else sent.checked_ns,
    )  # fmt: skip


class Sender:
    """Sends to one bucket. All of it runs in the event loop; reading and hashing run in `pool`. `check`
    raises Stopped when the job is to stop or has failed, `halted` says so: no further part is begun."""

    def __init__(
        self,
        bucket: Bucket,
        index: Index,
        tree: Tree,
        progress: Progress,
        pool: Executor,
        *,
        check: Callable[[], None],
        halted: Callable[[], bool],
        is_blocked: Callable[[str], bool] = lambda _: False,
        headers: ObjectHeaders | None = None,
    ) -> None:
        self.bucket = bucket
        self.index = index
        self.tree = tree
        self.progress = progress
        self.check, self.halted = check, halted
        self.halted_in_thread = bucket.client.pause.blocking(halted)
        self.pool = pool
        self.is_blocked = is_blocked  # whether it is of no use to try a key again that the store fails on
        self.headers = headers or ObjectHeaders()
        if (index.fact("given") or "") != self.headers.fingerprint:
            for upload in index.uploads():  # begun with other headers, for whichever run comes to it
                index.begin_upload(upload._replace(part_size=NOT_TO_GO_ON))
            index.set_fact("given", self.headers.fingerprint)
        self._probing = asyncio.Lock()
        self._facts = {name: index.fact(name) for name in ("etag", "multipart_etag")}

    @property
    def etags_are_md5(self) -> bool:
        return self._facts["etag"] == _KEPT

    # -- small
    async def small(self, result: Read, operation: Operation) -> Sent:
        """One PUT of a body in memory."""
        file, body = result.file, result.body
        headers = self.headers.of(file, result.md5)
        try:
            answered = await self.bucket.put(file.key, body, result.md5, headers, self.is_blocked)
        except SyncError as error:
            self.headers.blame(error)
            raise
        self.headers.taken = True
        operation.sent = len(body)
        if answered == result.digest:
            self._learn("etag", _KEPT)
            if not _REWRITTEN.search(file.key):
                return Sent(file, answered, answered, 0, result.checked_ns, result.changes)
        with settling():
            if answered != result.digest and (self._facts["etag"] not in (_KMS, _OPAQUE) or not answered):
                settled = self._settle_small(file.key, body, answered, result.digest)
                answered = await self._or_removed(file.key, result.digest, settled)
            await self._check_key(file.key)
        return Sent(file, answered, result.digest, 0, result.checked_ns, result.changes)

    async def _or_removed(self, key: str, md5: str, settled: Coroutine[Any, Any, str]) -> str:
        """The ETag that settling gives. An object found wrong is removed if its metadata says that it has
        this MD5; else it stays: it may be what was there before an upload that the store has not made."""
        try:
            return await settled
        except FileError as error:
            if error.code == "StoredWrongBytes" and md5:
                head = await self.bucket.head(key)
                vouched = head.metadata.get("md5chksum") if head is not None else None
                if vouched == base64.b64encode(bytes.fromhex(md5)).decode():
                    await self.bucket.delete(key)
            raise

    async def _settle_small(self, key: str, body: bytes, answered: str, digest: str) -> str:
        """The ETag is not the MD5: what has the store kept?"""
        kept = await self.bucket.read_range(key, 0, len(body))
        if kept != body:
            if answered == hashlib.md5(kept, usedforsecurity=False).hexdigest():
                self._learn("etag", _KEPT)  # of the wrong bytes: so no metadata is believed in its place
            raise FileError(
                "StoredWrongBytes",
                "the storage kept other bytes than it was sent",
            )
        head = await self.bucket.head(key)
        if head is None or head.size != len(body):
            raise FileError("StoredWrongBytes", "the storage shows an object of another size than was sent")
        if head.etag == digest:
            return digest
        self._learn("etag", _KMS if head.has_own_etag else _OPAQUE)
        return head.etag or answered

    async def is_known(self, work: Work, file: FileEntry, md5: bytes) -> bool:
        """Whether an object whose ETag does not fit holds the file's content all the same, as its own
        metadata says. Where the ETag may be the MD5, metadata that says otherwise is out of date."""
        head = await self.bucket.head(file.key)
        vouched = base64.b64encode(md5).decode()
        if head is None or head.size != file.size or head.metadata.get("md5chksum") != vouched:
            return False
        tag = head.etag or (work.object.etag if work.object else "")
        if etags.parts_of(tag) != 0 or head.has_own_etag or tag == md5.hex():
            return True
        async with self._probing:
            if self._facts["etag"] is None:
                return await self._probe(file, tag) == md5.hex()
        return self._facts["etag"] == _OPAQUE

    async def _probe(self, file: FileEntry, tag: str) -> str:
        """Reads an object once to find out whether this store's ETags are MD5s; returns its MD5."""
        digest = hashlib.md5(usedforsecurity=False)
        for offset in range(0, file.size, etags.PART_MIN):
            self.check()
            size = min(etags.PART_MIN, file.size - offset)
            await self._in_pool(digest.update, await self.bucket.read_range(file.key, offset, size))
        self._learn("etag", _KEPT if digest.hexdigest() == tag else _OPAQUE)
        return digest.hexdigest()

    def _learn(self, fact: str, value: str) -> None:
        known = self._facts[fact]
        if known != value and _ORDER.index(value) > _ORDER.index(known):
            self._facts[fact] = value
            self.index.set_fact(fact, value)

    async def _check_key(self, key: str) -> None:
        """FileError when the store lists the object that it was just given under another key."""
        if _REWRITTEN.search(key) and key not in await self.bucket.list_exact(key):
            raise FileError(
                "KeyChangedByStore",
                "the storage keeps this object under another name than it was given: rename the file, or use"
                " a storage that keeps names",
            )

    # -- large
    async def large(self, file: FileEntry, md5: bytes, operation: Operation) -> Sent:
        """A multipart upload, taken up again where an earlier one ended; tried anew when the file changes."""
        for attempt in range(1, TRIES + 1):
            operation.sent = 0
            as_opened = attempt == TRIES
            try:
                loop = asyncio.get_running_loop()
                checked_ns = time.time_ns()
                fd, info = await loop.run_in_executor(self.pool, self.tree.open_file, file.path)
            except OSError as error:
                raise (Vanished() if error.errno in VANISHED else describe(error)) from error
            try:
                now = entry_of(info, file)
                operation.size = now.size
                if now != file:
                    md5 = b""  # of what the file was when it was compared
                if not now.size:
                    return await self._empty(now, checked_ns, operation)
                return await self._large_open(fd, now, md5, checked_ns, operation, as_opened)
            except (Changed, EOFError):
                await self.abandon(file.key)
                md5 = b""
                await asyncio.sleep(0.05)
            finally:
                os.close(fd)
        raise Changed

    async def _empty(self, file: FileEntry, checked_ns: int, operation: Operation) -> Sent:
        """A large file that was emptied meanwhile: no upload has no parts."""
        await self.abandon(file.key)
        work = Work(file, None, None, NEW)
        md5 = hashlib.md5(b"", usedforsecurity=False)
        body = Read(work, Outcome.BODY, file, checked_ns, b"", md5.digest(), md5.hexdigest())
        return await self.small(body, operation)

    async def _large_open(
        self,
        fd: int,
        file: FileEntry,
        md5: bytes,
        checked_ns: int,
        operation: Operation,
        as_opened: bool,
    ) -> Sent:
        """`as_opened`: a file that is written to all the time is sent up to the size it was opened with."""
        if file.size > etags.OBJECT_MAX:
            raise FileError(
                "EntityTooLarge", "the file is larger than 5 TiB, the most that S3 keeps in an object"
            )
        part = etags.part_size(file.size)
        opaque = self._facts["multipart_etag"] == _OPAQUE or self._facts["etag"] in (_KMS, _OPAQUE)
        if opaque and not md5:
            # Where ETags tell nothing, the object's own metadata must: the MD5 has to be known beforehand.
            md5 = await self.plain_md5(fd, file)
        for fresh in (False, True):
            upload_id, kept = await self._begin(fd, file, part, md5, fresh=fresh)
            try:
                return await self._send_parts(
                    fd, file, part, upload_id, kept, checked_ns, operation, as_opened
                )
            except (FileError, RetryError) as error:
                # The store may have noticed it: a part was not what its MD5 said.
                if restat(fd, file) != file and (not as_opened or error.code in _OTHER_BYTES):
                    raise Changed from error
                if isinstance(error, RetryError) or fresh or not (kept or error.code in _UPLOAD_GONE):
                    raise
                # The store knows the upload no more, or will not replace a part: once more, from nothing.
                await self.abandon(file.key)
                operation.sent = 0
        raise AssertionError("unreachable")

    async def plain_md5(self, fd: int, file: FileEntry) -> bytes:
        found = await self._in_pool(etags.hash_file, fd, file.size, [0], self.halted_in_thread)
        return bytes.fromhex(found[0])

    async def _begin(
        self, fd: int, file: FileEntry, part: int, md5: bytes, *, fresh: bool
    ) -> tuple[str, dict[int, tuple[str, bytes]]]:
        """(upload id, {part number: (ETag, MD5)} that need not be sent again). An upload whose metadata has
        the MD5 of another content is not gone on with: what the metadata says is believed later."""
        before = self.index.upload(file.key)
        if before is not None:
            fits = before.upload_id and before.size == file.size and before.part_size == part and not fresh
            if fits and before.md5:
                fits = before.md5 == (md5.hex() or (await self.plain_md5(fd, file)).hex())
            parts = await multipart.list_parts(self.bucket, file.key, before.upload_id) if fits else None
            if parts is not None:
                kept = await self._fitting(fd, file, before, parts)
                return before.upload_id, kept
            await self.abandon(file.key)
        self.index.begin_upload(Unfinished(file.key, "", part, file.size))
        try:
            upload_id = await multipart.create_upload(self.bucket, file.key, self.headers.of(file, md5))
        except SyncError as error:
            self.headers.blame(error)
            raise
        self.headers.taken = True
        self.index.begin_upload(Unfinished(file.key, upload_id, part, file.size, md5.hex()))
        return upload_id, {}

    async def _fitting(
        self, fd: int, file: FileEntry, upload: Unfinished, parts: list[xml_messages.Part]
    ) -> dict[int, tuple[str, bytes]]:
        """Those of the parts that the store has whose content still is the file's."""
        kept: dict[int, tuple[str, bytes]] = {}
        remembered = self.index.parts(upload)
        for number, size, listed in parts:
            offset = (number - 1) * upload.part_size
            ours = remembered.get(number)
            wanted = ours.md5 if ours is not None and ours.etag == listed else listed
            if size != min(upload.part_size, file.size - offset) or etags.parts_of(wanted) != 0:
                continue
            self.check()
            digest = await self._in_pool(etags.md5_range, fd, offset, size)
            if digest.hex() == wanted:
                kept[number] = listed, digest
                self.progress.resumed(size)
        return kept

    async def abandon(self, key: str) -> None:
        """Ends an unfinished upload of ours, also one whose id we never learned."""
        before = self.index.upload(key)
        if before is None:
            return
        if before.upload_id:
            await multipart.abort_upload(self.bucket, key, before.upload_id)
        else:
            for upload in await multipart.list_uploads(self.bucket, key):
                if upload.key == key:
                    await multipart.abort_upload(self.bucket, key, upload.upload_id)
        self.index.end_upload(key)

    async def abandon_all(self) -> None:
        """Ends every upload of ours that no file goes on with: nothing unfinished stays in the bucket."""
        for upload in self.index.uploads():
            await self.abandon(upload.key)

    async def _send_parts(
        self,
        fd: int,
        file: FileEntry,
        part: int,
        upload_id: str,
        kept: dict[int, tuple[str, bytes]],
        checked_ns: int,
        operation: Operation,
        as_opened: bool,
    ) -> Sent:
        count = -(-file.size // part)
        digests = {number: digest for number, (_, digest) in kept.items()}
        answers = {number: tag for number, (tag, _) in kept.items()}
        operation.sent = sum(min(part, file.size - (n - 1) * part) for n in kept)
        numbers = iter([n for n in range(1, count + 1) if n not in kept])

        async def lane() -> None:
            for number in numbers:
                self.check()
                offset = (number - 1) * part
                size = min(part, file.size - offset)
                digests[number] = await self._in_pool(etags.md5_range, fd, offset, size)
                body = _Counted(fd, offset, size, operation)
                try:
                    answers[number] = await self._send_part(
                        body, file.key, upload_id, number, digests[number]
                    )
                except BaseException:
                    for _ in numbers:  # the other lanes finish their part and begin no more
                        pass
                    raise
                self.progress.sent(size)

        await run_all([lane() for _ in range(PARTS_IN_FLIGHT)])
        self.check()  # a stop came with the last parts: completing is one operation more
        changes = restat(fd, file) != file
        if changes and not (as_opened and await self._has_parts(fd, file, part, digests)):
            raise Changed
        ordered = [digests[n] for n in range(1, count + 1)]
        expected = etags.composite(ordered)
        # Checked one by one: an answer that is not the part's MD5 makes the whole be read back.
        exact = all(answers[n] == digests[n].hex() for n in digests)
        answered = await self._complete(
            file, upload_id, [(n, answers[n] or digests[n].hex()) for n in range(1, count + 1)], expected
        )
        with settling():
            settled = self._settle_large(fd, file, answered, expected, exact)
            upload = self.index.upload(file.key)
            answered = await self._or_removed(file.key, upload.md5 if upload else "", settled)
            self.index.end_upload(file.key)
            await self._check_key(file.key)
        return Sent(file, answered, expected, part, checked_ns, changes)

    async def _has_parts(self, fd: int, file: FileEntry, part: int, digests: dict[int, bytes]) -> bool:
        """Whether the file begins with what was sent, read once more: then it held just that in between."""
        for number, digest in digests.items():
            self.check()
            offset = (number - 1) * part
            size = min(part, file.size - offset)
            if await self._in_pool(etags.md5_range, fd, offset, size) != digest:
                return False
        return True

    async def _send_part(self, body: _Counted, key: str, upload_id: str, number: int, digest: bytes) -> str:
        for _ in range(TRIES):
            answered, has_own_etag = await multipart.upload_part(
                self.bucket, key, upload_id, number, body, digest
            )
            if answered == digest.hex() or self.halted():
                return answered
            if etags.parts_of(answered) != 0 or has_own_etag or self._facts["multipart_etag"] == _OPAQUE:
                break
        self.index.remember_part(Part(key, upload_id, number, answered, digest.hex()))
        return answered

    async def _complete(
        self, file: FileEntry, upload_id: str, parts: list[tuple[int, str]], expected: str
    ) -> str:
        try:
            return await multipart.complete_upload(self.bucket, file.key, upload_id, parts)
        except SyncError as error:
            # It may have worked all the same: an answer is lost or late, a later try finds no upload any
            # more, an error comes from behind the store. The object itself tells.
            if isinstance(error, Stopped) or not await self._is_there(file, expected):
                raise
            return expected

    async def _is_there(self, file: FileEntry, expected: str) -> bool:
        """Whether the store has an object of just these parts under the file's key."""
        try:
            with settling():
                head = await self.bucket.head(file.key)
        except SyncError:
            return False  # what the upload failed with says more
        return head is not None and (head.size, head.etag) == (file.size, expected)

    async def _settle_large(self, fd: int, file: FileEntry, answered: str, expected: str, exact: bool) -> str:
        """The ETag that the store will list. Reads the object back where nothing else proves its bytes."""
        if answered == expected and exact:
            self._learn("multipart_etag", _KEPT)
            return expected
        head = await self.bucket.head(file.key)
        if head is None or head.size != file.size:
            raise FileError("StoredWrongBytes", "the storage shows an object of another size than was sent")
        if head.etag == expected and exact:
            return expected
        if self._facts["multipart_etag"] != _OPAQUE:
            await self.read_back(fd, file)
            self._learn("multipart_etag", _OPAQUE)
        return head.etag

    async def read_back(self, fd: int, file: FileEntry) -> None:
        step = etags.PART_MIN
        for offset in range(0, file.size, step):
            self.check()
            size = min(step, file.size - offset)
            kept = await self.bucket.read_range(file.key, offset, size)
            if kept != await self._in_pool(os.pread, fd, size, offset):
                if restat(fd, file) != file:
                    raise Changed
                raise FileError("StoredWrongBytes", "the storage kept other bytes than it was sent")

    async def _in_pool(self, function: Callable[..., Any], *values: Any) -> Any:
        if await self.bucket.client.pause.wait():
            self.check()
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, function, *values)
        except InterruptedError:
            self.check()
            raise Stopped("told to stop") from None
        except OSError as error:
            raise describe(error) from error


class _Counted(FileSlice):
    """A part that tells its operation what has been sent of it; sent again, it is counted anew."""

    def __init__(self, fd: int, offset: int, size: int, operation: Operation) -> None:
        super().__init__(fd, offset, size)
        self._operation = operation
        self._counted = 0

    def chunks(self) -> Iterator[bytes]:
        self._operation.sent -= self._counted
        self._counted = 0
        for piece in super().chunks():
            yield piece
            self._counted += len(piece)
            self._operation.sent += len(piece)


async def run_all(coroutines: list[Coroutine[Any, Any, None]]) -> None:
    """Runs all to their end, then raises the gravest error of theirs: what is in flight always finishes."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise max(errors, key=_gravity)


def _gravity(error: BaseException) -> int:
    if not isinstance(error, (SyncError, EOFError)):
        return 5
    if isinstance(error, FatalError):
        return 4
    if isinstance(error, (Changed, EOFError)):
        return 3
    if isinstance(error, FileError):
        return 2
    return 1 if isinstance(error, RetryError) else 0

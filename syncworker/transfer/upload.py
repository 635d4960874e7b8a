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
import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

from syncworker.errors import FatalError, FileError, RetryError, Stopped, SyncError
from syncworker.folder.uploads_root import VANISHED, Tree
from syncworker.index import Index, Part, Row, Unfinished
from syncworker.jobs.progress import Operation, Progress, Sent
from syncworker.model import FileEntry
from syncworker.options.object_headers import ObjectHeaders
from syncworker.plan.compare import NEW
from syncworker.plan.events import Work
from syncworker.s3 import etag as etags
from syncworker.s3 import multipart, sums, xml_messages
from syncworker.s3.bucket import Bucket
from syncworker.s3.sums import CRC64NVME, MD5, SHA256, Algorithm
from syncworker.system.control import settling
from syncworker.transfer.part_sums import NOT_TO_GO_ON, REFUSALS, PartSums
from syncworker.transfer.readers import TRIES, Changed, Outcome, Read, describe, entry_of, restat
from syncworker.wire.body import UNSIGNED, FileSlice

T = TypeVar("T")

PARTS_IN_FLIGHT = 2
ONCE_BYTES = 8 << 20  # a part up to this size is read once, and held until it is sent
_REWRITTEN = re.compile("[\x00-\x1f\x7f\\\\]|\u201b|[ .]$|[ .]/")  # seen rewritten by SeaweedFS and rclone
_OTHER_BYTES = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody"})
# What a part or its completion is refused with when the store wants other sums, or an ETag came changed; the
# last is ours: it said that it checks them, and does not.
_SUM_REFUSED = REFUSALS | {
    "InvalidRequest",
    "InvalidArgument",
    "InvalidDigest",
    "InvalidPart",
    "NotImplemented",
    "StoredWrongBytes",
}
_UPLOAD_GONE = frozenset({"NoSuchUpload", "NotFound", "NoSuchKey"})
_KEPT, _KMS, _OPAQUE = "md5", "kms", "opaque"  # each may follow on those before it, never the reverse
_ORDER = (None, _KEPT, _KMS, _OPAQUE)
_SIGNED = "signed"


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


class _Upload(NamedTuple):
    """A multipart upload that is open, and the sum of its parts."""

    id: str
    algorithm: Algorithm


class _SentPart(NamedTuple):
    """A part that the store has. `is_word`: the MD5 is the ETag of the store, which checked the bytes by
    another sum; else it was made of the file. `crc`: by the upload's algorithm, b"" if that is none."""

    etag: str
    md5: bytes
    crc: bytes = b""
    is_word: bool = False


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
        self.part_sums = PartSums(bucket, index)
        self._probing = asyncio.Lock()
        self._facts = {name: index.fact(name) for name in ("etag", "multipart_etag", "payload")}
        self._payload = self._choose_payload()
        self._unsigned_taken = False  # the store takes a body whose SHA-256 is not signed

    @property
    def etags_are_md5(self) -> bool:
        return self._facts["etag"] == _KEPT

    @property
    def _etags_are_opaque(self) -> bool:
        return self._facts["multipart_etag"] == _OPAQUE or self._facts["etag"] in (_KMS, _OPAQUE)

    # -- small
    async def small(self, result: Read, operation: Operation) -> Sent:
        """One PUT of a body in memory."""
        file, body = result.file, result.body
        headers = self.headers.of(file, result.md5)
        payload = self._payload  # of the signature
        try:
            answered = await self.bucket.put(file.key, body, result.md5, headers, self.is_blocked, payload)
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

    def _choose_payload(self) -> str | None:
        """The body's SHA-256 need not be signed where the answer's ETag proves the body."""
        return UNSIGNED if self._facts["etag"] == _KEPT and self._facts["payload"] is None else None

    def _signs_instead(self, error: SyncError) -> bool:
        """Whether a PUT may have been refused because the signature had no SHA-256 of the body: some stores
        want it. Then it is signed from now on."""
        if self._unsigned_taken or isinstance(error, RetryError | Stopped):
            return False
        self._facts["payload"], self._payload = _SIGNED, None
        return True

    async def _or_removed(self, key: str, md5: str, settled: Coroutine[Any, Any, T]) -> T:
        """What settling gives. An object found wrong is removed if its metadata says that it has
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
            self._payload = self._choose_payload()

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
        if self._etags_are_opaque and not md5:
            # Where ETags tell nothing, the object's own metadata must: the MD5 has to be known beforehand.
            md5 = await self.plain_md5(fd, file)
        for fresh in (False, True):
            upload, kept = await self._begin(fd, file, part, md5, fresh=fresh)
            try:
                return await self._send_parts(fd, file, part, upload, kept, checked_ns, operation, as_opened)
            except (FileError, RetryError) as error:
                # The store may have noticed it: a part was not what its MD5 said.
                if restat(fd, file) != file and (not as_opened or error.code in _OTHER_BYTES):
                    raise Changed from error
                refused = upload.algorithm is not MD5 and error.code in _SUM_REFUSED
                again = kept or error.code in _UPLOAD_GONE
                if fresh or not (refused or (again and isinstance(error, FileError))):
                    raise
                if refused:
                    self.part_sums.doubt()
                # The store knows the upload no more, will not replace a part, or refuses the sums: once more,
                # from nothing.
                await self.abandon(file.key)
                operation.sent = 0
        raise AssertionError("unreachable")

    async def plain_md5(self, fd: int, file: FileEntry) -> bytes:
        found = await self._in_pool(etags.hash_file, fd, file.size, [0], self.halted_in_thread)
        return bytes.fromhex(found[0])

    async def _begin(
        self, fd: int, file: FileEntry, part: int, md5: bytes, *, fresh: bool
    ) -> tuple[_Upload, dict[int, _SentPart]]:
        """An open upload, and its parts that need not be sent again. An upload whose metadata has the MD5 of
        another content is not gone on with: what the metadata says is believed later."""
        before = self.index.upload(file.key)
        if before is not None:
            fits = before.upload_id and before.size == file.size and before.part_size == part and not fresh
            if fits and before.md5:
                fits = before.md5 == (md5.hex() or (await self.plain_md5(fd, file)).hex())
            parts = await multipart.list_parts(self.bucket, file.key, before.upload_id) if fits else None
            algorithm = await self._algorithm_of(file, parts) if parts is not None else None
            if parts is not None and algorithm is not None:
                upload = _Upload(before.upload_id, algorithm)
                return upload, await self._fitting(fd, file, before, algorithm, parts)
            await self.abandon(file.key)
        return await self._create(file, part, md5), {}

    async def _algorithm_of(self, file: FileEntry, parts: list[xml_messages.Part]) -> Algorithm | None:
        """By which sum an upload goes on. One that was begun with a CRC named, as its parts say, takes no
        other. None: it may be such a one and has no parts, or that sum cannot be made here."""
        named = {part.algorithm for part in parts}
        if named - {""}:
            algorithm = sums.BY_NAME[max(named)]
            return algorithm if len(named) == 1 and sums.loads(algorithm) else None
        algorithm = await self.part_sums.choose(file.key, file.size, may_ask=False)
        if not algorithm.is_crc:
            return algorithm
        return MD5 if parts else None

    async def _create(self, file: FileEntry, part: int, md5: bytes) -> _Upload:
        """Begins an upload, named by the sum of its parts."""
        while True:
            algorithm = MD5
            if not self._etags_are_opaque:  # else the MD5s are needed all the same
                algorithm = await self.part_sums.choose(file.key, file.size)
            await self.abandon(file.key)  # what asking left, when it was broken off
            self.index.begin_upload(Unfinished(file.key, "", part, file.size))
            headers = self.headers.of(file, md5) | algorithm.naming
            try:
                begun = await multipart.create_upload(self.bucket, file.key, headers)
            except SyncError as error:
                self.headers.blame(error)
                raise
            self.headers.taken = True
            self.index.begin_upload(Unfinished(file.key, begun.upload_id, part, file.size, md5.hex()))
            if self.part_sums.is_of(begun.server):
                return _Upload(begun.upload_id, algorithm)
            await self.abandon(file.key)

    async def _fitting(
        self,
        fd: int,
        file: FileEntry,
        upload: Unfinished,
        algorithm: Algorithm,
        parts: list[xml_messages.Part],
    ) -> dict[int, _SentPart]:
        """Those of the parts that the store has whose content still is the file's: by the checksum that the
        store lists, or by MD5."""
        kept: dict[int, _SentPart] = {}
        remembered = self.index.parts(upload)
        for listed in parts:
            offset = (listed.number - 1) * upload.part_size
            ours = remembered.get(listed.number)
            wanted = ours.md5 if ours is not None and ours.etag == listed.etag else listed.etag
            is_whole = listed.size == min(upload.part_size, file.size - offset)
            if not is_whole or etags.parts_of(wanted) != 0:
                continue
            self.check()
            by_checksum = algorithm.is_crc and wanted == listed.etag and not self._etags_are_opaque
            made = [] if by_checksum else [MD5]
            made += [algorithm] if algorithm.is_crc else []
            _, digests = await self._in_pool(sums.of_range, fd, offset, listed.size, made)
            md5 = digests.get(MD5, bytes.fromhex(wanted))
            crc = digests[algorithm] if algorithm.is_crc else b""
            if md5.hex() == wanted and (not crc or sums.encode(crc) == listed.checksum):
                kept[listed.number] = _SentPart(listed.etag, md5, crc, MD5 not in digests)
                self.progress.resumed(listed.size)
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
        upload: _Upload,
        kept: dict[int, _SentPart],
        checked_ns: int,
        operation: Operation,
        as_opened: bool,
    ) -> Sent:
        count = -(-file.size // part)
        pieces = {n: ((n - 1) * part, min(part, file.size - (n - 1) * part)) for n in range(1, count + 1)}
        sent = dict(kept)
        operation.sent = sum(pieces[number][1] for number in kept)
        numbers = iter([number for number in pieces if number not in kept])

        async def lane() -> None:
            for number in numbers:
                self.check()
                try:
                    sent[number] = await self._send_part(
                        fd, file.key, upload, number, *pieces[number], operation
                    )
                except BaseException:
                    for _ in numbers:  # the other lanes finish their part and begin no more
                        pass
                    raise
                self.progress.sent(pieces[number][1])

        await run_all([lane() for _ in range(PARTS_IN_FLIGHT)])
        self.check()  # a stop came with the last parts: completing is one operation more
        changes = restat(fd, file) != file
        if changes and not (as_opened and await self._has_parts(fd, pieces, sent)):
            raise Changed
        parts = [sent[number] for number in pieces]
        answered = await self._complete(file, upload, parts)
        with settling():
            settled = self._settle_large(fd, file, pieces, upload, parts, answered)
            begun = self.index.upload(file.key)
            etag, expected = await self._or_removed(file.key, begun.md5 if begun else "", settled)
            self.index.end_upload(file.key)
            await self._check_key(file.key)
        return Sent(file, etag, expected, part, checked_ns, changes)

    async def _has_parts(
        self, fd: int, pieces: dict[int, tuple[int, int]], sent: dict[int, _SentPart]
    ) -> bool:
        """Whether the file begins with what was sent, read once more: then it held just that in between."""
        for number, piece in pieces.items():
            self.check()
            if await self._in_pool(etags.md5_range, fd, *piece) != sent[number].md5:
                return False
        return True

    async def _send_part(
        self,
        fd: int,
        key: str,
        upload: _Upload,
        number: int,
        offset: int,
        size: int,
        operation: Operation,
    ) -> _SentPart:
        """Sends a part with its sum, and its MD5 as long as no ETag of the store was held against one."""
        by_md5 = not self.part_sums.is_held or self._etags_are_opaque
        made = {upload.algorithm, MD5} if by_md5 else {upload.algorithm}
        read = functools.partial(sums.of_range, fd, offset, size, made, keep=size <= ONCE_BYTES)
        data, digests = await self._in_pool(read)
        signed = digests[SHA256].hex() if SHA256 in digests else UNSIGNED
        body = _Counted(fd, offset, size, operation, data, signed)
        crc = digests[upload.algorithm] if upload.algorithm.is_crc else b""
        answered = ""
        for _ in range(TRIES):
            stored = await multipart.upload_part(self.bucket, key, upload.id, number, body, digests)
            answered = stored.etag
            is_md5 = etags.parts_of(answered) == 0 and not stored.has_own_etag
            if MD5 not in digests:
                if is_md5 and stored.checksum in ("", sums.encode(crc)):
                    return _SentPart(answered, bytes.fromhex(answered), crc, True)
                md5 = await self._in_pool(etags.md5_range, fd, offset, size)
                digests = {**digests, MD5: md5}
            if answered == digests[MD5].hex():
                by_sum = upload.algorithm is not MD5 and is_md5
                self.part_sums.is_held |= by_sum and not self.part_sums.is_doubted
                return _SentPart(answered, digests[MD5], crc)
            if self.halted():
                return _SentPart(answered, digests[MD5], crc)
            if not is_md5 or self._facts["multipart_etag"] == _OPAQUE:
                break
            self.part_sums.doubt()
        self.index.remember_part(Part(key, upload.id, number, answered, digests[MD5].hex()))
        return _SentPart(answered, digests[MD5], crc)

    async def _complete(
        self, file: FileEntry, upload: _Upload, parts: list[_SentPart]
    ) -> xml_messages.Completed:
        expected = etags.composite([part.md5 for part in parts])
        algorithm = upload.algorithm.name
        names = [
            xml_messages.PartName(n, part.etag or part.md5.hex(), algorithm, sums.encode(part.crc))
            for n, part in enumerate(parts, 1)
        ]
        try:
            return await multipart.complete_upload(self.bucket, file.key, upload.id, names)
        except SyncError as error:
            # It may have worked all the same: an answer is lost or late, a later try finds no upload any
            # more, an error comes from behind the store. The object itself tells.
            if isinstance(error, Stopped) or not await self._is_there(file, expected):
                raise
            return xml_messages.Completed(expected)

    async def _is_there(self, file: FileEntry, expected: str) -> bool:
        """Whether the store has an object of just these parts under the file's key."""
        try:
            with settling():
                head = await self.bucket.head(file.key)
        except SyncError:
            return False  # what the upload failed with says more
        return head is not None and (head.size, head.etag) == (file.size, expected)

    async def _settle_large(
        self,
        fd: int,
        file: FileEntry,
        pieces: dict[int, tuple[int, int]],
        upload: _Upload,
        parts: list[_SentPart],
        answered: xml_messages.Completed,
    ) -> tuple[str, str]:
        """The ETag that the store will list, and the one that is to be expected of these parts. Reads the
        object back where nothing else proves its bytes."""
        expected = etags.composite([part.md5 for part in parts])
        crc64 = ""
        if upload.algorithm is CRC64NVME:
            sizes = [size for _, size in pieces.values()]
            crc64 = sums.encode(sums.combine([part.crc for part in parts], sizes))
        # Checked one by one: an answer that is not the part's MD5 makes the whole be read back.
        exact = all(part.etag == part.md5.hex() for part in parts)
        by_word = any(part.is_word for part in parts)

        def is_believed(whole: str) -> bool:
            """Whether the words may stand: by the sum of the whole, or where there is none, undoubted."""
            return whole == crc64 if crc64 else not self.part_sums.is_doubted

        if exact and answered.etag == expected and (not by_word or is_believed(answered.crc64)):
            self._learn("multipart_etag", _KEPT)
            return expected, expected
        head = await self.bucket.head(file.key, checksum=bool(crc64))
        if head is None or head.size != file.size:
            raise FileError("StoredWrongBytes", "the storage shows an object of another size than was sent")
        if by_word and not (is_believed(head.crc64) and head.etag == expected):
            # The store says of the whole something else than of the parts, or nothing: held by MD5 after all.
            self.part_sums.doubt()
            md5s = [await self._in_pool(etags.md5_range, fd, *piece) for piece in pieces.values()]
            expected = etags.composite(md5s)
            exact = all(part.etag == md5.hex() for part, md5 in zip(parts, md5s, strict=True))
        if head.etag == expected and exact:
            return expected, expected
        if self._facts["multipart_etag"] != _OPAQUE:
            if not crc64 or head.crc64 != crc64:
                await self.read_back(fd, file)
            self._learn("multipart_etag", _OPAQUE)
        return head.etag, expected

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

    def __init__(
        self, fd: int, offset: int, size: int, operation: Operation, data: bytes | None, sha256: str
    ) -> None:
        super().__init__(fd, offset, size, data, sha256)
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

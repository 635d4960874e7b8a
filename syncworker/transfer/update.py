"""Updates objects whose content is the file's, but whose headers, tags or class are not as requested.

An object is copied onto itself by CopyObject with `REPLACE`, if it still has the listed ETag; above 5 GiB in
parts of the upload's size. A copy resets headers that it does not name, so it has all headers of a PUT
(`of_copy`).

- HEAD comes first: the object must be the one that was compared, even if the store ignores the condition
  (moto and rclone do), and HEAD shows the headers that the copy must keep.
- The ETag may change (AWS and moto turn one of a multipart upload into a plain one). It is accepted if it is
  a hash of the file; else the object is read back and compared.
- HEAD after the first copy of a job, and after each that removes a header, shows whether the store replaces
  headers when it copies.
- If the object cannot be copied, the file is sent again: an archived object, a store without copies, a
  refused condition.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import NamedTuple

from syncworker.errors import FileError
from syncworker.index.records import IndexRow, PendingUpload
from syncworker.model import FileEntry
from syncworker.options.object_headers import Given
from syncworker.plan.compare import Candidate
from syncworker.s3 import etag as etags
from syncworker.s3 import multipart
from syncworker.s3.bucket import GIVEN, Head
from syncworker.s3.xml_documents import PartName
from syncworker.system.control import settling
from syncworker.system.gather import side_by_side
from syncworker.transfer.part_sums import NOT_TO_GO_ON
from syncworker.transfer.readers import restat
from syncworker.transfer.upload import Sender
from syncworker.transfer.upload_parts import PARTS_IN_FLIGHT, PartSender

COPY_MAX = 5 << 30  # Amazon S3 API Reference, CopyObject
_NO_COPIES = frozenset({"NotImplemented", "MethodNotAllowed"})
_CLASS = "x-amz-storage-class"


class _Copy(NamedTuple):
    """`etag`: the condition; `before`: HEAD before the copy; `class_before`: the class that we gave it."""

    file: FileEntry
    row: IndexRow
    etag: str
    headers: dict[str, str]
    before: Head
    class_before: str


class Updater:
    """Updates objects of one bucket. `copy_max`: larger ones are copied by parts."""

    def __init__(self, sender: Sender, parts: PartSender, copy_max: int = COPY_MAX) -> None:
        self.sender, self.uploads = sender, parts.uploads
        self.bucket, self.index, self.headers = sender.bucket, sender.index, sender.headers
        self.copy_max = copy_max
        self._can_copy: bool | None = None
        self._keeps_bytes = False  # seen by reading back, because the ETag proves nothing

    async def update(self, work: Candidate) -> IndexRow | None:
        """Updates the object and returns its index row, or None if the file must be sent again. Raises the
        errors of CreateMultipartUpload and of reading back."""
        if self._can_copy is False:
            return None
        try:
            copy = await self._prepared(work)
            if copy is None:
                return None
            by_parts = copy.file.size > self.copy_max
            answered = await (self._by_parts(copy) if by_parts else self._whole(copy))
        except FileError as error:
            if error.code in _NO_COPIES:
                self._can_copy = False
            return None
        takes_away = any(name not in copy.headers for name in _visible(copy.before))
        if self._can_copy and not takes_away and answered and answered in (copy.row.etag, copy.row.digest):
            return _row(copy.row, answered)
        with settling():
            return await self._verify_copy(copy)

    async def _prepared(self, work: Candidate) -> _Copy | None:
        file, obj, row = work.file, work.object, work.row
        assert obj is not None
        assert row is not None
        head = await self.bucket.head(file.key)
        if head is None or head.size != file.size or not head.etag or (obj.etag and head.etag != obj.etag):
            return None
        ours = row.digest or row.etag
        is_md5 = etags.parts_of(ours) == 0 and row.part_size == 0
        md5 = base64.b64encode(bytes.fromhex(ours)).decode() if is_md5 else _md5_of(head)
        given = self.index.given(file.key)
        headers = self.headers.of_copy(file, md5, given, head.given)
        return _Copy(file, row, head.etag, headers, head, Given.of(given).storage_class)

    async def _whole(self, copy: _Copy) -> str:
        headers = {"x-amz-metadata-directive": "REPLACE", **copy.headers}
        return await self.bucket.copy(copy.file.key, copy.etag, headers)

    async def _by_parts(self, copy: _Copy) -> str:
        key, size = copy.file.key, copy.file.size
        part = copy.row.part_size or etags.part_size(size)
        headers = {n: v for n, v in copy.headers.items() if n != "x-amz-tagging-directive"}
        self.index.begin_upload(PendingUpload(key, "", NOT_TO_GO_ON, size))  # aborted later, if we die
        upload_id, _ = await multipart.create_upload(self.bucket, key, headers)
        self.index.begin_upload(PendingUpload(key, upload_id, NOT_TO_GO_ON, size))
        answers: dict[int, str] = {}

        async def one(number: int) -> None:
            self.sender.check()
            first = (number - 1) * part
            last = min(first + part, size) - 1
            query = {"partNumber": str(number), "uploadId": upload_id}
            where = {"x-amz-copy-source-range": f"bytes={first}-{last}"}
            answers[number] = await self.bucket.copy(key, copy.etag, where, query)

        numbers = range(1, -(-size // part) + 1)
        try:
            await side_by_side(one, numbers, 2 * PARTS_IN_FLIGHT)
            self.sender.check()
            answered = await multipart.complete_upload(
                self.bucket, key, upload_id, [PartName(n, answers[n]) for n in numbers]
            )
        except FileError:
            await self.uploads.abandon(key)
            raise
        self.index.end_upload(key)
        return answered.etag

    async def _verify_copy(self, copy: _Copy) -> IndexRow | None:
        """Returns the row if the object has the file's bytes and, judged by HEAD, the headers; otherwise
        None."""
        file, row = copy.file, copy.row
        head = await self.bucket.head(file.key)
        if head is None or head.size != file.size or not head.etag:
            return None
        if _is_stale(copy, head):
            self._can_copy = False  # the store copies, but keeps the old headers
            return None
        self._can_copy = True
        same = _row(row, head.etag)
        if head.etag in (row.etag, row.digest) or (self._keeps_bytes and etags.parts_of(head.etag) != 0):
            return same
        loop = asyncio.get_running_loop()
        try:
            fd, _ = await loop.run_in_executor(self.sender.pool, self.sender.tree.open_file, file.path)
        except OSError:
            return None
        try:
            if restat(fd, file) != file:
                return None
            if etags.parts_of(head.etag) == 0 and not head.has_own_etag:
                plain = await self.sender.plain_md5(fd, file)
                if plain.hex() == head.etag and restat(fd, file) == file:
                    return row._replace(etag=head.etag, digest="", part_size=0, modified="")
            await self.sender.read_back(fd, file)
            self._keeps_bytes = True
            return same
        except FileError:
            return None
        finally:
            os.close(fd)


def _row(row: IndexRow, tag: str) -> IndexRow:
    """Returns the row of the same file, for an object with its content and this ETag."""
    ours = row.digest or row.etag
    return row._replace(etag=tag, digest="" if tag == ours else ours, modified="")


def _is_stale(copy: _Copy, head: Head) -> bool:
    """Whether a header that should change or disappear is as before, or no header has changed. (Some stores
    drop a new header, and none shows the class if it is the default.)"""
    before, now = _visible(copy.before), _visible(head)
    names = {*before, *(name for name in copy.headers if name in GIVEN or name.startswith("x-amz-meta-"))}
    if _CLASS not in before and copy.headers.get(_CLASS, "") in ("STANDARD", copy.class_before):
        names.discard(_CLASS)
    changed = [name for name in names if copy.headers.get(name, "") != before.get(name, "")]
    kept = [name for name in changed if now.get(name, "") == before.get(name, "")]
    return any(before.get(name) for name in kept) or (bool(changed) and kept == changed)


def _visible(head: Head) -> dict[str, str]:
    return {f"x-amz-meta-{name}": value for name, value in head.metadata.items()} | dict(head.given)


def _md5_of(head: Head) -> str:
    """Returns the MD5 in the object's metadata, "" if it is not a valid one."""
    vouched = head.metadata.get("md5chksum", "")
    try:
        return vouched if len(base64.b64decode(vouched, validate=True)) == 16 else ""
    except ValueError:
        return ""

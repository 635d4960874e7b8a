"""Begins multipart uploads, continues them after a crash, and aborts those that are not needed.

The intent, then the upload's id, is written to the index before the first part is sent. A later run lists the
upload's parts, and keeps those whose content is still the file's.
"""

from __future__ import annotations

from typing import NamedTuple

from syncworker.errors import SyncError
from syncworker.index.records import PendingUpload
from syncworker.model import FileEntry
from syncworker.s3 import etag as etags
from syncworker.s3 import multipart, sums, xml_messages
from syncworker.s3.sums import MD5, Algorithm
from syncworker.transfer.upload import Sender


class Upload(NamedTuple):
    """An open multipart upload, and the checksum algorithm of its parts."""

    id: str
    algorithm: Algorithm


class SentPart(NamedTuple):
    """A part that the store has. `is_word`: the MD5 is the store's ETag, and the store checked the bytes by
    another sum; otherwise we computed it from the file. `crc`: b"" if the upload's algorithm is not a CRC."""

    etag: str
    md5: bytes
    crc: bytes = b""
    is_word: bool = False


class OpenUploads:
    """The open uploads of one sender."""

    def __init__(self, sender: Sender) -> None:
        self.sender, self.bucket, self.index = sender, sender.bucket, sender.index

    async def begin(
        self, fd: int, file: FileEntry, part: int, md5: bytes, *, fresh: bool
    ) -> tuple[Upload, dict[int, SentPart]]:
        """Returns an open upload, and its parts that need not be sent again. An upload whose metadata has the
        MD5 of other content is not continued, because a later check may rely on the metadata."""
        before = self.index.upload(file.key)
        if before is not None:
            fits = before.upload_id and before.size == file.size and before.part_size == part and not fresh
            if fits and before.md5:
                fits = before.md5 == (md5.hex() or (await self.sender.plain_md5(fd, file)).hex())
            parts = await multipart.list_parts(self.bucket, file.key, before.upload_id) if fits else None
            algorithm = await self._algorithm_of(file, parts) if parts is not None else None
            if parts is not None and algorithm is not None:
                upload = Upload(before.upload_id, algorithm)
                return upload, await self._fitting(fd, file, before, algorithm, parts)
            await self.abandon(file.key)
        return await self._create(file, part, md5), {}

    async def _algorithm_of(self, file: FileEntry, parts: list[xml_messages.Part]) -> Algorithm | None:
        """Returns the sum for continuing an upload. An upload that was begun with a CRC, as its parts show,
        accepts no other. None: it may be such an upload without parts, or we cannot compute that sum."""
        named = {part.algorithm for part in parts}
        if named - {""}:
            algorithm = sums.BY_NAME[max(named)]
            return algorithm if len(named) == 1 and sums.loads(algorithm) else None
        algorithm = await self.sender.part_sums.choose(file.key, file.size, may_ask=False)
        if not algorithm.is_crc:
            return algorithm
        return MD5 if parts else None

    async def _create(self, file: FileEntry, part: int, md5: bytes) -> Upload:
        """Begins an upload, and declares the checksum algorithm of its parts."""
        while True:
            algorithm = MD5
            if not self.sender.etags_are_opaque:  # else the MD5s are needed anyway
                algorithm = await self.sender.part_sums.choose(file.key, file.size)
            await self.abandon(file.key)  # a test upload that was interrupted
            self.index.begin_upload(PendingUpload(file.key, "", part, file.size))
            headers = self.sender.headers.of(file, md5) | algorithm.naming
            try:
                begun = await multipart.create_upload(self.bucket, file.key, headers)
            except SyncError as error:
                self.sender.headers.blame(error)
                raise
            self.sender.headers.taken = True
            self.index.begin_upload(PendingUpload(file.key, begun.upload_id, part, file.size, md5.hex()))
            if self.sender.part_sums.is_of(begun.server):
                return Upload(begun.upload_id, algorithm)
            await self.abandon(file.key)

    async def _fitting(
        self,
        fd: int,
        file: FileEntry,
        upload: PendingUpload,
        algorithm: Algorithm,
        parts: list[xml_messages.Part],
    ) -> dict[int, SentPart]:
        """Returns the store's parts whose content is still the file's, compared by the listed checksum or by
        MD5."""
        kept: dict[int, SentPart] = {}
        remembered = self.index.parts(upload)
        for listed in parts:
            offset = (listed.number - 1) * upload.part_size
            ours = remembered.get(listed.number)
            wanted = ours.md5 if ours is not None and ours.etag == listed.etag else listed.etag
            is_whole = listed.size == min(upload.part_size, file.size - offset)
            if not is_whole or etags.parts_of(wanted) != 0:
                continue
            self.sender.check()
            by_checksum = algorithm.is_crc and wanted == listed.etag and not self.sender.etags_are_opaque
            made = [] if by_checksum else [MD5]
            made += [algorithm] if algorithm.is_crc else []
            digests = await self.sender.in_pool(sums.of_range, fd, offset, listed.size, made)
            md5 = digests.get(MD5, bytes.fromhex(wanted))
            crc = digests[algorithm] if algorithm.is_crc else b""
            if md5.hex() == wanted and (not crc or sums.encode(crc) == listed.checksum):
                kept[listed.number] = SentPart(listed.etag, md5, crc, MD5 not in digests)
                self.sender.progress.resumed(listed.size)
        return kept

    async def abandon(self, key: str) -> None:
        """Aborts our unfinished upload of this key, even if we never learned its id."""
        before = self.index.upload(key)
        if before is None:
            return
        ids = [before.upload_id]
        if not before.upload_id:
            uploads = await multipart.list_uploads(self.bucket, key)
            ids = [upload.upload_id for upload in uploads if upload.key == key]
        for upload_id in ids:
            await multipart.abort_upload(self.bucket, key, upload_id)
        self.index.end_upload(key)

    async def abandon_all(self) -> None:
        """Aborts every unfinished upload of ours, so that none stays in the bucket."""
        for upload in self.index.uploads():
            await self.abandon(upload.key)

"""`python -m benchmarks.bare_parts URL ACCESS_KEY SECRET_KEY BUCKET SUM FILE…`: large files in parts, and
nothing else. Each part is hashed (`md5`, `sha256` or `crc64nvme`, as the storage checks it) and sent by
sendfile(2), a part at a time in each of eight threads; of an answer only the status and the ETag are looked
at. There is no listing, no index, no status, no retry and no time limit: what any client needs at least that
sends these bytes with this sum.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from types import MappingProxyType
from urllib.parse import urlsplit

from syncworker.s3.signing import EMPTY_SHA256, Keys, Signer, encode_path, encode_query

PART = 8 << 20
_THREADS = 8
_READ = 1 << 20
_MD5, _CRC = "md5", "crc64nvme"


class Sender:
    """Requests to one bucket; each thread has a connection of its own."""

    def __init__(self, url: str, keys: Keys, bucket: str, checksum: str) -> None:
        self._host = urlsplit(url).netloc
        self._keys, self._bucket, self._checksum = keys, bucket, checksum
        self._signer = Signer("us-east-1")
        self._own = local()

    def begin(self, key: str) -> str:
        headers = {}
        if self._checksum == _CRC:
            headers = {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "FULL_OBJECT"}
        answer, _ = self._call("POST", key, {"uploads": ""}, headers)
        return re.findall(r"<UploadId>(.*?)</UploadId>", answer)[0]

    def part(self, path: Path, upload_id: str, number: int) -> str:
        """Returns the ETag."""
        fd = os.open(path, os.O_RDONLY)
        try:
            at = (number - 1) * PART
            size = min(PART, os.fstat(fd).st_size - at)
            payload, headers = self._sum(fd, at, size)
            query = {"partNumber": str(number), "uploadId": upload_id}
            headers["content-length"] = str(size)
            _, etag = self._call("PUT", path.name, query, headers, payload, (fd, at, size))
            return etag
        finally:
            os.close(fd)

    def complete(self, key: str, upload_id: str, etags: list[str]) -> None:
        rows = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
        headers = {"content-length": str(len(body))}
        payload = hashlib.sha256(body).hexdigest()
        self._call("POST", key, {"uploadId": upload_id}, headers, payload, body)

    def page(self, token: str | None = None, after: str | None = None) -> str:
        """Returns the answer to ListObjectsV2: what follows this token, or this key."""
        query = {"list-type": "2", "encoding-type": "url", "max-keys": "1000"}
        if token is not None:
            query["continuation-token"] = token
        if after is not None:
            query["start-after"] = after
        return self._call("GET", "", query)[0]

    def _sum(self, fd: int, at: int, size: int) -> tuple[str, dict[str, str]]:
        """Returns the signed value for the body, and the headers."""
        if self._checksum == _CRC:
            from awscrt.checksums import crc64nvme

            crc = 0
            for piece in self._pieces(fd, at, size):
                crc = crc64nvme(piece, crc)
            return "UNSIGNED-PAYLOAD", {"x-amz-checksum-crc64nvme": b64encode(crc.to_bytes(8)).decode()}
        found = hashlib.new(self._checksum, usedforsecurity=False)
        for piece in self._pieces(fd, at, size):
            found.update(piece)
        if self._checksum == _MD5:
            return "UNSIGNED-PAYLOAD", {"content-md5": b64encode(found.digest()).decode()}
        return found.hexdigest(), {}

    def _pieces(self, fd: int, at: int, size: int) -> Iterator[memoryview]:
        buffer = self._own.__dict__.setdefault("buffer", bytearray(_READ))
        end = at + size
        while at < end:
            view = memoryview(buffer)[: min(_READ, end - at)]
            at += os.preadv(fd, [view], at)
            yield view

    def _call(
        self,
        method: str,
        key: str,
        query: dict[str, str],
        headers: Mapping[str, str] = MappingProxyType({}),
        payload: str = EMPTY_SHA256,
        body: bytes | tuple[int, int, int] = b"",
    ) -> tuple[str, str]:
        """Sends a request; returns the body and the ETag of the answer."""
        path = encode_path(f"/{self._bucket}/{key}".removesuffix("/"))
        asked = encode_query(query)
        sent_headers = {"host": self._host, **headers}
        lines = self._signer.sign(self._keys, method, path, asked, sent_headers, payload)
        connection = self._own.__dict__.get("connection")
        if connection is None:
            connection = self._own.connection = http.client.HTTPConnection(self._host)
            connection.connect()
        sock = connection.sock
        sock.sendall(f"{method} {path}?{asked} HTTP/1.1\r\n{lines}\r\n".encode())
        if isinstance(body, bytes):
            sock.sendall(body)
        else:
            fd, at, left = body
            while left:
                sent = os.sendfile(sock.fileno(), fd, at, left)
                at, left = at + sent, left - sent
        response = http.client.HTTPResponse(sock, method=method)
        response.begin()
        answer = response.read().decode()
        assert response.status == 200, answer
        return answer, response.headers.get("ETag", "")


def main() -> None:
    url, access_key, secret_key, bucket, checksum, *names = sys.argv[1:]
    sender = Sender(url, Keys(access_key, secret_key), bucket, checksum)
    paths = [Path(name) for name in names]
    with ThreadPoolExecutor(_THREADS) as pool:
        ids = list(pool.map(lambda path: sender.begin(path.name), paths))
        counts = [-(-path.stat().st_size // PART) for path in paths]
        parts = [
            [pool.submit(sender.part, path, upload, number) for number in range(1, count + 1)]
            for path, upload, count in zip(paths, ids, counts, strict=True)
        ]
        for path, upload, etags in zip(paths, ids, parts, strict=True):
            sender.complete(path.name, upload, [etag.result() for etag in etags])


if __name__ == "__main__":
    main()

"""`python -m benchmarks.bare_files URL ACCESS_KEY SECRET_KEY BUCKET FOLDER`: small files, and nothing else.
Each file is read, hashed with MD5 and sent by one signed PUT, 32 at the same time in one event loop; of an
answer, only the status and the ETag are looked at; what is answered with 500 or more is sent again. There
is no listing, no index, no status and no time limit: what a client in this language needs at least to send
these files as a storage takes them.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import sys
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import urlsplit

import httptools
from syncworker.s3.signing import Keys, Signer, encode_path

_IN_FLIGHT = 32


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """Yields paths and sizes."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        else:
            yield entry.path, entry.stat(follow_symlinks=False).st_size


class _Connection(asyncio.Protocol):
    """Sends one file after another."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.digest = self.etag = ""
        self.request = b""
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    def _send(self) -> None:
        request = self.work.next_request(self)
        if request is None:
            self.transport.close()
        else:
            self.request = request
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"etag":
            self.etag = value.decode()

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status >= 500:
            self.transport.write(self.request)
            return
        assert status == 200, status
        assert self.etag.strip('"') == self.digest, f"{self.etag} is not {self.digest}"
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self.work.lost(error)


class Work:
    """The files that are left, and the connections that are open."""

    def __init__(self, url: str, keys: Keys, bucket: str, folder: str) -> None:
        self._host, self._keys, self._bucket = urlsplit(url).netloc, keys, bucket
        self._root, self._files = len(folder.rstrip("/")) + 1, _files(folder)
        self._signer = Signer("us-east-1")
        self._open = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        host, _, port = self._host.rpartition(":")
        for _ in range(_IN_FLIGHT):
            self._open += 1
            await asyncio.get_running_loop().create_connection(lambda: _Connection(self), host, int(port))
        await self._ended

    def next_request(self, connection: _Connection) -> bytes | None:
        found = next(self._files, None)
        if found is None:
            return None
        path, size = found
        fd = os.open(path, os.O_RDONLY)
        try:
            body = os.read(fd, size + 1)
        finally:
            os.close(fd)
        md5 = hashlib.md5(body, usedforsecurity=False)
        connection.digest = md5.hexdigest()
        key = encode_path(f"/{self._bucket}/{path[self._root :]}")
        headers = {
            "host": self._host,
            "content-length": str(len(body)),
            "content-md5": b64encode(md5.digest()).decode(),
        }
        lines = self._signer.sign(self._keys, "PUT", key, "", headers, "UNSIGNED-PAYLOAD")
        return b"".join((f"PUT {key} HTTP/1.1\r\n{lines}\r\n".encode(), body))

    def lost(self, error: Exception | None) -> None:
        self._open -= 1
        if self._ended.done():
            return
        if error is not None:
            self._ended.set_exception(error)
        elif not self._open:
            self._ended.set_result(None)


async def _main() -> None:
    url, access_key, secret_key, bucket, folder = sys.argv[1:]
    await Work(url, Keys(access_key, secret_key), bucket, folder).run()


if __name__ == "__main__":
    gc.disable()
    asyncio.run(_main())

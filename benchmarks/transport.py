"""Why the transport is our own: the same PUTs by it, by awscrt, boto3, aiobotocore and obstore, to the stub.

`make bench-transport`, or `python -m benchmarks.transport [--runs N] [--count N] [--peers PYTHON]`. Each in a
process of its own, in turns. `loop` is the sending alone, `ms a PUT` its processor time; `process` has the
start of the interpreter and the imports in it. Every answer's ETag is compared with the MD5 by all. `--peers`
is the interpreter that has requirements-transport.txt, since aiobotocore needs another botocore than boto3
does; without it aiobotocore and obstore are left out. `bare` and `pipelined` are no clients, but what the
requests cost that are neither signed nor checked, without and with HTTP's pipelining.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SIZE = 4096
IN_FLIGHT = 32
_KEYS = ("AKIDSTUB", "secret-of-the-stub")
_REGION = "us-east-1"
_BUCKET = "transport"


def _body(i: int) -> bytes:
    return f"{i:012}".encode() * (SIZE // 12 + 1)


def _bodies(count: int) -> list[bytes]:
    return [_body(i)[:SIZE] for i in range(count)]


def _key(i: int) -> str:
    return f"d{i // 1000:05}/file-{i % 1000:03}.bin"


def ours(port: int, bodies: list[bytes]) -> None:
    """syncworker's ConnectionPool and Bucket; Content-MD5 on each request, as always."""
    from syncworker.s3.bucket import Bucket
    from syncworker.s3.client import Client
    from syncworker.s3.credentials import Given
    from syncworker.s3.request import Target
    from syncworker.wire.endpoint import Endpoint
    from syncworker.wire.pool import ConnectionPool

    async def put(bucket: Bucket, i: int) -> None:
        digest = hashlib.md5(bodies[i], usedforsecurity=False)
        etag = await bucket.put(_key(i), bodies[i], digest.digest(), {})
        assert etag == digest.hexdigest()

    async def work() -> None:
        async with ConnectionPool(Endpoint.of(f"http://127.0.0.1:{port}", _REGION), None) as pool:
            bucket = Bucket(Client(pool, Target(_BUCKET, _REGION), Given(*_KEYS)))
            await _lanes(lambda i: put(bucket, i), len(bodies))

    asyncio.run(work())


def awscrt(port: int, bodies: list[bytes]) -> None:
    """awscrt.s3.S3Client, fed with bytes, one request a key, 32 in flight."""
    from awscrt import auth, http, io, s3  # type: ignore[import-untyped]

    group = io.EventLoopGroup()
    bootstrap = io.ClientBootstrap(group, io.DefaultHostResolver(group))
    provider = auth.AwsCredentialsProvider.new_static(*_KEYS)
    signing = s3.create_default_s3_signing_config(region=_REGION, credential_provider=provider)
    client = s3.S3Client(
        bootstrap=bootstrap, region=_REGION, signing_config=signing, tls_mode=s3.S3RequestTlsMode.DISABLED
    )
    room = threading.Semaphore(IN_FLIGHT)
    wrong: list[object] = []

    def put(i: int) -> Any:
        etag = hashlib.md5(bodies[i], usedforsecurity=False).hexdigest()

        def on_headers(headers: list[tuple[str, str]], **_: object) -> None:
            found = {name.lower(): value for name, value in headers}
            if found.get("etag") != f'"{etag}"':
                wrong.append(found)

        def on_done(error: object = None, **_: object) -> None:
            if error:
                wrong.append(error)
            room.release()

        fields = [("host", f"127.0.0.1:{port}"), ("content-length", str(SIZE))]
        headers = http.HttpHeaders(fields)
        body = io.InputStream(_stream(bodies[i]))
        request = http.HttpRequest("PUT", f"/{_BUCKET}/{_key(i)}", headers, body)
        return client.make_request(
            type=s3.S3RequestType.PUT_OBJECT,
            request=request,
            on_headers=on_headers,
            on_done=on_done,
        )

    requests = []
    for i in range(len(bodies)):
        room.acquire()
        requests.append(put(i))
    for request in requests:
        request.finished_future.result(60)
    assert not wrong, wrong[:3]


def _stream(body: bytes) -> Any:
    from io import BytesIO

    return BytesIO(body)


def boto3(port: int, bodies: list[bytes]) -> None:
    """put_object in 32 threads of one client."""
    import boto3 as library
    from botocore.config import Config

    config = Config(
        max_pool_connections=IN_FLIGHT,
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = library.session.Session(*_KEYS, region_name=_REGION).client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", config=config
    )

    def put(i: int) -> None:
        etag = hashlib.md5(bodies[i], usedforsecurity=False).hexdigest()
        answer = client.put_object(Bucket=_BUCKET, Key=_key(i), Body=bodies[i])
        assert answer["ETag"] == f'"{etag}"'

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(put, range(len(bodies))))


def aiobotocore(port: int, bodies: list[bytes]) -> None:
    """put_object of one client, 32 tasks of one loop."""
    from aiobotocore.config import AioConfig  # type: ignore[import-not-found]
    from aiobotocore.session import get_session  # type: ignore[import-not-found]

    config = AioConfig(
        max_pool_connections=IN_FLIGHT,
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )

    async def put(client: Any, i: int) -> None:
        answer = await client.put_object(Bucket=_BUCKET, Key=_key(i), Body=bodies[i])
        _check(answer["ETag"], bodies[i])

    async def work() -> None:
        names = ("aws_access_key_id", "aws_secret_access_key")
        where = {"region_name": _REGION, "endpoint_url": f"http://127.0.0.1:{port}", "config": config}
        async with get_session().create_client(
            "s3", **where, **dict(zip(names, _KEYS, strict=True))
        ) as client:
            await _lanes(lambda i: put(client, i), len(bodies))

    asyncio.run(work())


def obstore(port: int, bodies: list[bytes]) -> None:
    """put_async of one S3Store, 32 tasks of one loop."""
    import obstore as library  # type: ignore[import-not-found]
    from obstore.store import S3Store  # type: ignore[import-not-found]

    store = S3Store(
        _BUCKET,
        endpoint=f"http://127.0.0.1:{port}",
        region=_REGION,
        access_key_id=_KEYS[0],
        secret_access_key=_KEYS[1],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )

    async def put(i: int) -> None:
        answer = await library.put_async(store, _key(i), bodies[i], use_multipart=False)
        _check(answer["e_tag"], bodies[i])

    asyncio.run(_lanes(put, len(bodies)))


def _check(etag: str, body: bytes) -> None:
    assert etag == f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"', etag


def bare(port: int, bodies: list[bytes], connections: int = IN_FLIGHT, depth: int = 1) -> None:
    """The requests alone, by asyncio and httptools: unsigned, without an MD5; of an answer only the status is
    looked at. `depth`: as many go out on a connection before the first is answered."""
    import httptools

    async def work() -> None:
        loop, numbers, open_ones = asyncio.get_running_loop(), iter(range(len(bodies))), connections
        all_closed = loop.create_future()

        class Lane(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport, self.waiting = transport, 0
                self.parser = httptools.HttpResponseParser(self)
                self.send()

            def send(self) -> None:
                pieces = []
                while self.waiting < depth and (i := next(numbers, None)) is not None:
                    head = f"PUT /{_BUCKET}/{_key(i)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                    pieces += [f"{head}Content-Length: {len(bodies[i])}\r\n\r\n".encode(), bodies[i]]
                    self.waiting += 1
                if pieces:
                    self.transport.write(b"".join(pieces))
                elif not self.waiting:
                    self.transport.close()

            def data_received(self, data: bytes) -> None:
                self.parser.feed_data(data)
                self.send()

            def on_message_complete(self) -> None:
                assert self.parser.get_status_code() == 200
                self.waiting -= 1

            def connection_lost(self, error: Exception | None) -> None:
                nonlocal open_ones
                open_ones -= 1
                if error is not None and not all_closed.done():
                    all_closed.set_exception(error)
                elif not open_ones and not all_closed.done():
                    all_closed.set_result(None)

        for _ in range(connections):
            await loop.create_connection(Lane, "127.0.0.1", port)
        await all_closed

    asyncio.run(work())


def pipelined(port: int, bodies: list[bytes]) -> None:
    """As `bare`, with four requests in a row on each of eight connections."""
    bare(port, bodies, IN_FLIGHT // 4, 4)


async def _lanes(put: Callable[[int], Coroutine[Any, Any, None]], count: int) -> None:
    numbers = iter(range(count))

    async def lane() -> None:
        for i in numbers:
            await put(i)

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))


WAYS: dict[str, Callable[..., None]] = {
    "ours": ours,
    "bare": bare,
    "pipelined": pipelined,
    "awscrt": awscrt,
    "boto3": boto3,
    "aiobotocore": aiobotocore,
    "obstore": obstore,
}
PEERS = ("aiobotocore", "obstore")


def _child(way: str, port: int, count: int) -> None:
    bodies = _bodies(count)
    wall, cpu = time.perf_counter(), time.process_time()
    WAYS[way](port, bodies)
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--peers", help="the interpreter that has requirements-transport.txt")
    arguments = parser.parse_args()
    from benchmarks import measure, races

    ways = [way for way in WAYS if arguments.peers or way not in PEERS]
    found: dict[str, list[tuple[float, float, float, float, int]]] = {way: [] for way in ways}
    with races.stub() as running:
        for turn in range(arguments.runs + 1):  # the first is the warm-up
            for way in ways:
                running.reset()
                python = arguments.peers if way in PEERS else sys.executable
                command = [python, "-m", "benchmarks.transport", way, str(running.port)]
                cost = measure.run([*command, str(arguments.count)], dict(os.environ))
                counts = running.counts()
                races.must(counts.get("PUT") == arguments.count, f"{way}: {counts}")
                loop = json.loads(measure.output())
                if turn:
                    found[way].append((loop["wall"], loop["cpu"], cost.wall, cost.cpu, cost.peak_bytes))
    print(f"{arguments.count:,} PUTs of {SIZE} bytes, {IN_FLIGHT} in flight, medians of {arguments.runs}")
    print(f"{'':12} {'loop s':>8} {'ms a PUT':>8} {'process s':>10} {'cpu s':>8} {'memory MB':>10}")
    for way, runs in found.items():
        wall, cpu, whole, whole_cpu, peak = (measure.median(column) for column in zip(*runs, strict=True))
        each = 1000 * cpu / arguments.count
        print(f"{way:12} {wall:8.2f} {each:8.3f} {whole:10.2f} {whole_cpu:8.2f} {peak / 1e6:10.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        _child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()

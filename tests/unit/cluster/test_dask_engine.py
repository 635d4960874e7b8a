"""The engine where connecting takes longer than whoever asks would wait."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syncworker.cluster import dask_engine
from syncworker.cluster.dask_engine import DaskCluster, LocalCluster
from syncworker.cluster.keys import Files, RunKeys
from syncworker.cluster.protocol import Unreachable

SLOW, PATIENCE = 0.5, 0.2


@contextlib.asynccontextmanager
async def slow_way(files: Files, folder: Path) -> AsyncIterator[str]:
    """An address of a scheduler, behind a network that takes its time."""
    scheduler = await dask_engine.open_scheduler("127.0.0.1", 0, files, str(folder))
    host, port = scheduler.address.removeprefix("tls://").split(":")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(SLOW)
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(relay(reader, back), relay(there, writer))

    door = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"tls://127.0.0.1:{door.sockets[0].getsockname()[1]}"
    door.close()
    await scheduler.close()


async def ask(cluster: DaskCluster | LocalCluster) -> bool:
    """Whether an impatient one has had an answer."""
    with contextlib.suppress(TimeoutError, Unreachable):
        async with asyncio.timeout(PATIENCE):
            await cluster.members()
            return True
    return False


def test_a_wait_that_is_cancelled_does_not_restart_the_connection(tmp_path: Path) -> None:
    async def main() -> None:
        keys = RunKeys()
        async with slow_way(keys.files, tmp_path) as address:
            cluster = DaskCluster(address, keys.files)
            async with asyncio.timeout(20):
                while not await ask(cluster):
                    await asyncio.sleep(0.01)
            await cluster.close()

    asyncio.run(main())


def test_a_scheduler_here_that_takes_long_to_start_is_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = dask_engine.open_scheduler

    async def slowly(host: str, port: int, files: Files, scratch: str) -> object:
        started.append(1)
        await asyncio.sleep(SLOW)
        return await real(host, port, files, scratch)

    async def main() -> None:
        cluster = LocalCluster(0, {})
        async with asyncio.timeout(20):
            while not await ask(cluster):
                await asyncio.sleep(0.01)
        await cluster.close()

    monkeypatch.setattr(dask_engine, "open_scheduler", slowly)
    asyncio.run(main())
    assert started == [1]


def test_a_connection_without_a_certificate_keeps_no_descriptor(tmp_path: Path) -> None:
    """As any other user of the machine can."""
    most = dask_engine._NAMELESS_MOST

    async def main() -> None:
        keys = RunKeys()
        scheduler = await dask_engine.open_scheduler("127.0.0.1", 0, keys.files, str(tmp_path))
        host, port = scheduler.address.removeprefix("tls://").split(":")
        before = len(os.listdir("/proc/self/fd"))
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(2 * most)]
        async with asyncio.timeout(20):
            ended = [reader for reader, _ in idle[:most]]
            for reader in ended:  # the oldest are told to go
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
        assert len(os.listdir("/proc/self/fd")) <= before + 3 * most  # both ends of those that are left
        cluster = DaskCluster(scheduler.address, keys.files)
        async with asyncio.timeout(20):
            assert await cluster.members() == []
        await cluster.close()
        for _, writer in idle:
            writer.close()
        await scheduler.close()

    asyncio.run(main())

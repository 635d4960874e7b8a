"""`python -m syncworker cluster scheduler|worker|status|keys`: what runs on the machines of a cluster."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import tempfile
import threading
from typing import Any
from urllib.parse import urlsplit

from syncworker.cluster import keys, protocol
from syncworker.cluster.opening import NOT_INSTALLED
from syncworker.cluster.protocol import Lost, Stranger, Unreachable, Verb
from syncworker.errors import UsageError
from syncworker.settings import Settings
from syncworker.system import processes
from syncworker.system.scratch import Scratch, leave_with_owner

PORT = 8786


def _need_packages() -> None:
    for package in ("distributed", "cryptography"):
        if importlib.util.find_spec(package) is None:
            raise UsageError("ClusterNotInstalled", NOT_INSTALLED)


def make_keys(folder: str, names: list[str]) -> int:
    _need_packages()
    for path in keys.write(folder, names or [processes.host()]):
        print(path)
    return 0


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "tls" or not parts.hostname:
        raise UsageError(
            "BadParameter", f"{text!r} is not the address of a scheduler: write it as tls://HOST:{PORT}"
        )
    return text


def _signalled() -> asyncio.Event:
    """Set when a signal asks for the end."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    processes.on_stop(lambda _: loop.call_soon_threadsafe(asked.set))
    return asked


async def _wait(asked: asyncio.Event, finished: Any) -> None:
    asking = asyncio.ensure_future(asked.wait())
    await asyncio.wait({asking, asyncio.ensure_future(finished)}, return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()


def _end_at_eof(scratch: Scratch) -> None:
    """In a thread: whoever started this process has ended, and nothing here is anybody's any more."""
    while os.read(0, 4096):
        pass
    scratch.remove()
    leave_with_owner(tempfile.gettempdir())
    os._exit(0)


def scheduler(settings: Settings, bind: str, port: int) -> int:
    _need_packages()
    files = keys.of_settings(settings)

    async def run() -> None:
        from syncworker.cluster import dask_engine

        opened = await dask_engine.open_scheduler(bind, port, files, scratch.path)
        print(f"scheduler: {opened.address}", flush=True)
        await _wait(_signalled(), opened.finished())
        await opened.close()

    with Scratch("scheduler") as scratch:
        asyncio.run(run())
    return 0


def worker(settings: Settings, address: str, bind: str | None, *, until_eof: bool) -> int:
    """1: the scheduler is gone, or was not there; whoever keeps this running starts it again."""
    _need_packages()
    files = keys.of_settings(settings)
    ended_by_scheduler = True
    scratch = Scratch("member")
    if until_eof:
        threading.Thread(target=_end_at_eof, args=(scratch,), daemon=True).start()

    async def run() -> None:
        nonlocal ended_by_scheduler
        from syncworker.cluster import dask_engine

        asked = _signalled()
        opened = await dask_engine.open_worker(_address(address), files, settings, scratch.path, bind)
        print(f"worker: {opened.name} at {opened.address}, of {address}", flush=True)
        await _wait(asked, opened.finished())
        ended_by_scheduler = str(opened.status).endswith(("closed", "closing", "failed"))
        await opened.close(nanny=False)

    try:
        asyncio.run(run())
    except OSError as error:
        raise UsageError("ClusterLost", f"the scheduler {address} cannot be reached: {error}") from error
    finally:
        scratch.remove()
        if until_eof:
            leave_with_owner(tempfile.gettempdir())
    return 1 if ended_by_scheduler else 0


def status(settings: Settings, *, as_json: bool) -> int:
    """Who is there, and whether each could work for a job of this machine."""
    _need_packages()
    if not settings.cluster.startswith("tls://"):
        raise UsageError("BadParameter", "CLUSTER names no scheduler: set it to tls://HOST:PORT")

    async def look() -> list[dict[str, Any]]:
        from syncworker.cluster import dask_engine

        cluster = dask_engine.DaskCluster(settings.cluster, keys.of_settings(settings))
        try:
            return [await _greet(cluster, member) for member in await cluster.members()]
        finally:
            await cluster.close()

    try:
        members = asyncio.run(look())
    except Unreachable as error:
        raise UsageError("ClusterLost", str(error)) from error
    if as_json:
        print(json.dumps({"scheduler": settings.cluster, "members": members}, indent=2))
        return 0
    print(f"{settings.cluster}: {len(members)} members")
    for member in members:
        print(f"{member['name']}  {member['refused'] or 'ready'}")
    return 0


async def _greet(cluster: protocol.Cluster, member: protocol.Member) -> dict[str, Any]:
    request = {"verb": str(Verb.HELLO), "job": "", "epoch": 0, "clock": None, "samples": []}
    try:
        async with asyncio.timeout(protocol.HEAR_SECONDS * 2):
            answer = protocol.unpack(await cluster.hear(member, protocol.pack(request)))
    except Stranger as error:
        answer = {"refused": str(error)}
    except (Lost, Unreachable, TimeoutError, ValueError) as error:
        answer = {"refused": f"it does not answer ({type(error).__name__})"}
    why = answer.get("refused") or answer.get("trouble") or ""
    if not why and answer.get("version") != protocol.this_version():
        why = "it runs another version"
    return {"name": member.name, "host": answer.get("host"), "pid": answer.get("pid"), "refused": why or None}

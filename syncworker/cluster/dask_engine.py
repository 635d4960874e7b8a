"""The engine: Dask's scheduler, workers and client behind four verbs. Only this module imports `distributed`.

Used of Dask: who is there and who has died, a way to each member, TLS with certificates on both sides. Not
used: its choice of a worker, its retries, its HTTP pages; a batch is for one member, and when that is lost
the job's process hears of it at once and decides itself. No HTTP port is opened.

`CLUSTER=local:N`: scheduler in the job's process, members as its children; each ends when its standard input
does, and removes the folder of both, so nothing is left when the job's process is killed. A member that has
died is replaced, a few times.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from syncworker.cluster import member as office
from syncworker.cluster.keys import Files, RunKeys, of_settings
from syncworker.cluster.protocol import Lost, Member, Stranger, Unreachable
from syncworker.settings import Settings
from syncworker.system import processes
from syncworker.system.gather import is_cancelled
from syncworker.system.imports import without
from syncworker.system.scratch import Scratch

with without("jinja2", "curses"):  # for HTML pages and colours, which nobody sees: 2 MB
    import dask
    import distributed
    from distributed.comm.tcp import TLSListener
    from distributed.scheduler import KilledWorker
    from distributed.security import Security

TTL_SECONDS = 10.0  # a member that its scheduler hears nothing of is gone
_CONNECT_SECONDS = 5.0
_KNOCK_SECONDS = 0.1
_DEATH_SECONDS = 30.0  # of a member that finds no scheduler
_REPLACED_MOST = 20
_THREADS = 120  # each waits for a batch; those of a job that is paused must not keep all others waiting
_CONFIG = {
    "distributed.scheduler.allowed-failures": 0,  # a batch is not given to another unasked
    "distributed.scheduler.worker-ttl": f"{TTL_SECONDS:g}s",
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.reuse-broadcast-comm": True,
    "distributed.admin.low-level-log-length": 0,
    "distributed.scheduler.preload": [],
    "distributed.worker.preload": [],
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.transfer": False,
    "distributed.comm.require-encryption": True,
    "distributed.comm.retry.count": 0,
    "distributed.comm.timeouts.connect": f"{_CONNECT_SECONDS:g}s",
    "distributed.diagnostics.nvml": False,
    "distributed.admin.tick.interval": "1s",
}

_NAMELESS_MOST = 200  # connections that have shown no certificate yet
_nameless: dict[Any, None] = {}  # oldest first
_shake_hands = TLSListener._prepare_stream


async def _prepare_stream(self: TLSListener, stream: Any, address: Any) -> Any:
    """Any user of the machine can connect, and show nothing. Dask waits for each of them for ever: until no
    file can be opened here any more. So of too many the oldest goes."""
    while len(_nameless) >= _NAMELESS_MOST:
        oldest = next(iter(_nameless))
        del _nameless[oldest]
        oldest.close()
    _nameless[stream] = None
    try:
        return await _shake_hands(self, stream, address)
    finally:
        _nameless.pop(stream, None)


def configure() -> None:
    """Whatever Dask's own files of settings say."""
    TLSListener._prepare_stream = _prepare_stream
    dask.config.set(_CONFIG)
    for name in ("distributed", "distributed.worker", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("distributed.client", "distributed.shuffle"):  # a client that is dropped says how it ends
        logging.getLogger(name).setLevel(logging.CRITICAL)


def security_of(files: Files) -> Security:
    roles = {f"tls_{role}_cert": files.cert for role in ("client", "scheduler", "worker")}
    roles |= {f"tls_{role}_key": files.key for role in ("client", "scheduler", "worker")}
    return Security(require_encryption=True, tls_ca_file=files.ca, **roles)


class _NoPages:
    """In front of a server of Dask: it listens for its own protocol only."""

    def start_http_server(self, routes: Any, *_: Any, **__: Any) -> None: ...


class _Scheduler(_NoPages, distributed.Scheduler):  # type: ignore[misc]
    pass


class _Worker(_NoPages, distributed.Worker):  # type: ignore[misc]
    async def close(self, *how: Any, **more: Any) -> Any:
        """Waits for the batches that are being carried out; nobody else waits for them any more."""
        office.leave()
        return await super().close(*how, **more)


def _keep_to(scratch: str) -> None:
    """Before a server is made: its folder is one that no other user can enter. Dask's own has a name that all
    know, in a folder that all may write to, and is looked in for modules."""
    configure()
    dask.config.set({"temporary-directory": scratch})


def _forget_path(scratch: str) -> None:
    sys.path[:] = [path for path in sys.path if not path.startswith(scratch)]


async def open_scheduler(host: str, port: int, files: Files, scratch: str) -> _Scheduler:
    _keep_to(scratch)
    scheduler = _Scheduler(host=host, port=port, protocol="tls", security=security_of(files), dashboard=False)
    _forget_path(scratch)
    await scheduler
    return scheduler


async def _knock(address: str, seconds: float) -> None:
    """Waits until somebody listens there. OSError: nobody does. Dask waits for seconds between two tries."""
    parts, loop = urlsplit(address), asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        try:
            async with asyncio.timeout_at(until):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            if loop.time() + _KNOCK_SECONDS >= until:
                raise
            await asyncio.sleep(_KNOCK_SECONDS)
        else:
            writer.close()
            return


async def open_worker(
    address: str, files: Files, settings: Settings, scratch: str, host: str | None = None
) -> _Worker:
    """A member, until its scheduler is gone."""
    await _knock(address, _DEATH_SECONDS)
    _keep_to(scratch)
    office.open_office(settings)
    pid, started = processes.me()
    worker = _Worker(
        address,
        nthreads=_THREADS,
        name=f"{processes.host()}-{pid}-{started:.2f}",
        host=host,
        protocol="tls",
        security=security_of(files),
        memory_limit=0,
        death_timeout=f"{_DEATH_SECONDS:g}s",
        dashboard=False,
    )
    _forget_path(scratch)
    await worker
    return worker


class DaskCluster:
    """The cluster of a job, or a look at one."""

    def __init__(self, address: str, files: Files) -> None:
        self.address, self.files = address, files
        self._client: Any = None
        self._addresses: dict[Member, str] = {}
        self._numbers = itertools.count()
        self._connecting: asyncio.Task[Any] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        configure()

    async def _connected(self) -> Any:
        """The client; another one when the scheduler of the last one is gone. Who asks may give up: the
        attempt goes on for who asks next, else a slow network or machine would never be connected."""
        if self._client is not None and self._client.status == "running":
            return self._client
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait({self._connecting})
        return self._connecting.result()

    async def _connect(self) -> Any:
        self._drop_client()
        client = None
        try:
            await _knock(self.address, _CONNECT_SECONDS)
            client = distributed.Client(
                self.address,
                security=security_of(self.files),
                asynchronous=True,
                set_as_default=False,
                timeout=_CONNECT_SECONDS,
                direct_to_workers=False,
            )
            await client
            await client.run_on_scheduler(prepare_scheduler)
        except BaseException as error:  # whatever Dask raises, or another program in the scheduler's place
            if client is not None:
                await _in_time(client.close())
            if isinstance(error, Exception):
                why = str(error) or type(error).__name__
                raise Unreachable(f"the scheduler {self.address} cannot be reached: {why}") from error
            raise
        self._client = client
        return client

    def _drop_client(self) -> None:
        """Waits for nothing: a client whose scheduler is gone takes seconds to close."""
        client, self._client = self._client, None
        if client is not None:
            closing = asyncio.create_task(_in_time(client.close()))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def members(self) -> list[Member]:
        try:
            client = await self._connected()
            identity = await client.scheduler.identity(n_workers=-1)
        except Unreachable:
            raise
        except (Exception, asyncio.CancelledError) as error:  # whatever it is: who is there is not known
            _raise_if_cancelled(error)
            self._drop_client()
            why = str(error) or type(error).__name__
            raise Unreachable(f"the scheduler {self.address} cannot be asked: {why}") from error
        self._addresses = {}
        for address, about in identity["workers"].items():
            self._addresses[Member(f"{about['id']} {address}", str(about["name"]))] = address
        return list(self._addresses)

    def _address(self, member: Member) -> str:
        address = self._addresses.get(member)
        if address is None:
            raise Lost(f"{member.name} is gone", died=True)
        return address

    async def submit(self, member: Member, batch: bytes) -> bytes:
        address = self._address(member)
        client = self._client
        if client is None:
            raise Lost("the scheduler is gone", died=False)
        future = None
        try:
            future = client.submit(
                office.carry_out,
                batch,
                workers=[address],
                allow_other_workers=False,
                pure=False,
                retries=0,
                key=f"batch-{os.getpid()}-{time.time_ns()}-{next(self._numbers)}",
            )
            return bytes(await future)
        except KilledWorker as error:
            raise Lost(f"{member.name} has died", died=True) from error
        except asyncio.CancelledError as error:
            _raise_if_cancelled(error)
            raise Lost("the scheduler is gone", died=False) from error
        except Exception as error:  # whatever became of it, it has no answer
            raise Lost(f"{type(error).__name__}: {error}", died=False) from error
        finally:
            if future is not None:
                future.release()

    async def hear(self, member: Member, request: bytes) -> bytes:
        address = self._address(member)
        try:
            client = await self._connected()
            answers = await client.run(office.hear, office.Sealed(request), workers=[address])
            return bytes(answers[address])
        # The connection is closed (CommClosedError is an OSError), or nobody can be asked.
        except (KilledWorker, OSError, Unreachable, KeyError, ValueError, asyncio.CancelledError) as error:
            _raise_if_cancelled(error)
            raise Unreachable(f"{member.name}: {type(error).__name__}") from error
        except Exception as error:  # it was asked, and did not understand: of the error, its name alone
            name = str(error).partition("(")[0] if type(error) is Exception else type(error).__name__
            raise Stranger(f"it runs another program ({name[:40]})") from error

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        self._drop_client()
        while self._closing:
            await asyncio.wait(set(self._closing))


def _raise_if_cancelled(error: BaseException) -> None:
    """Dask cancels what waits for it when a connection or its client ends; that is no cancel of who asks."""
    if isinstance(error, asyncio.CancelledError) and is_cancelled():
        raise error


async def _in_time(closing: Any) -> None:
    try:
        await asyncio.wait_for(closing, _CONNECT_SECONDS)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - of Dask, about what is not used now
        _raise_if_cancelled(error)
        print(f"cluster: closing it: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def prepare_scheduler(dask_scheduler: Any) -> None:
    """Run in a scheduler, which may have been started otherwise than by us."""
    dask_scheduler.allowed_failures = 0
    if stealing := dask_scheduler.extensions.get("stealing"):
        dask_scheduler.loop.add_callback(stealing.stop)


class LocalCluster(DaskCluster):
    """Processes of this machine, for one job. It has no address until it is opened."""

    def __init__(self, count: int, environ: dict[str, str]) -> None:
        self.count, self.environ = count, environ
        self._keys = RunKeys()
        super().__init__(address="", files=self._keys.files)
        self._scheduler: _Scheduler | None = None
        self._children: list[Any] = []
        self._replaced = 0
        self._scratch = Scratch("cluster")  # the members' own are in it
        self._opening: asyncio.Task[None] | None = None

    async def members(self) -> list[Member]:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        await asyncio.wait({self._opening})  # who asks may give up: it goes on
        if self._opening.cancelled():  # by Dask
            raise Unreachable("the cluster of this machine could not be opened: CancelledError")
        self._opening.result()
        for at, child in enumerate(self._children):
            if child.poll() is not None and self._replaced < _REPLACED_MOST:
                _let_go(child)
                with contextlib.suppress(OSError):  # no process can be started now: the others go on
                    self._children[at] = self._start()
                    self._replaced += 1
        return await super().members()

    async def _open(self) -> None:
        self._scheduler = await open_scheduler("127.0.0.1", 0, self.files, self._scratch.path)
        self.address = self._scheduler.address
        self._children = [self._start() for _ in range(self.count)]

    def _start(self) -> Any:
        environ = self.environ | {
            "CLUSTER": "",
            "TMPDIR": self._scratch.path,
            "CLUSTER_TLS_CA": self.files.ca,
            "CLUSTER_TLS_CERT": self.files.cert,
            "CLUSTER_TLS_KEY": self.files.key,
        }
        argv = ["cluster", "worker", self.address, "--bind", "127.0.0.1", "--until-eof"]
        return processes.spawn_member(argv, environ, tuple(self._keys.fds))

    async def close(self) -> None:
        if self._opening is not None:
            await asyncio.wait({self._opening})
        await super().close()
        self._scratch.let_go()  # a member that ends need not ask whether its parent has died
        for child in self._children:
            _let_go(child)
        if self._scheduler is not None:
            await _in_time(self._scheduler.close())
        for child in self._children:
            await asyncio.get_running_loop().run_in_executor(None, processes.end_member, child)
        self._children = []
        self._keys.close()
        self._scratch.remove()


def _let_go(child: Any) -> None:
    with contextlib.suppress(OSError):
        child.stdin.close()


def open_cluster(settings: Settings) -> DaskCluster:
    kind, _, rest = settings.cluster.partition(":")
    if kind == "local":
        return LocalCluster(int(rest), dict(os.environ))
    return DaskCluster(settings.cluster, of_settings(settings))

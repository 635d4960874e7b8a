"""Fixtures: the servers of `stores.py`, each started once per session and only when a test wants it."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest
from bench import Jobs, Mirror, RecordingProxy, Service, Shell
from stores import Store, all_stores
from truth import Watch, check_truth

NAMES = tuple(all_stores())
# An example takes as long as the machine lets it.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Thousands of tests become objects that stay: no look for cycles is to go through them, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class StorePool:
    """Starts each server at its first use; the slow one is started ahead, in its own thread."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._stores = all_stores()
        self._starting: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        # PR_SET_PDEATHSIG counts the *thread* that forked as the parent: these threads live as long as we do.
        self._threads = ThreadPoolExecutor(len(NAMES), "store")

    def start(self, name: str) -> Future[None]:
        with self._lock:
            if name not in self._starting:
                directory = self._base / name
                directory.mkdir()
                self._starting[name] = self._threads.submit(self._stores[name].start, directory)
            return self._starting[name]

    def get(self, name: str) -> Store:
        self.start(name).result()
        store = self._stores[name]
        if not store.alive:  # an earlier test killed it
            self._threads.submit(store.start).result()
        return store

    def close(self) -> None:
        for name, future in self._starting.items():
            if future.exception() is None:
                self._stores[name].kill()
        self._threads.shutdown()


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[StorePool]:
    pool = StorePool(tmp_path_factory.mktemp("stores"))
    wanted = {mark for item in request.session.items for mark in _stores_of(item)}
    if "seaweedfs" in wanted:
        pool.start("seaweedfs")
    yield pool
    pool.close()


def _stores_of(item: pytest.Item) -> set[str]:
    callspec = getattr(item, "callspec", None)
    return {value for value in callspec.params.values() if value in NAMES} if callspec else set()


@pytest.fixture(params=NAMES)
def store(request: pytest.FixtureRequest, stores: StorePool) -> Store:
    """Each of the four servers in turn. A test names fewer with
    `@pytest.mark.parametrize("store", ["moto"], indirect=True)`, or takes `juicefs`, the quickest, alone."""
    return stores.get(request.param)


@pytest.fixture
def juicefs(stores: StorePool) -> Store:
    return stores.get("juicefs")


@pytest.fixture
def moto(stores: StorePool) -> Store:
    return stores.get("moto")


@pytest.fixture(scope="module", autouse=True)
def descriptors_are_closed() -> Iterator[None]:
    """Fails a file of tests that leaves descriptors open: `select` waits for none above 1023."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    left = len(os.listdir("/proc/self/fd")) - before
    assert left < 64, f"{left} descriptors were left open by the tests of this file"


@pytest.fixture
def make_bucket(stores: StorePool) -> Iterator[Callable[[Store], str]]:
    """Bucket names nobody has used; what a test makes of them is removed afterwards."""
    made: list[tuple[Store, str]] = []

    def make(store: Store) -> str:
        name = f"t-{uuid.uuid4().hex[:16]}"
        made.append((store, name))
        return name

    yield make
    for store, name in made:
        stores.get(store.name).remove_bucket(name)


@pytest.fixture
def bucket(request: pytest.FixtureRequest, make_bucket: Callable[[Store], str]) -> str:
    """The name of a bucket that does not exist yet, on the test's store."""
    name = next((n for n in ("store", *NAMES) if n in request.fixturenames), "juicefs")
    return make_bucket(request.getfixturevalue(name))


@pytest.fixture
def make_proxy() -> Iterator[Callable[[Store], RecordingProxy]]:
    made: list[RecordingProxy] = []

    def make(store: Store) -> RecordingProxy:
        made.append(RecordingProxy(store))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture(scope="session")
def watch() -> Iterator[Watch]:
    """Looks at the statuses of living workers during all tests."""
    watch = Watch()
    yield watch
    watch.close()


@contextlib.contextmanager
def truthful(watch: Watch, made: Sequence[Jobs]) -> Iterator[None]:
    """Ends what a test has started, and asks every status that it left whether it tells the truth."""
    before = len(watch.stale)
    try:
        yield
    finally:
        for jobs in made:
            jobs.close()
            watch.remove(jobs.jobs)
    for jobs in made:
        if not jobs.tampered:
            check_truth(jobs.jobs)
    assert not watch.stale[before:], watch.stale[before:]


@pytest.fixture
def make_shell(tmp_path_factory: pytest.TempPathFactory, watch: Watch) -> Iterator[Callable[..., Shell]]:
    made: list[Shell] = []

    def make(store: Store, **environment: str) -> Shell:
        made.append(Shell(tmp_path_factory.mktemp("shell"), store, **environment))
        watch.add(made[-1].jobs)
        return made[-1]

    with truthful(watch, made):
        yield make


@pytest.fixture
def make_service(tmp_path_factory: pytest.TempPathFactory, watch: Watch) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(store: Store | None, *, start: bool = True, **environment: str) -> Service:
        made.append(Service(tmp_path_factory.mktemp("service"), store, **environment))
        watch.add(made[-1].jobs)
        if start:
            made[-1].start()
        return made[-1]

    with truthful(watch, made):
        yield make


@pytest.fixture
def side_by_side(
    make_service: Callable[..., Service],
    make_shell: Callable[..., Shell],
    make_proxy: Callable[[Store], RecordingProxy],
) -> Callable[..., tuple[Service, Shell, RecordingProxy]]:
    """A server and a shell on one folder of jobs, and one store behind a proxy."""

    def make(store: Store, **environment: str) -> tuple[Service, Shell, RecordingProxy]:
        proxy = make_proxy(store)
        service = make_service(store, STORAGE_URL=proxy.url, **environment)
        shell = make_shell(store, STORAGE_URL=proxy.url)
        shell.share(service)
        return service, shell, proxy

    return make


@pytest.fixture
def shell(request: pytest.FixtureRequest, make_shell: Callable[..., Shell]) -> Shell:
    """A shell on the test's store: `store` if the test has one, else juicefs."""
    name = "store" if "store" in request.fixturenames else "juicefs"
    return make_shell(request.getfixturevalue(name))


@pytest.fixture
def service(request: pytest.FixtureRequest, make_service: Callable[..., Service]) -> Service:
    name = "store" if "store" in request.fixturenames else "juicefs"
    return make_service(request.getfixturevalue(name))


@pytest.fixture
def mirror(
    request: pytest.FixtureRequest,
    shell: Shell,
    bucket: str,
    make_proxy: Callable[[Store], RecordingProxy],
) -> Mirror:
    """A folder `photos`, a bucket that does not exist yet, and a proxy, on the test's store."""
    name = "store" if "store" in request.fixturenames else "juicefs"
    store = request.getfixturevalue(name)
    return Mirror(shell, store, make_proxy(store), bucket)

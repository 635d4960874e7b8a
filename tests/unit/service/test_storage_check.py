"""/healthz?storage=1: one HEAD, two seconds at most, good for ten."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Answer, Cut, RecordingProxy, Service, wait_for
from serving import Site
from stores import Store, free_ports
from test_transport import ForwardProxy, HttpsStore
from test_transport import forward as forward_fixture
from test_transport import https as https_fixture

from syncworker.errors import SyncError
from syncworker.service.storage_check import CACHED_SECONDS, CHECK_SECONDS, StorageCheck

forward, https = forward_fixture, https_fixture


@contextlib.contextmanager
def a_port_that_says_nothing() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield listener.getsockname()[1]


def ask(service: Service | Site) -> Any:
    return service.get("/healthz?storage=1")


def test_every_store_is_there(store: Store, make_service: Callable[..., Service]) -> None:
    reply = ask(make_service(store))
    assert reply.status == 200 and reply.json()["status"] == "ok"


def test_the_result_of_one_head_without_keys_serves_for_ten_seconds(
    make_service: Callable[..., Service], juicefs: Store, make_proxy: Callable[[Store], RecordingProxy]
) -> None:
    proxy = make_proxy(juicefs)
    service = make_service(juicefs, STORAGE_URL=proxy.url)
    proxy.reset()
    for _ in range(20):
        assert ask(service).status == 200
    assert service.get("/healthz").status == 200
    [request] = proxy.requests
    assert (request.method, request.target) == ("HEAD", "/")
    assert "authorization" not in {name.lower() for name in request.headers}


@pytest.mark.parametrize(
    ("answer", "status"),
    [(Answer(500), 503), (Answer(503), 503), (Cut(), 503), (Answer(501), 200), (Answer(403), 200)],
)
def test_a_storage_that_fails_is_reported(
    make_service: Callable[..., Service],
    juicefs: Store,
    make_proxy: Callable[[Store], RecordingProxy],
    answer: Any,
    status: int,
) -> None:
    proxy = make_proxy(juicefs)
    service = make_service(juicefs, STORAGE_URL=proxy.url)
    proxy.on_request(lambda _request: answer)
    reply = ask(service)
    assert reply.status == status
    if status == 503:
        assert reply.problem["code"] == "StorageAway"
    assert service.get("/healthz").status == service.get("/healthz?storage=0").status == 200


def test_a_storage_that_refuses_connections_is_reported_without_its_address(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    site = Site(tmp_path, STORAGE_URL=f"http://127.0.0.1:{port}", API_TOKEN="t" * 20)
    try:
        answer = ask(site)  # no token is needed
        assert (answer.status, answer.problem["code"]) == (503, "StorageAway")
        assert str(port) not in answer.body.decode()
        assert ask(site).status == 503
    finally:
        site.close()


def test_a_silent_storage_costs_two_seconds_once_and_the_server_goes_on_answering(tmp_path: Path) -> None:
    with a_port_that_says_nothing() as port:
        site = Site(tmp_path, STORAGE_URL=f"http://127.0.0.1:{port}")
        try:
            answers: list[int] = []
            began = time.monotonic()
            threads = [threading.Thread(target=lambda: answers.append(ask(site).status)) for _ in range(20)]
            for thread in threads:
                thread.start()
            asked = time.monotonic()
            assert site.get("/healthz").status == 200
            assert time.monotonic() - asked < CHECK_SECONDS
            for thread in threads:
                thread.join()
            assert time.monotonic() - began < 2 * CHECK_SECONDS
            assert answers == [503] * 20
            again = time.monotonic()
            assert ask(site).status == 503
            assert time.monotonic() - again < 1
        finally:
            site.close()


def test_bad_values_are_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9")
    try:
        for value in ("2", "yes", "-1"):
            assert site.get(f"/healthz?storage={value}").problem["param"] == "storage"
        assert site.get("/healthz?storage=").status == 200
    finally:
        site.close()


def test_a_check_is_repeated_after_ten_seconds_unless_the_last_one_hangs() -> None:
    now, asked, hang = [100.0], [], threading.Event()
    answers: list[str | None] = []

    def connect(_limit: float) -> Any:
        asked.append(now[0])
        if answers:
            raise SyncError("X", str(answers[0]))
        hang.wait(30)
        raise OSError

    check = StorageCheck(connect, clock=lambda: now[0])
    answers.append("no way")
    assert (
        check.trouble()
        == check.trouble()
        == "the settings of the storage do not work: start a sync to see the error"
    )
    assert asked == [100.0]
    now[0] += CACHED_SECONDS - 0.1
    check.trouble()
    assert asked == [100.0]
    now[0] += 0.1
    answers.clear()
    assert "2 seconds" in (check.trouble() or "")
    assert len(asked) == 2
    now[0] += CACHED_SECONDS
    assert "2 seconds" in (check.trouble() or "")
    assert len(asked) == 2  # the one before has not ended
    hang.set()
    wait_for(lambda: check._thread is not None and not check._thread.is_alive(), 5, "the check to end")
    now[0] += CACHED_SECONDS
    answers.append("no way")
    check.trouble()
    assert len(asked) == 3


def test_it_goes_through_the_proxy_that_a_sync_would_take(
    make_service: Callable[..., Service], juicefs: Store, forward: ForwardProxy
) -> None:
    assert ask(make_service(juicefs, HTTP_PROXY=forward.url)).status == 200
    assert [head.splitlines()[0] for head in forward.heads] == [f"HEAD {juicefs.url}/ HTTP/1.1"]


def test_it_believes_the_certificates_that_a_sync_believes_and_no_other(
    make_service: Callable[..., Service], https: HttpsStore, forward: ForwardProxy
) -> None:
    ca = str(https.directory / "cert.pem")
    assert ask(make_service(https, AWS_CA_BUNDLE=ca)).status == 200
    assert ask(make_service(https)).status == 503
    assert ask(make_service(https, AWS_CA_BUNDLE="/nonexistent")).status == 503
    assert ask(make_service(https, AWS_CA_BUNDLE=ca, HTTPS_PROXY=forward.url)).status == 200
    assert [head.split()[:2] for head in forward.heads] == [["CONNECT", f"localhost:{https.port}"]]


def test_the_limits_are_those_of_the_contract() -> None:
    assert (CHECK_SECONDS, CACHED_SECONDS) == (2.0, 10.0)

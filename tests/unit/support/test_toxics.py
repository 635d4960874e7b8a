"""The fault proxy itself: what it is told to do to a request happens, and nothing else."""

from __future__ import annotations

import itertools
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bench import RecordingProxy, fill, wait_for
from botocore.exceptions import EndpointConnectionError
from stores import Store
from toxics import Flow, Toxic


def through(toxic: Toxic, pieces: list[bytes], flip: int | bytes | None = None) -> list[bytes]:
    sent: list[bytes] = []
    flow = Flow(toxic, sent.append, flip)
    for piece in pieces:
        flow.pass_on(piece, len(piece))
    return sent


def test_without_a_toxic_every_piece_goes_on_as_it_came() -> None:
    assert through(Toxic(), [b"one", b"", b"three"]) == [b"one", b"three"]


def test_slices_are_of_the_size_asked_for_and_lose_nothing() -> None:
    sent = through(Toxic(slice_bytes=4), [b"0123456789", b"ab"])
    assert sent == [b"0123", b"4567", b"89", b"ab"]


@pytest.mark.parametrize("flip", [0, 5, 9, b"45"])
def test_one_bit_of_one_byte_is_turned_wherever_the_pieces_end(flip: int | bytes) -> None:
    body = b"0123456789"
    got = b"".join(through(Toxic(), [body[:3], body[3:]], flip))
    changed = [place for place in range(len(body)) if body[place] != got[place]]
    assert changed == [5 if isinstance(flip, bytes) else flip]
    assert (body[changed[0]] ^ got[changed[0]]).bit_count() == 1


def test_framing_is_never_turned() -> None:
    sent: list[bytes] = []
    flow = Flow(Toxic(), sent.append, 0)
    flow.pass_on(b"5\r\n", 0)
    flow.pass_on(b"hello", 5)
    assert sent == [b"5\r\n", b"iello"]
    assert flow.flipped


def test_a_slow_line_takes_the_time_that_its_bytes_need() -> None:
    started = time.monotonic()
    through(Toxic(bytes_per_second=1_000_000), [bytes(200_000)])
    assert time.monotonic() - started >= 0.2


def test_a_stall_is_at_the_byte_asked_for() -> None:
    started = time.monotonic()
    sent: list[bytes] = []
    flow = Flow(Toxic(stall_seconds=0.1), sent.append, None, stall_at=7)
    flow.pass_on(b"01234", 5)
    flow.pass_on(b"56789", 5)
    assert sent == [b"01234", b"56", b"789"]
    assert time.monotonic() - started >= 0.1


def test_latency_has_its_jitter_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)
    assert Toxic(latency_seconds=1, jitter_seconds=0.5).delay() == 1.25


@pytest.fixture
def client(
    juicefs: Store, bucket: str, make_proxy: Callable[[Store], RecordingProxy]
) -> Iterator[tuple[Any, RecordingProxy]]:
    fill(juicefs, bucket, {"a": b"0123456789"})
    proxy = make_proxy(juicefs)
    yield juicefs.new_client(proxy.url, retries={"total_max_attempts": 1}), proxy


def test_a_bit_of_an_answer_is_turned_and_noted(client: tuple[Any, RecordingProxy], bucket: str) -> None:
    s3, proxy = client
    proxy.on_request(lambda _: Toxic(flip_answer=b"0123"))
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"0122456789"
    wait_for(lambda: [request.flipped for request in proxy.requests] == [True])


def test_an_answer_comes_whole_over_a_connection_that_then_closes_slowly(
    client: tuple[Any, RecordingProxy], bucket: str
) -> None:
    _, proxy = client
    proxy.on_request(lambda _: Toxic(slow_close_seconds=1.0))
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as raw:
        raw.sendall(f"GET /{bucket}/a HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = raw.recv(65536)
        answered = time.monotonic()
        while piece := raw.recv(65536):
            answer += piece
    assert b"HTTP/1.1 403" in answer
    assert answer.endswith(b"</Error>")
    assert time.monotonic() - answered > 0.1


def test_a_server_that_refuses_comes_back_at_its_own_port(
    client: tuple[Any, RecordingProxy], bucket: str
) -> None:
    s3, proxy = client
    for _ in itertools.repeat(None, 3):
        assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"0123456789"
        proxy.refuse()
        with pytest.raises(EndpointConnectionError):
            s3.get_object(Bucket=bucket, Key="a")
        proxy.listen()
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"0123456789"

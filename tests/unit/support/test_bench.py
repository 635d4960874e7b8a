"""The bench itself: the servers store what they are given, and the proxy passes on what it is given."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from pathlib import Path

import pytest
from bench import (
    Answer,
    Cut,
    RecordingProxy,
    contents,
    exists,
    expected,
    fill,
    s3_error,
    tree,
)
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError
from stores import list_keys


def test_a_store_keeps_what_it_gets_and_a_removed_bucket_is_gone(store, bucket):
    fill(store, bucket, {"a": b"1", "d/e": b"2", "sp ace/ü": b""})
    assert contents(store, bucket) == {"a": b"1", "d/e": b"2", "sp ace/ü": b""}
    store.remove_bucket(bucket)
    assert not exists(store, bucket)


def test_the_capability_flags_match_what_the_store_does(store, bucket):
    client = store.new_client(retries={"total_max_attempts": 1})
    client.create_bucket(Bucket=bucket)
    for key in ("a-b", "a/b", "n/y"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert (list(list_keys(client, bucket)) == ["a-b", "a/b", "n/y"]) == store.byte_order
    client.put_object(Bucket=bucket, Key="gone", Body=b"x")
    deleted = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "gone"}]}).get("Deleted", [])
    assert ([item.get("Key") for item in deleted] == ["gone"]) == store.names_deleted
    wrong = {"Bucket": bucket, "Key": "wrong", "Body": b"x", "ContentMD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
    if store.checks_content_md5:
        with pytest.raises(ClientError):
            client.put_object(**wrong)
    else:
        client.put_object(**wrong)
    if store.versioning:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        client.put_object(Bucket=bucket, Key="v", Body=b"1")
        client.delete_object(Bucket=bucket, Key="v")
        assert len(client.list_object_versions(Bucket=bucket, Prefix="v")["DeleteMarkers"]) == 1
    if store.nested_keys:
        client.put_object(Bucket=bucket, Key="n", Body=b"x")
        assert {"n", "n/y"} <= set(list_keys(client, bucket))
    else:
        with pytest.raises(ClientError):
            client.put_object(Bucket=bucket, Key="a/b/c", Body=b"x")


def test_a_killed_store_comes_back_at_the_same_address(stores, make_bucket):
    store = stores.get("rclone")
    bucket, url = make_bucket(store), store.url
    fill(store, bucket, {"a": b"1"})
    store.kill()
    assert not store.alive
    store.restart()
    assert store.url == url
    assert contents(store, bucket) == {"a": b"1"}


def test_the_proxy_passes_requests_on_unchanged_and_counts_them(store, bucket):
    proxy = RecordingProxy(store)
    client = store.new_client(endpoint=proxy.url)
    body = os.urandom(300_000)
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="odd +%&/ü", Body=body)
    assert client.head_object(Bucket=bucket, Key="odd +%&/ü")["ContentLength"] == len(body)
    assert client.get_object(Bucket=bucket, Key="odd +%&/ü")["Body"].read() == body
    assert list(list_keys(client, bucket)) == ["odd +%&/ü"]
    upload = client.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
    part = os.urandom(5 << 20)
    tag = client.upload_part(Bucket=bucket, Key="big", UploadId=upload, PartNumber=1, Body=part)["ETag"]
    assert len(client.list_parts(Bucket=bucket, Key="big", UploadId=upload)["Parts"]) == 1
    client.complete_multipart_upload(
        Bucket=bucket, Key="big", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]}
    )
    client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "big"}]})
    client.delete_object(Bucket=bucket, Key="odd +%&/ü")
    assert proxy.kinds() == {
        "CreateBucket": 1,
        "PUT": 1,
        "HEAD": 1,
        "GET": 1,
        "LIST": 1,
        "CreateMultipartUpload": 1,
        "UploadPart": 1,
        "ListParts": 1,
        "CompleteMultipartUpload": 1,
        "DeleteObjects": 1,
        "DELETE": 1,
    }
    assert proxy.counts()[("POST", "DeleteObjects")] == 1
    assert proxy.bytes_sent() == {("odd +%&/ü", None): len(body), ("big", 1): len(part)}
    assert b"<Key>big</Key>" in proxy.of_kind("DeleteObjects")[0].body
    assert all(request.status in (200, 204) for request in proxy.requests)
    proxy.close()


def test_a_hook_can_answer_itself_cut_the_connection_and_make_a_request_wait(juicefs, bucket, make_proxy):
    proxy = make_proxy(juicefs)
    client = juicefs.new_client(endpoint=proxy.url, retries={"total_max_attempts": 1})
    client.create_bucket(Bucket=bucket)
    gate = threading.Event()

    def hook(request):
        if request.key == "slow":
            gate.wait(10)
        return {
            "refused": s3_error(503, "SlowDown"),
            "made up": Answer(200, {"ETag": '"x"'}),
            "cut": Cut(),
            "half": Cut(body_bytes=40_000),
            "lost": Cut(answer_bytes=0),
        }.get(request.key)

    proxy.on_request(hook)
    with pytest.raises(ClientError, match="SlowDown"):
        client.put_object(Bucket=bucket, Key="refused", Body=b"x" * 100_000)
    assert client.put_object(Bucket=bucket, Key="made up", Body=b"x")["ETag"] == '"x"'
    for key in ("cut", "half", "lost"):
        with pytest.raises((ConnectionClosedError, EndpointConnectionError)):
            client.put_object(Bucket=bucket, Key=key, Body=b"x" * 100_000)
    slow = threading.Thread(target=client.put_object, kwargs={"Bucket": bucket, "Key": "slow", "Body": b"x"})
    slow.start()
    client.put_object(Bucket=bucket, Key="beside", Body=b"y")  # while the other one waits
    assert "slow" not in list_keys(client, bucket)
    gate.set()
    slow.join(10)
    assert set(contents(juicefs, bucket)) == {"lost", "slow", "beside"}
    assert {r.key: r.body_bytes for r in proxy.of_kind("PUT")}["half"] == 40_000


class Echo(threading.Thread):
    """A server that understands chunked bodies and says how many bytes it got, in a chunked answer."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.heads = []

    def run(self):
        sock, _ = self.listener.accept()
        stream = sock.makefile("rb")
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = stream.readline()
                if not line:
                    return
                head += line
            self.heads.append(head)
            if b"100-continue" in head:
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = b""
            while size := int(stream.readline(), 16):
                body += stream.read(size)
                stream.readline()
            stream.readline()
            text = hashlib.md5(body).hexdigest().encode()
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            sock.sendall(b"10\r\n" + text[:16] + b"\r\n10\r\n" + text[16:] + b"\r\n0\r\n\r\n")


def test_the_proxy_understands_chunked_bodies_and_expect_on_one_kept_connection():
    echo = Echo()
    echo.start()
    proxy = RecordingProxy(echo)
    data = [os.urandom(70_000), b"", os.urandom(10)]
    want = hashlib.md5(b"".join(data)).hexdigest()
    with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
        stream = sock.makefile("rb")
        for expect in (b"", b"Expect: 100-continue\r\n"):
            sock.sendall(b"PUT /b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + expect + b"\r\n")
            if expect:
                assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
                assert stream.readline() == b"\r\n"
            for piece in filter(None, data):
                sock.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
            sock.sendall(b"0\r\n\r\n")
            answer = b"".join(stream.readline() for _line in range(9))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.split(b"\r\n")[4::2][:2] == [want[:16].encode(), want[16:].encode()]
    assert len(echo.heads) == 2
    assert [r.body_bytes for r in proxy.requests] == [70_010, 70_010]
    proxy.close()


def test_folders_are_made_and_read_back(tmp_path: Path):
    tree(tmp_path / "t", {"a": "1", "d": {"e": b"2", "f/g": 5}, "x": "gone"})
    tree(tmp_path / "t", {"x": None})
    found = expected(tmp_path / "t")
    assert set(found) == {"a", "d/e", "d/f/g"}
    assert (found["a"], found["d/e"], len(found["d/f/g"])) == (b"1", b"2", 5)

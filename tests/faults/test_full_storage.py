"""An embedded store whose disk is full: told at once and in words, where it would say nothing for minutes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import disks
import pytest
from bench import Mirror, Service, s3_error, tree, wait_for
from stores import free_ports

from syncworker.system import disk_space
from syncworker.system.disk_space import FULL_BYTES, Space

MIB = 1 << 20


@pytest.mark.parametrize(
    ("total", "free", "wanted"),
    [
        (100 * MIB, 100 * MIB, "ok"),
        (100 * MIB, 6 * MIB, "ok"),
        (100 * MIB, 5 * MIB, "low"),
        (100 * MIB, FULL_BYTES - 1, "full"),
        (1000 * MIB, 49 * MIB, "low"),
        (1000 * MIB, 51 * MIB, "ok"),
        (0, 0, "full"),
    ],
)
def test_a_disk_is_low_from_95_percent_and_full_below_a_block(total: int, free: int, wanted: str) -> None:
    assert Space(total, free).state == wanted


def test_a_disk_that_cannot_be_asked_refuses_nothing(tmp_path: Path) -> None:
    assert disk_space.look(str(tmp_path / "none")) is None
    assert disk_space.refusal(str(tmp_path / "none")) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    disks.mount(folder, "64m")
    yield folder
    disks.unmount(folder)


def test_a_full_embedded_store_is_told_at_once_and_takes_deletions(
    small_disk: Path, make_service: Callable[..., Service]
) -> None:
    service = make_service(
        None,
        start=False,
        MINIO_PORT=str(free_ports(1)[0]),
        MINIO_ACCESS_KEY="embedded-access",
        MINIO_SECRET_KEY="embedded-secret",
        STORAGE_URL="",
        STORAGE_DIR=str(small_disk / "storage"),
    )
    service.start(timeout=30)
    try:
        assert service.get("/healthz").json()["storage_space"] == "ok"
        tree(service.uploads, {"photos": {f"f{n}": 15 * MIB for n in range(6)}})
        started = time.monotonic()
        job = service.sync("bucket")
        status = wait_for(lambda: (s := service.show(job))["finished_at"] and s, 30)
        assert (status["state"], status["error"]["code"]) == ("failed", "StorageFull"), status
        assert "the storage is full" in status["message"]
        assert time.monotonic() - started < 20
        health = service.get("/healthz")
        assert (health.status, health.json()["storage_space"]) == (200, "full")
        assert service.get("/folders").json()["storage_space"] == "full"
        shown = service.get("/metrics").body.decode()
        free = float(re.search(r"^syncworker_storage_disk_free_bytes (\S+)", shown, re.MULTILINE)[1])  # type: ignore[index]
        assert free < FULL_BYTES
        tree(service.uploads, {"photos": {f"f{n}": None for n in range(6)}})
        assert service.done("bucket")["state"] == "done", "an empty folder makes room"
        wait_for(lambda: service.get("/healthz").json()["storage_space"] == "ok")
    finally:
        service.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (507, "InsufficientStorage"),
        (507, "XMinioStorageFull"),
        (403, "QuotaExceeded"),
        (400, "XMinioAdminBucketQuotaExceeded"),
        (503, "InsufficientCapacity"),
    ],
)
def test_a_foreign_store_that_is_full_ends_the_job_at_once_with_the_same_words(
    status: int, code: str, mirror: Mirror
) -> None:
    mirror.make({f"f{n}": "1" for n in range(300)})
    mirror.proxy.on_request(lambda r: s3_error(status, code) if r.kind == "PUT" else None)
    run = mirror.start()
    assert run.status["error"]["code"] == code
    assert run.status["message"].startswith("the storage is full, or its quota is used up")
    assert len(mirror.proxy.of_kind("PUT")) < 200

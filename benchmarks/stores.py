"""The real stores that are measured against: those of the tests, each started fresh, with a bucket made."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "tests" / "support"))

import stores as _tests  # type: ignore[import-not-found]  # noqa: E402

__all__ = ["PROJECT", "free_port", "listed", "minimal_environment", "started"]


def minimal_environment(home: Path, **more: str) -> dict[str, str]:
    """PATH, HOME and what is asked for, nothing else of the machine's."""
    environment: dict[str, str] = _tests.minimal_environment(home, **more)
    return environment


def free_port() -> int:
    port: int = _tests.free_ports(1)[0]
    return port


@contextlib.contextmanager
def started(name: str, folder: Path, bucket: str) -> Iterator[Any]:
    """A fresh store with an empty bucket; its data goes when it ends."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store = _tests.all_stores()[name]
    store.start(folder)
    try:
        store.client().create_bucket(Bucket=bucket)
        yield store
    finally:
        store.kill()
        shutil.rmtree(folder, ignore_errors=True)


def listed(store: Any, bucket: str) -> tuple[int, int, str]:
    """(objects, bytes, digest of keys, sizes and dates) of a bucket; the last tells if it was touched."""
    count, size, digest = 0, 0, hashlib.sha256()
    for key, item in _tests.list_keys(store.client(), bucket).items():
        if not key.endswith("/"):
            count, size = count + 1, size + item["Size"]
            digest.update(f"{key} {item['Size']} {item['LastModified']}\n".encode())
    return count, size, digest.hexdigest()

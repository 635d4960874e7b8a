"""Local folders to sync, made once and kept: the same for every run and every tool."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# What the stub lists: file i is dDDDDD/file-FFF.bin, its content this.
BODY = b"x" * 1024
FILES_A_FOLDER = 1000
OLD = 1577836800  # 2020: older than every object, for the tools that compare dates
_SETTLE_SECONDS = 2.5  # ours reads a file again that has changed within 2 s of its last look


def work_folder() -> Path:
    """Where trees, jobs and stores are: BENCH_DIR, else below the folder for temporary files."""
    path = Path(os.environ.get("BENCH_DIR") or os.path.join(tempfile.gettempdir(), "syncworker-bench"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def key_of(i: int) -> str:
    return f"d{i // FILES_A_FOLDER:05}/file-{i % FILES_A_FOLDER:03}.bin"


def small(count: int, size: int) -> str:
    """`count` files of `size` bytes, no two alike; the name of the folder below `trees()`."""
    body = random.Random(size).randbytes(size)

    def content(i: int) -> bytes:
        return (f"{i:012}".encode() + body)[:size]

    return _made(f"small-{count}-{size}", count, content)


def same(count: int) -> str:
    """What the stub's `keys-` bucket lists: `count` files of 1 KiB."""
    return _made(f"same-{count}", count, lambda _: BODY)


def large(count: int, size_mib: int) -> str:
    """`count` files of so many MiB, no two MiB alike."""
    name = f"large-{count}-{size_mib}"
    folder = trees() / name
    if _is_ready(folder):
        return name
    source = random.Random(name)
    folder.mkdir(parents=True)
    for i in range(count):
        with (folder / f"file-{i}.bin").open("wb") as out:
            for _ in range(size_mib):
                out.write(source.randbytes(1 << 20))
        os.utime(folder / f"file-{i}.bin", (OLD, OLD))
    _set_ready(name)
    return name


def trees() -> Path:
    """The uploads root of the runs."""
    path = work_folder() / "trees"
    path.mkdir(exist_ok=True)
    return path


def _is_ready(folder: Path) -> bool:
    if folder.with_name(f"{folder.name}.ready").exists():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _set_ready(name: str) -> None:
    time.sleep(_SETTLE_SECONDS)
    (trees() / f"{name}.ready").touch()


def _made(name: str, count: int, content: Callable[[int], bytes]) -> str:
    folder = trees() / name
    if _is_ready(folder):
        return name
    for first in range(0, count, FILES_A_FOLDER):
        os.makedirs(folder / os.path.dirname(key_of(first)))
        for i in range(first, min(count, first + FILES_A_FOLDER)):
            fd = os.open(folder / key_of(i), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, content(i))
            os.utime(fd, (OLD, OLD))
            os.close(fd)
    _set_ready(name)
    return name

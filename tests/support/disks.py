"""Disks that are mounted and taken away: real mounts, which need root."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
_MS_BIND, _MS_PRIVATE = 4096, 1 << 18


def mount(folder: Path, size: str = "64m") -> None:
    """A new, empty disk in memory."""
    _mount(b"none", folder, b"tmpfs", 0, f"size={size}".encode())


def bind(source: Path, folder: Path) -> None:
    """Shows one directory at the place of another: both have one device number."""
    _mount(os.fsencode(source), folder, None, _MS_BIND, None)
    _mount(b"none", folder, None, _MS_PRIVATE, None)  # what is mounted below it shows nowhere else


def unmount(folder: Path) -> None:
    """As the kernel takes away a disk that is pulled out: files that are open stay readable."""
    assert _LIBC.umount2(os.fsencode(folder), _MNT_DETACH) == 0, os.strerror(ctypes.get_errno())


def unmount_all(below: Path) -> None:
    """Unmounts what is mounted at a directory or below it."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = Path(line.split(" ")[4].replace("\\040", " "))
        if point == below or below in point.parents:
            unmount(point)


def _mount(source: bytes, folder: Path, kind: bytes | None, flags: int, options: bytes | None) -> None:
    done = _LIBC.mount(source, os.fsencode(folder), kind, flags, options)
    assert done == 0, f"mount: {os.strerror(ctypes.get_errno())} (this needs root)"

"""A plan of any length, by folder: what it would do below each one, and its biggest lines.

The size in a line is that of the object, so a new file has none. The lines are sorted by the bytes of their
keys (the bucket's deletion comes last), so the lines below a folder are contiguous; a binary search finds
them, and one pass sums them in constant memory. Each call of `look` takes at most a second and returns
whether the sums are complete; the next call continues where it stopped.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import threading
import time
from collections import OrderedDict
from typing import Any, BinaryIO, NamedTuple

LOOK_SECONDS = 1.0
FOLDERS_MAX, BIGGEST_MAX = 200, 100
_LOOKS_KEPT = 8
_LINE = re.compile(rb'\{"op": "([a-z_]+)", "key": "((?:[^"\\]|\\.)*)", "size": ([0-9]+|null),')
_OPS = {b"upload": "upload", b"update": "update", b"delete": "delete", b"delete_bucket": "delete"}


class Line(NamedTuple):
    """`key` as in the file: JSON, without its quotes."""

    op: bytes
    key: bytes
    size: int

    def is_below(self, escaped: bytes) -> bool:
        """Whether its key begins so; the bucket's deletion is below no folder."""
        return self.op != b"delete_bucket" and self.key.startswith(escaped)


def parse(line: bytes) -> Line:
    """Raises ValueError if it is no line of a plan."""
    match = _LINE.match(line)
    if match is None:
        raise ValueError("not a line of a plan")
    op, key, size = match.groups()
    return Line(op, key, 0 if size == b"null" else int(size))


def _text(key: bytes) -> str:
    text: str = json.loads(b'"' + key + b'"')
    return text


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def escape(text: str) -> bytes:
    """Returns `text` as it is in a key of a plan's line."""
    return json.dumps(text)[1:-1].encode()


def first_below(file: BinaryIO, folder: str) -> int:
    """The offset of the first line whose key is not less than `folder`; the file's size if there is none."""
    wanted = _raw(folder)
    low, high = 0, os.fstat(file.fileno()).st_size
    while low < high:
        # The first line that begins at `middle` or later; one that begins before `low` is less.
        middle = (low + high) // 2
        file.seek(max(0, middle - 1))
        if middle:
            file.readline()
        begin = file.tell()
        line = file.readline()
        if begin >= high or not line:
            high = middle
            continue
        found = parse(line)
        if found.op != b"delete_bucket" and _raw(_text(found.key)) < wanted:
            low = begin + len(line)
        else:
            high = middle
    return low


class _Pass:
    """One pass over the lines below one folder. The folders in it come one after another."""

    def __init__(self, below: str, inode: int) -> None:
        self._inode = inode
        self.lock = threading.Lock()
        self.complete = False
        self._below, self._offset = below, -1
        self._lines = self._count = 0
        self._at = b""  # the folder that is being summed, as in the file
        self._sums = _no_sums()
        self._here: dict[str, int] | None = None
        self._folders: list[tuple[int, int, int, bytes, dict[str, int]]] = []
        self._biggest: dict[str, list[tuple[float, int, bytes]]] = {
            op: [] for op in ("delete", "upload", "update")
        }

    def go_on(self, path: str, until: float) -> None:
        escaped = escape(self._below)
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_ino != self._inode:
                raise FileNotFoundError(path)  # the plan was replaced
            if self._offset < 0:
                self._offset = first_below(file, self._below) if self._below else 0
            file.seek(self._offset)
            for line in file:
                found = parse(line)
                if self._below and not found.is_below(escaped):
                    break
                self._take(line, found, len(escaped))
                self._offset += len(line)
                if self._lines % 1000 == 0 and time.monotonic() > until:
                    return
        self._close()
        self.complete = True

    def _take(self, line: bytes, found: Line, skip: int) -> None:
        self._lines += 1
        op = _OPS.get(found.op, "update")
        size = float("inf") if found.op == b"delete_bucket" else found.size
        _keep_largest(self._biggest[op], (size, -self._lines, line), BIGGEST_MAX)  # of equal ones the first
        if found.op == b"delete_bucket":
            return  # it is in no folder
        end = found.key.find(b"/", skip) + 1
        if not end:
            sums = self._here = self._here or _no_sums()
        else:
            if found.key[:end] != self._at:
                self._close()
                self._at = found.key[:end]
            sums = self._sums
        sums[f"{op}s"] += 1
        if op == "delete":
            sums["delete_bytes"] += found.size

    def _close(self) -> None:
        """Ends a folder. Keeps the folders with the most deletions, then those with the most uploads."""
        if not self._at:
            return
        self._count += 1
        sums, self._sums = self._sums, _no_sums()
        item = (sums["deletes"], sums["uploads"] + sums["updates"], -self._count, self._at, sums)
        self._at = b""
        _keep_largest(self._folders, item, FOLDERS_MAX)

    def answer(self) -> dict[str, Any]:
        folders = [{"folder": _text(raw), **sums} for *_, raw, sums in sorted(self._folders, reverse=True)]
        biggest = {
            op: [json.loads(line) for *_, line in sorted(found, reverse=True)]
            for op, found in self._biggest.items()
        }
        return {
            "complete": self.complete,
            "lines": self._lines,
            "folders_total": self._count,
            "folders": folders,
            "files": self._here,
            "biggest": biggest,
        }


def _keep_largest(heap: list[Any], item: Any, most: int) -> None:
    (heapq.heappush if len(heap) < most else heapq.heappushpop)(heap, item)


def _no_sums() -> dict[str, int]:
    return {"deletes": 0, "delete_bytes": 0, "uploads": 0, "updates": 0}


class PlanSums:
    """The sums of plans that were asked for. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passes: OrderedDict[tuple[str, int, int, str], _Pass] = OrderedDict()

    def look(self, path: str, below: str) -> dict[str, Any]:
        """`complete` false: call again to continue. FileNotFoundError: no plan; ValueError: damaged."""
        until = time.monotonic() + LOOK_SECONDS
        stamp = os.stat(path)
        key = (path, stamp.st_ino, stamp.st_mtime_ns, below)
        with self._lock:
            one = self._passes.setdefault(key, _Pass(below, stamp.st_ino))
            self._passes.move_to_end(key)
            while len(self._passes) > _LOOKS_KEPT:
                self._passes.popitem(last=False)
        with one.lock:
            if not one.complete:
                one.go_on(path, until)
            return one.answer()

"""A plan of any length, by folder: what it would do below each one, and its biggest lines.

The size in a line is that of the object, so what is new has none. A plan's lines come in the order of their
keys' bytes (the bucket's deletion last), so the lines below a folder are one stretch of the file, found by
halving; its sums are made in one pass in constant memory. Each call of `look` takes one second at most and
says whether the sums are complete; the next call continues where it stopped.
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
    """`key` as it stands in the file: JSON, without its quotes."""

    op: bytes
    key: bytes
    size: int

    def is_below(self, escaped: bytes) -> bool:
        """Whether its key begins so; the bucket's deletion is in no folder."""
        return self.op != b"delete_bucket" and self.key.startswith(escaped)


def parse(line: bytes) -> Line:
    """ValueError: it is none of a plan's lines."""
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
    """As it stands within a key of a plan's line."""
    return json.dumps(text)[1:-1].encode()


def first_below(file: BinaryIO, folder: str) -> int:
    """Where the first line begins whose key is not less than `folder`; the file's size: there is none."""
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
    """Over the lines below one folder. The folders in it come one after another."""

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
                raise FileNotFoundError(path)  # there is another plan since
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
        biggest = self._biggest[op]
        size = float("inf") if found.op == b"delete_bucket" else found.size
        if len(biggest) < BIGGEST_MAX:
            heapq.heappush(biggest, (size, -self._lines, line))
        elif size > biggest[0][0]:
            heapq.heapreplace(biggest, (size, -self._lines, line))
        if found.op == b"delete_bucket":
            return  # it is in no folder
        end = found.key.find(b"/", skip) + 1
        if not end:
            self._here = self._here or _no_sums()
            sums = self._here
        else:
            if found.key[:end] != self._at:
                self._close()
                self._at = found.key[:end]
            sums = self._sums
        sums[f"{op}s"] += 1
        if op == "delete":
            sums["delete_bytes"] += found.size

    def _close(self) -> None:
        """One folder has ended. Kept are those of which most is deleted, then those of which most is sent."""
        if not self._at:
            return
        self._count += 1
        sums, self._sums = self._sums, _no_sums()
        item = (sums["deletes"], sums["uploads"] + sums["updates"], -self._count, self._at, sums)
        self._at = b""
        if len(self._folders) < FOLDERS_MAX:
            heapq.heappush(self._folders, item)
        else:
            heapq.heappushpop(self._folders, item)

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


def _no_sums() -> dict[str, int]:
    return {"deletes": 0, "delete_bytes": 0, "uploads": 0, "updates": 0}


class PlanSums:
    """Of plans that somebody looks at. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passes: OrderedDict[tuple[str, int, int, str], _Pass] = OrderedDict()

    def look(self, path: str, below: str) -> dict[str, Any]:
        """`complete` false: look again, and it goes on. FileNotFoundError: no plan; ValueError: damaged."""
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

"""A plan in the making: what a job would do, noted in any order, written down in the order of the keys.

What is noted waits in a table on disk, a thousand lines at a time in memory. `write` leaves the whole plan
under a temporary name, synced; who publishes the job's state renames it (`publish`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from syncworker.model import ObjectEntry
from syncworker.plan.spool import Ordered
from syncworker.system import durable_files


class Written(NamedTuple):
    """A plan under its temporary name: the SHA-256 of the file, and its lines."""

    etag: str
    lines: int


class Draft:
    """`prefix` is that of the keys people see. OSError: the disk is full."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._bucket: str | None = None
        self.lines = 0
        self._rows = Ordered()

    def note(self, op: str, key: str, obj: ObjectEntry | None, reason: str) -> None:
        listed = (None, None, None) if obj is None else (obj.size, obj.etag or None, obj.modified or None)
        self._rows.append(self._prefix + key, (op, *listed, reason))
        self.lines += 1

    def delete(self, objects: Iterable[ObjectEntry]) -> None:
        for obj in objects:
            self.note("delete", obj.key, obj, "gone")

    @property
    def deletes_bucket(self) -> bool:
        return self._bucket is not None

    def delete_bucket(self, name: str) -> None:
        self._bucket = name
        self.lines += 1

    def write(self, path: str) -> Written:
        """Under the temporary name of `path`."""
        digest, lines = hashlib.sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal lines
            for line in self._texts():
                digest.update(line)
                lines += 1
                yield line

        durable_files.write_new(_temporary(path), counted())
        return Written(digest.hexdigest(), lines)

    def _texts(self) -> Iterator[bytes]:
        for key, record in self._rows:
            yield _line(key, *record)
        if self._bucket is not None:
            yield _line(self._bucket, "delete_bucket", None, None, None, "gone")

    def close(self) -> None:
        self._rows.close()


def publish(path: str) -> None:
    """Gives the plan that `write` has written its name, durably."""
    durable_files.move_aside(_temporary(path), path)
    durable_files.sync_directory(os.path.dirname(path) or ".")


def _temporary(path: str) -> str:
    return f"{path}.tmp"


def _line(key: str, op: str, size: int | None, etag: str | None, modified: str | None, reason: str) -> bytes:
    value = {"op": op, "key": key, "size": size, "etag": etag, "modified": modified, "reason": reason}
    return (json.dumps(value) + "\n").encode()

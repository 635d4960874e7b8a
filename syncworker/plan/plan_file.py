"""Writes the plan of a job to `jobs/ID.plan.jsonl` (`Draft`), and reads an approved one (`ApprovedPlan`).

One line per operation, in order of the keys; the deletion of the bucket is last. Size, etag and modified are
those of the listed object, or null if there is none:

| op | reason |
| --- | --- |
| upload | new, size, content |
| update | headers |
| delete | gone |
| delete_bucket | gone; the key is the bucket |

A draft records operations in any order, and writes the whole plan under a temporary name, synced; `publish`
renames it, together with the job's state. The status has the number of lines and the SHA-256 of the file: a
file that does not match them is refused. The operations of a draft and the deletions of an approved plan are
stored on disk, so memory does not grow with a plan.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from syncworker.errors import FatalError
from syncworker.model import ObjectEntry
from syncworker.plan.spool import Ordered, Table
from syncworker.system import durable_files

OPERATIONS = ("upload", "update", "delete", "delete_bucket")
_FIELDS = ("op", "key", "size", "etag", "modified", "reason")


class Draft:
    """Collects a plan. `prefix`: put before each key in the file. Raises OSError if the disk is full."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.bucket: str | None = None  # is to be deleted
        self.lines = 0
        self._rows = Ordered()

    def note(self, op: str, key: str, obj: ObjectEntry | None, reason: str) -> None:
        key = self._prefix + key
        listed = (None, None, None) if obj is None else (obj.size, obj.etag or None, obj.modified or None)
        self._rows.append(key, (op, key, *listed, reason))
        self.lines += 1

    def delete(self, objects: Iterable[ObjectEntry]) -> None:
        for obj in objects:
            self.note("delete", obj.key, obj, "gone")

    def delete_bucket(self, name: str) -> None:
        self.bucket = name
        self.lines += 1

    def write(self, path: str) -> tuple[str, int]:
        """Writes the plan under the temporary name of `path`. Returns its SHA-256 and number of lines."""
        digest, lines = hashlib.sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal lines
            for record in self._records():
                line = (json.dumps(dict(zip(_FIELDS, record, strict=True))) + "\n").encode()
                digest.update(line)
                lines += 1
                yield line

        durable_files.write_new(f"{path}.tmp", counted())
        return digest.hexdigest(), lines

    def _records(self) -> Iterator[tuple[Any, ...]]:
        yield from self._rows
        if self.bucket is not None:
            yield "delete_bucket", self.bucket, None, None, None, "gone"

    def close(self) -> None:
        self._rows.close()


def publish(path: str) -> None:
    """Renames the plan that `Draft.write` has written to its final name, durably."""
    durable_files.move_aside(f"{path}.tmp", path)
    durable_files.sync_directory(os.path.dirname(path) or ".")


class ApprovedPlan:
    """The deletions that were approved; keys are without the job's prefix."""

    def __init__(self, path: str, plan: Mapping[str, Any], prefix: str) -> None:
        """Reads the plan. Raises FatalError PlanDamaged if it is not the file that was written."""
        self.deletes_bucket = False
        self._objects = Table()
        try:
            self._load(path, plan, prefix)
        except BaseException:
            self._objects.close()
            raise

    def _load(self, path: str, plan: Mapping[str, Any], prefix: str) -> None:
        digest, lines = hashlib.sha256(), 0
        try:
            for line in durable_files.lines(path):
                digest.update(line)
                lines += 1
                self._take(json.loads(line), prefix)
        except FileNotFoundError:
            raise _damaged("is not there") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise  # of our own table
            raise _damaged(f"cannot be read ({error})") from error
        if digest.hexdigest() != plan.get("etag") or lines != plan.get("lines"):
            raise _damaged("is not what was written")

    def _take(self, line: Mapping[str, Any], prefix: str) -> None:
        if line["op"] == "delete_bucket":
            self.deletes_bucket = True
        elif line["op"] == "delete":
            key, size, *texts = line["key"], line["size"], line["etag"] or "", line["modified"] or ""
            if type(size) is not int or size >> 63 or not all(isinstance(t, str) for t in (key, *texts)):
                raise ValueError(f"an object of {size!a} bytes")
            self._objects.add(ObjectEntry(key.removeprefix(prefix), size, *texts))

    def others(self, objects: Iterable[ObjectEntry]) -> int:
        """Returns how many of these objects the plan does not name in their present version."""
        return sum(not self.names(obj) for obj in objects)

    def names(self, obj: ObjectEntry) -> bool:
        known = self._objects.get(obj.key)
        if known is None:
            # A store that is a file system may show the folders that the deleted objects were in.
            return obj.key.endswith("/") and not obj.size and self._objects.has_below(obj.key)
        return known.etag == obj.etag and (bool(obj.etag) or known.modified == obj.modified)

    def close(self) -> None:
        self._objects.close()


def _damaged(how: str) -> FatalError:
    return FatalError(
        "PlanDamaged", f"the approved plan {how}, so nothing was deleted: make a new one with a new job"
    )

"""`jobs/ID.plan.jsonl`, read: a plan that somebody has approved, and what it lets a job delete.

One line an operation, in the order of their keys, a bucket's deletion last; size, etag and modified are of
the object as it was listed, null where there is none:

| op | reason |
| --- | --- |
| upload | new, size, content |
| update | headers |
| delete | gone |
| delete_bucket | gone; the key is the bucket |

The status has the number of lines and the SHA-256 of the file: what is not that file is not believed. The
deletions wait on disk, so memory does not grow with a plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from syncworker.errors import FatalError
from syncworker.model import ObjectEntry
from syncworker.plan.spool import Table
from syncworker.system import durable_files

OPERATIONS = ("upload", "update", "delete", "delete_bucket")


class ApprovedPlan:
    """The deletions that were approved; keys are without the job's prefix."""

    def __init__(self, path: str, plan: Mapping[str, Any], prefix: str) -> None:
        """Reads all of it. FatalError PlanDamaged: it is not the file that was written."""
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
            raise _damaged(f"cannot be read ({error})") from error
        if digest.hexdigest() != plan.get("etag") or lines != plan.get("lines"):
            raise _damaged("is not what was written")

    def _take(self, line: Mapping[str, Any], prefix: str) -> None:
        if line["op"] == "delete_bucket":
            self.deletes_bucket = True
        elif line["op"] == "delete":
            key = line["key"].removeprefix(prefix)
            self._objects.add(ObjectEntry(key, line["size"], line["etag"] or "", line["modified"] or ""))

    def others(self, objects: Iterable[ObjectEntry]) -> int:
        """How many of these it does not name, or names as they are no more."""
        return sum(not self.names(obj) for obj in objects)

    def names(self, obj: ObjectEntry) -> bool:
        known = self._objects.get(obj.key)
        if known is None:
            return self._is_folder(obj.key, obj.size)
        if known.etag != obj.etag:
            return False
        return bool(obj.etag) or known.modified == obj.modified

    def _is_folder(self, key: str, size: int | None) -> bool:
        """A store that is a file system may show the folders that the deleted objects were in."""
        return key.endswith("/") and not size and self._objects.has_below(key)

    def close(self) -> None:
        self._objects.close()


def _damaged(how: str) -> FatalError:
    return FatalError(
        "PlanDamaged", f"the approved plan {how}, so nothing was deleted: make a new one with a new job"
    )

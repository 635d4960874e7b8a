"""The files of a destination (a bucket, or a prefix in it): its lock, its facts, its index."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from syncworker.jobs.status import prefix_of
from syncworker.storage_url import destination_id, earlier_destination_id
from syncworker.system import durable_files

EARLIER = ".earlier"  # the suffix of a facts file from another spelling of the address


class Destination:
    """The destination of one job. `path`: the job directory; `facts_path`: written by the holder of the lock,
    and never removed; `members_path`: lists the members of a cluster that work for the holder."""

    def __init__(self, path: str, status: Mapping[str, Any]) -> None:
        self.path = path
        self.storage_url, self.bucket = status["storage_url"], status["dest"]
        self.prefix = prefix_of(status)
        name = destination_id(self.storage_url, self.bucket, self.prefix)
        self.index_path = os.path.join(path, ".index", f"{name}.sqlite")
        self.facts_path = os.path.join(path, ".dest", f"{name}.json")
        self.members_path = os.path.join(path, ".dest", f"{name}.members")

    def lock(self) -> durable_files.LockChain:
        """Returns the lock of the bucket, or of a prefix in it, which one job holds alone. Its holder shares
        the locks of the bucket and of shorter prefixes with other jobs below them."""
        around = ["", *(self.prefix[: at + 1] for at, c in enumerate(self.prefix) if c == "/")]
        names = [destination_id(self.storage_url, self.bucket, prefix) for prefix in around]
        paths = [os.path.join(self.path, ".dest", f"{name}.lock") for name in names]
        return durable_files.LockChain([durable_files.Lock(path, shared=path != paths[-1]) for path in paths])

    def adopt_files(self) -> bool:
        """Renames the files of an earlier version, whose names depended on the spelling of the address. Only
        the holder of the lock may call it. Returns False if a worker of that version uses them."""
        earlier = earlier_destination_id(self.storage_url, self.bucket)
        name = destination_id(self.storage_url, self.bucket)
        if earlier == name or self.prefix:  # prefixes are younger than those names
            return True
        with durable_files.Lock(os.path.join(self.path, ".dest", f"{earlier}.lock")) as lock:
            if not lock.acquire():
                return False
            for kept, beside in ((".dest/{}.json", ()), (".index/{}.sqlite", ("-wal", "-shm"))):
                old, new = (os.path.join(self.path, kept.format(each)) for each in (earlier, name))
                if os.path.lexists(new) and new == self.facts_path:
                    new += EARLIER  # facts protect data, so they are kept: worker/mount_check.py merges them
                if os.path.lexists(new):
                    continue
                for suffix in (*beside, ""):  # the file itself last: until then a retry moves all of them
                    if os.path.lexists(old + suffix):
                        durable_files.move_aside(old + suffix, new + suffix)
        return True

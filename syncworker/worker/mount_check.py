"""Remembers which disks were mounted at or below a folder; while one is missing, nothing is deleted.

`jobs/.dest/NAME.json` holds the facts that protect a destination. The worker that holds the destination's
lock writes it. It is not a cache, and is kept when the index is lost:

- `mounts`: for each source, the mount points that its syncs have seen, and the key prefixes below them. Paths
  are relative to the uploads root; only the mount that holds the root itself has an absolute path.
- `root_device`: the device of the uploads root when it was last seen not empty.
- `own_disk`: sources that an older version saw on their own disk, whose mount point is not yet known.
- `lost`: the file was damaged. No bucket is deleted until a job is asked to forget the mounts.

Rules
- A mount is remembered, durably, before a file below it is sent.
- It is missing if it was not mounted at the job's start, is not mounted right before the deletions, or was
  not mounted when the walk reached it.
- While one is missing, nothing is deleted, with one exception: its directory was walked and nothing below it
  is to be deleted. When such a job ends `done`, that mount is forgotten, unless the walk saw it mounted.
- A job with filters, or one that deletes nothing, forgets no mount.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import accumulate, chain
from typing import Any

from syncworker.errors import FatalError
from syncworker.escape import escape_non_utf8
from syncworker.folder import symlinks
from syncworker.folder.uploads_root import Tree
from syncworker.index.database import Index
from syncworker.jobs.destination import EARLIER
from syncworker.options.effective import Options
from syncworker.system import durable_files, mount_table

_VERSION = 1
_MOST_PREFIXES = 100  # per mount: a folder full of symlinks to another disk may have any number
_NAMED = 3
_OWN_DISK = "own_disk "

Prefixes = dict[str, list[str]]  # of keys, by the path of a mount point


@dataclass(slots=True)
class Facts:
    """The contents of a destination's file."""

    root_device: str | None = None
    own_disk: list[str] = field(default_factory=list)
    mounts: dict[str, Prefixes] = field(default_factory=dict)
    lost: bool = False

    def add(self, other: Facts) -> None:
        """Adds the facts from another file of the same destination."""
        self.root_device = self.root_device or other.root_device
        self.own_disk += [source for source in other.own_disk if source not in self.own_disk]
        for source, mounts in other.mounts.items():
            known = self.mounts.setdefault(source, {})
            for path, prefixes in mounts.items():
                known[path] = [*known.get(path, []), *prefixes]
        self.lost = self.lost or other.lost


def parse(value: Mapping[str, Any]) -> Facts:
    """Parses the file's JSON. Raises ValueError if `_save` did not write it."""
    try:
        if value["version"] != _VERSION:
            raise ValueError("another version")
        facts = Facts(value["root_device"], value["own_disk"], value["mounts"], value["lost"])
        lists = [facts.own_disk, *(below for mounts in facts.mounts.values() for below in mounts.values())]
        texts = [*chain.from_iterable(lists), "" if facts.root_device is None else facts.root_device]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    typed = all(isinstance(text, str) for text in texts) and all(isinstance(one, list) for one in lists)
    if not typed or not isinstance(facts.lost, bool):
        raise ValueError("not the types that were written")
    return facts


def _read(path: str) -> Facts:
    try:
        return parse(durable_files.read_json(path) or {})
    except ValueError:
        return Facts(lost=True)


def blocking(missing: Prefixes, walked: set[str], deletes: Iterable[str]) -> list[str]:
    """Returns the missing mounts that forbid deletions: those whose directory was not walked, and those that
    have one of the keys in `deletes` below them."""
    harmless = {path: tuple(prefixes) for path, prefixes in missing.items() if path in walked}
    for key in deletes if harmless else ():
        for path in [path for path, prefixes in harmless.items() if key.startswith(prefixes)]:
            del harmless[path]
        if not harmless:
            break
    return sorted(missing.keys() - harmless.keys())


class MountCheck:
    """Checks the mounts for one job. Every method blocks on the disk, and no two run concurrently."""

    def __init__(self, path: str, index: Index, source: str, options: Options) -> None:
        self._saves = not options.plan  # a plan changes nothing that a later sync uses
        self._path = path
        self._index = index
        self._source = source
        self._options = options
        self._seen: set[str] = set()  # by the walk
        self._missing_before: set[str] = set()
        self._base: str | None = None  # the source's path, symlinks resolved; None if it does not exist
        self._harmless: list[str] = []

    def begin(self, tree: Tree) -> None:
        """Records which mounts are present and which are missing. Raises FatalError DiskNotMounted if the
        uploads root is empty and was on another device."""
        self._tree = tree
        self._load()
        self._check_root()
        for path in self._way():
            self._remember(path, "")
        below = f"{self._base}/" if self._base else ""
        for point in mount_table.points_below(tree.root) if self._base is not None else ():
            if point.startswith(below) and self._is_mounted(point):
                self._remember(point, point.removeprefix(below) + "/")
        self._place_own_disk()
        self._missing_before = {path for path in self._known if not self._is_mounted(path)}
        if self._options.forget_mounts:
            self._drop(self._missing_before)
            self._facts.lost = False
            self._save()

    def note(self, path: str, prefix: str) -> None:
        """Records a mount point that the walk has reached, before the walk continues."""
        self._seen.add(path)
        self._remember(path, prefix)

    def guard_bucket(self) -> None:
        """Raises unless all disks are known to be mounted. Called before the bucket is deleted."""
        if self._facts.lost:
            raise FatalError(
                "DestinationFactsLost",
                "what was known of this destination's disks is damaged (the file .dest/"
                f"{os.path.basename(self._path)} in the jobs folder), so the bucket was not deleted: make"
                " sure that every disk of the folder is mounted, then sync once with forget_mounts=1",
            )
        if missing := self._missing():
            raise _not_mounted(sorted(missing))

    def guard(self, deletes: Iterable[tuple[Any, ...]]) -> None:
        """Raises if a missing disk forbids all deletions or one of these. Each record begins with its key."""
        missing = self._missing() if self._options.delete else {}
        walked = {path for path in missing if path.startswith("/") or self._is_directory(path)}
        if found := blocking(missing, walked, (str(record[0]) for record in deletes)):
            raise _not_mounted(found)
        # Keep a mount that the walk has seen: it was unmounted later, and its objects are in the bucket.
        self._harmless = (
            [] if self._options.is_filtered else [path for path in missing if path not in self._seen]
        )

    def forget_harmless(self) -> None:
        """Forgets the missing mounts that protect nothing. Called when the job is done."""
        if self._harmless:
            self._drop(self._harmless)
            self._save()

    # -- what is mounted
    @property
    def _known(self) -> Prefixes:
        return self._facts.mounts.setdefault(self._source, {})

    def _missing(self) -> Prefixes:
        found = {
            path: prefixes
            for path, prefixes in self._known.items()
            if path in self._missing_before or not self._is_mounted(path) or self._was_passed(path)
        }
        if self._source in self._facts.own_disk:
            found[self._source] = [""]
        return found

    def _was_passed(self, path: str) -> bool:
        """Returns whether the walk must have reached the path and saw no mount there."""
        if self._options.is_filtered or self._base is None or path in self._seen or path.startswith("/"):
            return False  # with filters, the walk may skip folders
        return path.startswith(f"{self._base}/" if self._base else "")

    def _way(self) -> list[str]:
        """Returns the mount points on the source's path, beginning with that of the uploads root."""
        with durable_files.closing(os.open(self._tree.root, mount_table.NAME_DIRECTORY)) as root:
            above = mount_table.point_above(root)
        path = ""
        places: list[str] = []
        for name in self._source.split("/") if self._source else []:
            try:
                path, _ = symlinks.resolve(self._tree, name, path)
            except OSError:
                break
            places += accumulate(path.split("/"), "{}/{}".format)
        else:
            self._base = path
        found = [place for place in dict.fromkeys(places) if self._is_mounted(place)]
        return found if above is None else [above, *found]

    def _is_mounted(self, path: str) -> bool:
        try:
            if path.startswith("/"):
                fd = os.open(path, mount_table.NAME_DIRECTORY)
            else:
                fd = self._tree.open_name(path)
            with durable_files.closing(fd):
                return mount_table.is_mount_point(fd)
        except OSError:  # it is gone; without the permission to search it, the job fails anyway
            return False

    def _is_directory(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(symlinks.resolve(self._tree, path)[1].st_mode)
        except OSError:
            return False

    def _check_root(self) -> None:
        device = str(os.stat(self._tree.root).st_dev)
        with os.scandir(self._tree.root) as entries:
            empty = next(entries, None) is None
        before = self._facts.root_device
        if empty and before not in (None, device) and not self._options.forget_mounts:
            raise FatalError(
                "DiskNotMounted",
                "the uploads folder is empty and on another device than at the last sync: its disk is not"
                " mounted, so nothing was deleted. Mount it and resume the job; if the disk is gone for good,"
                " sync once with forget_mounts=1",
            )
        if before != device and (not empty or self._options.forget_mounts):
            self._facts.root_device = device
            self._save()

    def _place_own_disk(self) -> None:
        """Removes the source from `own_disk` if its device is not the root's: its mounts are now known."""
        if self._source not in self._facts.own_disk or self._base is None:
            return
        info = self._tree.lstat(self._base)
        if info is not None and info.st_dev != self._tree.identity[0]:
            self._facts.own_disk.remove(self._source)
            self._save()

    # -- the file
    def _load(self) -> None:
        self._facts = _read(self._path) if os.path.lexists(self._path) else self._from_index()
        if os.path.lexists(other := self._path + EARLIER):
            self._facts.add(_read(other))
            self._save()
            if self._saves:
                durable_files.remove(other)

    def _from_index(self) -> Facts:
        """Reads the facts from the index, where an older version kept them."""
        rows = self._index.facts()
        disks = [name for name in rows if name.startswith(_OWN_DISK)]
        own = [name.removeprefix(_OWN_DISK) for name in disks if rows[name] == "1"]
        facts = self._facts = Facts(rows.get("root_device"), own)
        if disks or "root_device" in rows:
            self._save()
            self._index.drop_facts(["root_device", *disks])
        return facts

    def _remember(self, path: str, prefix: str) -> None:
        prefixes = self._known.setdefault(path, [])
        if prefix.startswith(tuple(prefixes)):
            return
        prefixes[:] = [*(other for other in prefixes if not other.startswith(prefix)), prefix]
        if len(prefixes) > _MOST_PREFIXES:
            prefixes[:] = [""]
        self._save()

    def _drop(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._known.pop(path, None)
        if self._source in self._facts.own_disk:
            self._facts.own_disk.remove(self._source)

    def _save(self) -> None:
        if not self._saves:
            return
        try:
            durable_files.replace_json(self._path, {"version": _VERSION, **asdict(self._facts)}, durable=True)
        except OSError as error:
            raise FatalError(
                "LocalError",
                f"the list of mounted disks cannot be written ({error.strerror}): check the disk of the jobs"
                " folder, then resume",
            ) from error


def _not_mounted(paths: list[str]) -> FatalError:
    names = ", ".join(escape_non_utf8(path) or "(the whole folder)" for path in paths[:_NAMED])
    if len(paths) > _NAMED:
        names += f" and {len(paths) - _NAMED} more"
    return FatalError(
        "DiskNotMounted",
        f"an earlier sync saw a disk mounted at {names}, which is not mounted now: nothing was deleted. Mount"
        " it and resume the job; if the disk is gone for good, sync once with forget_mounts=1",
    )

"""Disks that come and go below a crash loop's folder: the uploads root itself, a tmpfs, a bind mount, and,
where the kernel has one, a file system that ignores case.

The files of a disk lie on its *medium*, elsewhere, and are changed there; mounted it shows them in the
folder. `protected` are the keys that no job may delete: of a disk that is away, those that the bucket held,
and that had a file, when it went. They are free again when the disk is back, or when somebody has said that
it is gone for good.
"""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from pathlib import Path

from disks import bind, mount, unmount, unmount_all
from histories import History


class Disk:
    """`below` is the prefix of its keys; "" for the uploads root, whose mirrored folder is `photos`."""

    def __init__(self, base: Path, place: Path, below: str, seed: int, kind: str) -> None:
        self.place, self.below = place, below
        self.is_mounted = False
        self.protected: set[str] = set()
        medium = base / f"medium-{kind}"
        medium.mkdir()
        self.ignores_case = kind == "folded" and _mount_folding(base / "folded.img", medium)
        if kind == "tmpfs":
            mount(medium, "600m")
        self.content = medium / "content"
        self.content.mkdir()
        if self.ignores_case:
            subprocess.run(["chattr", "+F", self.content], check=True)
        folder = self.content if below else self.content / "photos"
        self.history = History(folder, medium / "staging", random.Random(seed), keeps_folder=bool(below))
        self.history.ignores_case = self.ignores_case

    def mount(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        bind(self.content, self.place)
        self.is_mounted = True
        self.protected = set()


class Disks:
    """The root and the disks below `photos`."""

    def __init__(self, base: Path, uploads: Path, seed: int) -> None:
        self.base, self.uploads, self._rng = base, uploads, random.Random(seed)
        self.root = Disk(base, uploads, "", seed + 1, "root")
        (self.root.content / "other").mkdir()  # the root is never empty
        kinds = ("tmpfs", "bound", "folded")
        self.below = [
            Disk(base, uploads / "photos" / kind, f"{kind}/", seed + 2 + number, kind)
            for number, kind in enumerate(kinds)
        ]
        self.counts: Counter[str] = Counter()
        self.mount_all()

    @property
    def history(self) -> History:
        """Of the files that are on no disk below the root."""
        return self.root.history

    @property
    def away(self) -> list[Disk]:
        return [disk for disk in (self.root, *self.below) if not disk.is_mounted]

    @property
    def protected(self) -> set[str]:
        return {key for disk in self.away for key in disk.protected}

    def change(self) -> None:
        """One random change to the files of the root or of a disk that is mounted."""
        mounted = [disk for disk in self.below if disk.is_mounted]
        disk = self._rng.choice([self.root] * 3 + mounted) if self.root.is_mounted else self.root
        disk.history.change()

    def has_had(self, key: str, md5: str) -> bool:
        """Whether this is a version that the file of the key has had, on any disk."""
        found = md5 in self.history.versions_of(key)
        for disk in self.below:
            if key.startswith(disk.below):
                found |= md5 in disk.history.versions_of(key.removeprefix(disk.below))
        return found

    def mount_all(self) -> None:
        for disk in self.away:
            disk.mount()

    def come_and_go(self, keys: set[str]) -> bool:
        """Perhaps mounts what is away, perhaps takes a disk away; `keys` are those of the bucket."""
        before = self.away
        if before and self._rng.random() < 0.5:
            self.mount_all()
        if self._rng.random() < 0.4:
            self.take(self._rng.choices([self.root, *self.below], [1, 2, 2, 1])[0], keys)
        return self.away != before

    def take(self, disk: Disk, keys: set[str]) -> None:
        if not disk.is_mounted or not self.root.is_mounted:
            return
        gone = [disk] if disk.below else [self.root, *(d for d in self.below if d.is_mounted)]
        for one in gone:
            files = set(one.history.files())
            one.protected = {
                key for key in keys if key.removeprefix(one.below) in files and key.startswith(one.below)
            }
        if not disk.below:  # what it hides is away with it
            self.root.protected -= {key for key in keys for d in self.below if key.startswith(d.below)}
        unmount(disk.place)
        for one in gone:
            one.is_mounted = False
        self.counts["root" if not disk.below else disk.below.strip("/")] += 1
        if disk.below and self._rng.random() < 0.4:  # the mount point is not always empty
            self.history.write(f"{disk.below}stale", self.history.body(20))

    def forget(self) -> None:
        """Somebody has said that what is away is gone for good."""
        for disk in self.away:
            disk.protected = set()

    def close(self) -> None:
        unmount_all(self.base)


def _mount_folding(image: Path, medium: Path) -> bool:
    """An ext4 that ignores case; not every kernel has it."""
    with image.open("wb") as file:
        file.truncate(600 << 20)
    make = ["mkfs.ext4", "-q", "-F", "-O", "casefold", "-E", "encoding=utf8", str(image)]
    tries = (make, ["mount", "-o", "loop", str(image), str(medium)])
    return all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in tries)

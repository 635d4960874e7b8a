"""Which directories are mount points, from the kernel: `/proc/self/mountinfo` and mount ids of open files.

Mount ids decide, not device numbers: a bind mount has the device of its parent, and a btrfs subvolume has a
device of its own without being a mount. A directory that is mounted on itself (systemd does so for each of a
unit's `ReadWritePaths`) shows what would be there without the mount, so it does not count. Without `/proc`,
device numbers decide.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from syncworker.system.durable_files import closing

MOUNTINFO = "/proc/self/mountinfo"
NAME_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC  # needs no read permission

_SILENT = frozenset(  # file systems on which other machines make changes that the kernel does not see
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "vboxsf", "prl_fs", "virtiofs", "ceph", "afs", "lustre"]
)
_SILENT_FUSE = frozenset(["sshfs", "rclone", "glusterfs", "vmhgfs-fuse", "s3fs", "juicefs", "gcsfuse"])


class Mount(NamedTuple):
    """A line of mountinfo, proc(5). `root` is the directory of its file system that `point` shows."""

    id: int
    parent: int
    device: int
    root: str
    point: str
    type: str


def is_silent(kind: str) -> bool:
    """Whether a file system of this type may change without the kernel noticing."""
    return kind in _SILENT or kind.removeprefix("fuse.") in _SILENT_FUSE


def holder_of(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount that a directory lies on; None when it is unknown."""
    real = os.path.realpath(path)
    above = [mount for mount in reversed(mounts) if f"{real}/".startswith(f"{mount.point.rstrip('/')}/")]
    return max(above, key=lambda mount: len(mount.point), default=None)


def read(path: str = MOUNTINFO) -> list[Mount]:
    """All mounts in the order of the file, hidden ones too: of several at one place the last is on top. Empty
    when the file cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as lines:
            return [mount for line in lines if (mount := _parse(line)) is not None]
    except OSError:
        return []


def _parse(line: str) -> Mount | None:
    fields, _, more = line.partition(" - ")
    try:
        number, parent, device, root, point = fields.split(" ")[:5]
        major, minor = device.split(":")
        device_number = os.makedev(int(major), int(minor))
        return Mount(int(number), int(parent), device_number, _plain(root), _plain(point), more.split(" ")[0])
    except ValueError:
        return None


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def points_below(root: str) -> frozenset[str]:
    """The places below `root` (absolute, without symlinks), relative to it, where there may be mounts."""
    below = root.rstrip("/") + "/"
    return frozenset(mount.point.removeprefix(below) for mount in read() if mount.point.startswith(below))


def point_above(fd: int) -> str | None:
    """The absolute mount point that an open directory lies on; None: the root directory, or unknown."""
    mounts = {mount.id: mount for mount in read()}
    mount = mounts.get(_mount_id(fd) or -1)
    while mount and (parent := mounts.get(mount.parent)) and _is_same(mount, parent):
        mount = parent
    return None if mount is None or mount.point == "/" else mount.point


def is_mount_point(fd: int) -> bool:
    """Whether an open directory (`O_PATH` is enough) is the top of a mount. True as well when it has been
    unmounted since it was opened (`umount -l`). Raises OSError when the directory may not be searched."""
    with closing(os.open("..", NAME_DIRECTORY, dir_fd=fd)) as above:
        here, there = _mount_id(fd), _mount_id(above)
        if here is None:
            return os.fstat(fd).st_dev != os.fstat(above).st_dev
    mounts = {mount.id: mount for mount in read()}
    if here == there:
        return bool(mounts) and here not in mounts
    while (mount := mounts.get(here)) and (parent := mounts.get(mount.parent)) and _is_same(mount, parent):
        here = parent.id
    return here != there


def _is_same(mount: Mount, parent: Mount) -> bool:
    """Whether a mount shows the same directory that it hides."""
    way = mount.point.removeprefix(parent.point.rstrip("/")).strip("/")
    return mount.device == parent.device and mount.root.strip("/") == f"{parent.root}/{way}".strip("/")


def _mount_id(fd: int) -> int | None:
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as lines:
            return next((int(line[7:]) for line in lines if line.startswith("mnt_id:")), None)
    except OSError:
        return None

"""Resolves symlinks: turns a path with symlinks into one without, inside the uploads root.

The result may be wrong a moment later, so whoever opens it walks it again by `Tree`, which follows no
symlink: a race cannot lead out of the root. Nothing outside the root is opened; only symlinks there are read.
"""

from __future__ import annotations

import errno
import os
import stat

from syncworker.errors import FatalError, SyncError
from syncworker.escape import escape_non_utf8
from syncworker.folder.uploads_root import OUTSIDE, Tree, os_error

_MAX_LINKS = 40  # the kernel's own limit, path_resolution(7)


class SourceMissing(SyncError):
    """The source folder does not exist, and everything on its path could be read."""


def resolve(tree: Tree, path: str, base: str = "") -> tuple[str, os.stat_result]:
    """Follows every symlink in `path`, which starts at the directory `base` (used as it is).

    Returns a path without symlinks, and its stat. A path may lead out of the root and back in (an absolute
    link does), but must end inside: else raises EXDEV, whether or not the target exists. A link that leads
    nowhere raises ENOENT, links in a circle ELOOP.
    """
    walked = base.split("/") if base else []
    ahead = path.split("/")[::-1]
    links = 0
    while ahead:
        name = ahead.pop()
        if name in ("", "."):
            continue
        if name == ".." and walked:
            walked.pop()
            continue
        target = "/.." if name == ".." else tree.readlink("/".join(walked), name)
        if target is None:
            walked.append(name)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise os_error(errno.ELOOP, path)
        if target.startswith("/"):
            start = tree.root if name == ".." else ""
            walked, target = [], _inside(tree.root, "/".join([start + target, *reversed(ahead)]))
            ahead = []
        ahead.extend(target.split("/")[::-1])
    resolved = "/".join(walked)
    info = tree.lstat(resolved)
    if info is None:
        raise os_error(errno.ENOENT, path)
    return resolved, info


def _inside(root: str, absolute: str) -> str:
    """Returns the path below the root that an absolute path leads to. It will be walked again."""
    real = os.path.realpath(absolute)
    prefix = root.rstrip("/") + "/"
    if not (real + "/").startswith(prefix):
        raise os_error(OUTSIDE, absolute)
    return real[len(prefix) :]


def find_source(tree: Tree, source: str) -> str:
    """Resolves the source name by name, to tell a missing folder from a symlink that leads nowhere."""
    path = ""
    for name in source.split("/"):
        if name in ("", "."):
            continue
        try:
            path, info = resolve(tree, name, path)
        except FileNotFoundError as error:
            if tree.lstat(f"{path}/{name}" if path else name) is not None:
                raise FatalError(
                    "SourceDangling",
                    f"In the source folder {escape_non_utf8(source)}, {escape_non_utf8(name)} is a broken "
                    "symlink: remove it or create its target.",
                ) from error
            raise SourceMissing(
                "SourceMissing", f"The source folder {escape_non_utf8(source)} does not exist."
            ) from error
        except OSError as error:
            if error.errno != OUTSIDE:
                raise
            raise FatalError(
                "SourceOutsideRoot",
                f"The source folder {escape_non_utf8(source)} leads out of the uploads folder.",
            ) from error
        if not stat.S_ISDIR(info.st_mode):
            raise FatalError(
                "SourceNotADirectory", f"The source {escape_non_utf8(source)} is not a folder: give a folder."
            )
    return path

"""Keys at which a listing can be cut into ranges, read from the names in the folder.

They are the best guess of the keys in a bucket that no sync has listed yet. Only names are read: no file is
opened, no symlink is followed. A cut is a hint, so what cannot be read is left out. Memory is bounded: at
most `_KEPT` names of each directory on the branch are held; in a larger one each of them stands for several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from syncworker.errors import SyncError
from syncworker.escape import escape_non_utf8
from syncworker.folder.symlinks import find_source
from syncworker.folder.uploads_root import Tree
from syncworker.system.durable_files import closing

if TYPE_CHECKING:
    from syncworker.options.patterns import PathFilter

_KEPT = 20_000
_NAMES_UNASKED = 1000

_Names = tuple[str, str, int, Iterator[str]]  # key prefix, path, files that each name stands for, names left


def cut_keys(
    tree: Tree,
    source: str,
    every: int,
    should_stop: Callable[[], bool],
    path_filter: PathFilter | None = None,
) -> Iterator[str]:
    """Yields every `every`th key, ascending. The folder is read while the keys are taken; once `should_stop`
    says so, no more keys come."""

    def names_of(prefix: str, path: str, files: int) -> _Names:
        """Returns the names of a directory in the order of their keys; none if it cannot be read."""
        names: list[str] = []
        step = 1
        try:
            with closing(tree.open_dir(path)) as fd, os.scandir(fd) as entries:
                for seen, entry in enumerate(entries, 1):
                    if seen % _NAMES_UNASKED == 1 and should_stop():
                        return prefix, path, files, iter(())
                    if seen % step:
                        continue
                    if (name := _name_of(prefix, entry, path_filter)) is not None:
                        names.append(name)
                    if len(names) > _KEPT:
                        del names[::2]
                        step *= 2
        except OSError:
            names.clear()
        names.sort()
        return prefix, path, files * step, iter(names)

    try:
        levels = [names_of("", find_source(tree, source), 1)]
    except (OSError, SyncError):
        return
    left = every
    while levels:
        prefix, path, files, names = levels[-1]
        for name in names:
            if name[-1] == "/":
                below = f"{path}/{name[:-1]}" if path else name[:-1]
                levels.append(names_of(prefix + name, below, files))
                break
            left -= files
            if left <= 0:
                yield prefix + name
                left = every
        else:
            levels.pop()


def _name_of(prefix: str, entry: os.DirEntry[str], path_filter: PathFilter | None) -> str | None:
    name = entry.name
    if not name.isascii() and escape_non_utf8(name) != name:
        return None
    if entry.is_dir(follow_symlinks=False):
        name += "/"
    return None if path_filter is not None and path_filter.skips_listed(prefix + name) else name

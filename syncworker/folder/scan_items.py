"""The items for what the scan does not send, with their messages: one function for each.

A *skip* is no error. An *unreadable* is one, and its objects must not be deleted: the one of the key itself,
or with `is_directory` all below it. Pure: no input or output.
"""

from __future__ import annotations

import errno
import os
import stat

from syncworker.escape import escape_non_utf8, in_bash
from syncworker.folder.uploads_root import OUTSIDE
from syncworker.model import KEY_MAX_BYTES, FileEntry, ScanItem, Skip, Unreadable

_SPECIAL = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "fifo", stat.S_IFBLK: "device", stat.S_IFCHR: "device"}
_LOST_LINKS = {
    OUTSIDE: "symlink_outside",
    errno.ENOENT: "symlink_dangling",
    errno.ENOTDIR: "symlink_dangling",
    errno.ELOOP: "symlink_loop",
}
_ALLOW = "allow the user of this service to read it"
_HINTS = {
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
    errno.EIO: "check its disk",
    errno.ESTALE: "check its mount; it was replaced during the scan",
    errno.ELOOP: "it was replaced by a symlink during the scan",
    errno.ENOTDIR: "it was replaced during the scan",
}


def special(info: os.stat_result) -> str:
    return _SPECIAL.get(stat.S_IFMT(info.st_mode), "special")


def _code(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "OSError")


def _sentence(what: str, error: OSError) -> str:
    hint = _HINTS.get(error.errno or 0, "correct the cause")
    return f"{what} cannot be read ({error.strerror}): {hint}, then sync again."


def unread_directory(prefix: str, error: OSError, source: str = "") -> ScanItem:
    """The item for a directory that could not be read. `prefix` "" is the source itself."""
    if error.errno == errno.ENOENT:
        return Skip(prefix[:-1], "vanished")
    what = f"The folder {prefix}" if prefix else f"The source folder {escape_non_utf8(source)}".rstrip()
    return Unreadable(prefix, _code(error), _sentence(what, error), True)


def unread_file(key: str, error: OSError) -> ScanItem:
    if error.errno == errno.ENOENT:
        return Skip(key, "vanished")
    return Unreadable(key, _code(error), _sentence(f"The file {key}", error), False)


def unread_link(key: str, error: OSError) -> tuple[ScanItem, ...]:
    if error.errno in _LOST_LINKS:
        return (Skip(key, _LOST_LINKS[error.errno]),)
    # It may lead to a file or a directory: neither `key` nor the keys below it may count as gone.
    message = _sentence(f"The target of the symlink {key}", error)
    return Unreadable(key, _code(error), message, False), Unreadable(key + "/", _code(error), message, True)


def too_long(key: str, prefix_bytes: int = 0) -> ScanItem:
    size = prefix_bytes + len(key.encode())
    return Unreadable(
        key,
        "KeyTooLong",
        f"The key {key[:80]}… has {size} bytes, S3 allows {KEY_MAX_BYTES}: shorten the names on its path.",
        False,
    )


def within(file: FileEntry, key_bytes_max: int) -> ScanItem:
    """Returns the file if its key leaves room for the prefix of the mirror, else an item."""
    fits = len(file.key.encode()) <= key_bytes_max
    return file if fits else too_long(file.key, KEY_MAX_BYTES - key_bytes_max)


def not_utf8(key: str, is_directory: bool, path: str, inode: int) -> ScanItem:
    """`path`: from the uploads root, as the file system has it."""
    message = (
        "The name is not UTF-8, and S3 keys are: rename it. In the uploads folder,"
        f" find . -inum {inode} finds it; bash writes it {in_bash(path)}"
    )
    return Unreadable(key, "NameNotUTF8", message, is_directory)


def changed(key: str, info: os.stat_result) -> ScanItem:
    """The item for a name that was a regular file when the names were read."""
    if stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode):
        is_directory = stat.S_ISDIR(info.st_mode)
        message = f"{key} was replaced by something else while the folder was read: sync again."
        return Unreadable(key + "/" * is_directory, "ChangedWhileScanning", message, is_directory)
    return Skip(key, special(info))

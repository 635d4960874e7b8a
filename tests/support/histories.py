"""A folder that changes at random, and remembers every version of every file that it ever held.

A version is known before the file has it, and a file gets it whole, by a rename: whatever is read at a path
is a version that `versions` has. Contents never repeat by chance: each begins with a number of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections import defaultdict
from pathlib import Path

from bench import remove

MIB = 1 << 20
NAMES = ["a", "b", "a-b", "a.b", "a0", "A", "é", "x y", "+%", "\U0001f600", "..c", "z"]


class History:
    """The folder at `folder`; what is being written waits in `staging`, on the same file system."""

    def __init__(
        self, folder: Path, staging: Path, rng: random.Random, *, keeps_folder: bool = False
    ) -> None:
        self.folder, self._staging, self._rng = folder, staging, rng
        self._keeps_folder = keeps_folder  # it is mounted elsewhere: emptied, never removed
        self.ignores_case = False
        self.versions: defaultdict[str, set[str]] = defaultdict(set)  # key: MD5s
        self._written = 0
        staging.mkdir()

    def files(self) -> list[str]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def versions_of(self, path: str) -> set[str]:
        """The MD5s of what the file has ever been; without regard to case where its file system has none."""
        return self.versions[path.casefold() if self.ignores_case else path]

    def write(self, path: str, body: bytes, times: tuple[int, int] | None = None) -> None:
        """Puts a file there, whatever is in its way."""
        self.versions_of(path).add(hashlib.md5(body).hexdigest())
        fresh = self._staging / "new"
        fresh.write_bytes(body)
        if times:
            os.utime(fresh, ns=times)
        where = self.folder
        for segment in path.split("/")[:-1]:
            where = where / segment
            if where.is_file():
                where.unlink()
        target = self.folder / path
        if target.is_dir():
            remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.replace(target)

    def body(self, size: int) -> bytes:
        self._written += 1
        return (f"{self._written} ".encode() + self._rng.randbytes(size))[: max(size, 8)]

    def _path(self) -> str:
        return "/".join(self._rng.choices(NAMES, k=self._rng.randint(1, 3)))

    def change(self) -> str:
        """One random change; its name."""
        weights = {"new": 5, "rewrite": 4, "same size": 3, "many": 2, "large": 6, "grow": 2, "touch": 1}
        weights |= {
            "remove": 3,
            "remove folder": 1,
            "move": 2,
            "recase": 1,
            "empty folder": 1,
            "nothing left": 0.4,
        }
        if self._keeps_folder:
            weights["large"] = 1
        name = self._rng.choices(list(weights), list(weights.values()))[0]
        files = self.files()
        if not files and name not in ("new", "many", "large", "empty folder"):
            name = "many"
        if files or name in ("new", "many", "large", "empty folder"):
            getattr(self, "_" + name.replace(" ", "_"))(files)
        return name

    def _new(self, _files: list[str]) -> None:
        self.write(self._path(), self.body(self._rng.choice([8, 100, 4000, 300_000])))

    def _many(self, _files: list[str]) -> None:
        top = self._path()
        for number in range(self._rng.randint(20, 120)):
            self.write(f"{top}/n{number:03}", self.body(self._rng.randint(8, 3000)))

    def _large(self, _files: list[str]) -> None:
        self.write(f"large/{self._rng.choice('lmn')}", self.body(self._rng.randint(9 * MIB, 25 * MIB)))

    def _rewrite(self, files: list[str]) -> None:
        self.write(self._rng.choice(files), self.body(self._rng.choice([8, 50, 9000])))

    def _same_size(self, files: list[str]) -> None:
        """Other bytes, the same length, and the mtime that was, or an older one."""
        path = self._rng.choice(files)
        found = (self.folder / path).stat()
        mtime = found.st_mtime_ns - self._rng.choice([0, 10**12])
        if found.st_size >= 8:
            self.write(path, self.body(found.st_size), (mtime, mtime))

    def _grow(self, files: list[str]) -> None:
        path = self._rng.choice(files)
        body = (self.folder / path).read_bytes()
        if len(body) < 40 * MIB:
            self.write(path, body + self.body(100))

    def _touch(self, files: list[str]) -> None:
        os.utime(self.folder / self._rng.choice(files))

    def _remove(self, files: list[str]) -> None:
        (self.folder / self._rng.choice(files)).unlink()

    def _remove_folder(self, files: list[str]) -> None:
        top = self._rng.choice(files).split("/")[0]
        with contextlib.suppress(OSError):  # a disk is mounted there
            remove(self.folder / top)

    def _move(self, files: list[str]) -> None:
        source = self.folder / self._rng.choice(files)
        body = source.read_bytes()
        source.unlink()
        self.write(self._path(), body)

    def _recase(self, files: list[str]) -> None:
        """A rename of nothing but the case of a name."""
        path = self._rng.choice(files)
        top, slash, name = path.rpartition("/")
        target = f"{top}{slash}{name.swapcase()}"
        source, other = self.folder / path, self.folder / target
        if target != path and (not other.exists() or other.samefile(source)):
            self.versions_of(target).add(hashlib.md5(source.read_bytes()).hexdigest())
            source.rename(other)

    def _empty_folder(self, _files: list[str]) -> None:
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            (self.folder / self._path()).mkdir(parents=True, exist_ok=True)

    def _nothing_left(self, _files: list[str]) -> None:
        for child in list(self.folder.iterdir()):
            with contextlib.suppress(OSError):  # a disk is mounted there
                remove(child)
        if not self._keeps_folder:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

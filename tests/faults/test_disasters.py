"""Twelve ways to lose a backup to a mirror, one of them in four forms: ours, with and without `max_delete`
and `plan`, and its peers.

Of six objects, how many are left; the exit status in brackets. `make reliability` puts what was seen into
docs/comparison.md.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import peers
import pytest
from bench import PROJECT, RecordingProxy, expected, fill, remove, tree
from disks import mount, unmount_all
from peers import OURS, Place
from reliability_page import WRITING
from stores import Store, die_with_parent_obeying_permissions, list_keys

pytestmark = pytest.mark.long


PAGE = PROJECT / "docs" / "comparison.md"
FILES = {"a": "1", "b": "2", "c": "3", "d/e": "4", "d/f": "5", "d/g": "6"}
OTHER = {"x": "7", "y": "8"}
COLUMNS = {
    "aws s3 sync": "aws s3 sync --delete",
    "rclone sync": "rclone sync",
    "s5cmd sync": "s5cmd sync --delete",
    "juicefs sync": "juicefs sync --delete-dst",
    "this": OURS,
    "this, `max_delete=2`": OURS,
    "this, `plan=1`": OURS,
}
STRACE = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=getdents64"]


class Scene:
    """One tool, one bucket, and the folder that something happens to."""

    def __init__(self, base: Path, store: Store, column: str) -> None:
        self.base, self.store, self.column = base, store, column
        self.bucket = f"x-{uuid.uuid4().hex[:16]}"
        self.proxy: RecordingProxy | None = None
        self.before: list[str] = []  # what the command is run under
        self.swapped = False
        store.client().create_bucket(Bucket=self.bucket)
        tree(self.folder, FILES)

    @property
    def folder(self) -> Path:
        return self.base / "uploads" / "photos"

    def sync(self, *, first: bool = False) -> int:
        url = self.proxy.url if self.proxy else self.store.url
        place = Place(self.base, self.store, url, self.bucket)
        command = peers.COMMANDS[COLUMNS[self.column]](place)
        environment = peers.environment(place)
        if COLUMNS[self.column] == OURS:
            command += ["--dest", self.bucket]
            if "plan" in self.column and not first:
                command += ["--plan"]
            elif "max" in self.column:
                environment["MAX_DELETE"] = "2"
        with (self.base / "output").open("ab") as output:
            return subprocess.run(
                [*self.before, *command],
                cwd=self.base,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent_obeying_permissions,
                timeout=100,
                check=False,
            ).returncode

    def begin(self) -> None:
        """The bucket has what the folder has; ours has seen it itself, and its disks."""
        if COLUMNS[self.column] == OURS:
            assert self.sync(first=True) == 0, (self.column, (self.base / "output").read_text()[-1000:])
        else:
            fill(self.store, self.bucket, expected(self.folder))

    def left(self) -> int:
        with contextlib.suppress(self.store.client().exceptions.NoSuchBucket):
            return len(FILES.keys() & set(list_keys(self.store.client(), self.bucket)))
        return 0

    def close(self) -> None:
        (self.folder / "d").chmod(0o755) if (self.folder / "d").is_dir() else None
        unmount_all(self.base / "uploads")
        if self.proxy:
            self.proxy.close()
        self.store.remove_bucket(self.bucket)


def unreadable(scene: Scene) -> None:
    (scene.folder / "d").chmod(0)


def dangling(scene: Scene) -> None:
    (scene.folder / "a").unlink()
    (scene.folder / "a").symlink_to("nowhere")


def emptied(scene: Scene) -> None:
    remove(scene.folder)
    scene.folder.mkdir()


def missing(scene: Scene) -> None:
    remove(scene.folder)


def unmounted(scene: Scene) -> None:
    unmount_all(scene.base / "uploads")


def replaced(scene: Scene) -> None:
    shutil.move(scene.folder, scene.base / "right")
    tree(scene.folder, OTHER)


def in_turn(scene: Scene) -> None:
    replaced(scene)
    scene.sync()
    remove(scene.folder)
    shutil.move(scene.base / "right", scene.folder)


def failing(error: str, when: str = "1+") -> Callable[[Scene], None]:
    """Reading a directory fails as a network folder's does: always, or for the first time in each thread."""

    def harm(scene: Scene) -> None:
        inject = f"inject=getdents64:error={error}:when={when}"
        scene.before = [*STRACE, "-e", inject, "-P", str(scene.folder / "d")]

    return harm


def vanishing(scene: Scene) -> None:
    tree(scene.folder, {"a": None, "c": "changed"})
    scene.proxy = RecordingProxy(scene.store)
    scene.proxy.on_request(lambda _: (scene.folder / "c").unlink(missing_ok=True))


def nothing(_scene: Scene) -> None: ...


def four(scene: Scene) -> None:
    tree(scene.folder, {"a": None, "d": None})


# What happens, and the six that must be left: by itself, with max_delete=2 (plan=1 always leaves all).
CASES: dict[str, tuple[Callable[[Scene], None], int, int]] = {
    "a sub-folder cannot be read": (unreadable, 6, 6),
    "a file became a link to nothing": (dangling, 5, 5),
    "the folder is there and empty": (emptied, 0, 6),
    "the folder is not there": (missing, 0, 6),
    "the folder's disk is not mounted": (unmounted, 6, 6),
    "a disk below the folder is not mounted": (unmounted, 6, 6),
    "the wrong folder, full of other files": (replaced, 0, 6),
    "a directory of a network folder answers EIO": (failing("EIO"), 6, 6),
    "a directory of a network folder answers EIO once": (failing("EIO", "1"), 6, 6),
    "a directory of a network folder answers ESTALE": (failing("ESTALE"), 6, 6),
    "a directory of a network folder answers ESTALE once": (failing("ESTALE", "1"), 6, 6),
    "a file vanishes during the run, and one object has no file any more": (vanishing, 5, 5),
    "the storage lists out of order (SeaweedFS)": (nothing, 6, 6),
    "source A, then source B, then A again, into one destination": (in_turn, 6, 6),
    "four to delete where two are allowed": (four, 2, 6),
}
ON_A_DISK = {"the folder's disk is not mounted": ".", "a disk below the folder is not mounted": "d"}
SEEN: dict[str, dict[str, str]] = {}


def write() -> None:
    before, _, rest = PAGE.read_text().partition("<!-- disasters -->\n")
    after = rest.partition("<!-- end of disasters -->")[2]
    lines = [f"| case | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    done = [case for case in CASES if len(SEEN.get(case, {})) == len(COLUMNS)]
    lines += [f"| {case} | {' | '.join(SEEN[case][c] for c in COLUMNS)} |" for case in done]
    PAGE.write_text(before + "\n".join(["<!-- disasters -->", *lines, "<!-- end of disasters -->"]) + after)


@pytest.mark.parametrize("case", CASES)
def test_what_is_left(stores, tmp_path, case):
    harm, alone, limited = CASES[case]
    store = stores.get("seaweedfs" if "SeaweedFS" in case else "juicefs")
    for number, column in enumerate(COLUMNS):
        base = tmp_path / str(number)
        base.mkdir()
        if case in ON_A_DISK:
            folder = base / "uploads" / "photos" / ON_A_DISK[case]
            folder.mkdir(parents=True)
            mount(folder)
        scene = Scene(base, store, column)
        if "SeaweedFS" in case:
            tree(scene.folder, {"d-1": "7", "d.x": "8"})  # around the slash
        try:
            scene.begin()
            assert scene.left() == len(FILES), column
            harm(scene)
            status = scene.sync()
            left = scene.left()
        finally:
            scene.close()
        SEEN.setdefault(case, {})[column] = f"{left} ({status})"
        if COLUMNS[column] == OURS:
            wanted = len(FILES) if "plan" in column else limited if "max" in column else alone
            assert left == wanted, (column, left, status, (base / "output").read_text()[-1000:])
            assert status in (0, 1, 5), (column, status)
    if WRITING:
        write()

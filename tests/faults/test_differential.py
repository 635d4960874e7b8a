"""The hazards on which mirrors lose data: ours and its peers on the same store, each with a judge.

A hazard makes a folder, has the contender sync it, changes what the hazard is about, has it sync again, and
looks at the bucket past everybody: `right`, or in a few words what went wrong. Ours must be right in every
row of docs/reliability.md. The peers take minutes, so they run for `make reliability` only.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
from bench import RecordingProxy, contents, remove, tree
from disks import mount, unmount
from peers import COMMANDS, OURS, Place
from proxy import Request
from reliability_page import WRITING, Table
from stores import list_uploads, stop_group
from toxics import Toxic

FILES = {"a": "1", "dir/b": "2", "dir/c": "3", "e": "4", "f/g": "5", "z": "6"}
BIG_BYTES = 48 << 20
RIGHT = "right"


class Trial:
    """One contender before one hazard."""

    def __init__(self, name: str, place: Place, proxy: RecordingProxy) -> None:
        self.name, self.place, self.proxy = name, place, proxy
        self.folder = place.folder

    def sync(self, **more: str) -> int:
        return peers.sync(self.name, self.place, **more)

    def seed(self, files: dict[str, Any] = FILES) -> None:
        """The folder with these files, and the bucket its mirror."""
        tree(self.folder, files)
        assert self.sync() == 0, (self.place.base / "output").read_text()
        assert set(self.objects()) == set(files), self.objects()

    def objects(self) -> dict[str, bytes]:
        try:
            return contents(self.place.store, self.place.bucket)
        except self.place.store.client().exceptions.NoSuchBucket:
            return {}

    def lost(self, exit_status: int, wanted: int = len(FILES)) -> str:
        """The verdict where everything must stay and the contender must say that something is wrong."""
        left = len(self.objects())
        said = "exit 0" if exit_status == 0 else f"exit {exit_status}"
        if left < wanted:
            return f"**deletes {wanted - left} of {wanted}**, {said}"
        return RIGHT if exit_status else f"keeps all, {said}"


# -- the hazards ------------------------------------------------------------------------------------------


def unreadable(trial: Trial) -> str:
    trial.seed()
    (trial.folder / "dir").chmod(0)
    try:
        return trial.lost(trial.sync())
    finally:
        (trial.folder / "dir").chmod(0o755)


def emptied(trial: Trial) -> str:
    trial.seed()
    remove(trial.folder)
    trial.folder.mkdir()
    return trial.lost(trial.sync(BUCKET_DELETE="refuse"))


def unmounted(trial: Trial) -> str:
    trial.folder.mkdir(parents=True)
    mount(trial.folder)
    try:
        trial.seed()
    finally:
        unmount(trial.folder)
    return trial.lost(trial.sync())


def unmounted_below(trial: Trial) -> str:
    """The rest of the folder is there, and so is the mount point, empty."""
    (trial.folder / "dir").mkdir(parents=True)
    mount(trial.folder / "dir")
    try:
        trial.seed()
    finally:
        unmount(trial.folder / "dir")
    return trial.lost(trial.sync())


def dangling(trial: Trial) -> str:
    """The object of the file that became a link to nowhere may go; no other."""
    trial.seed()
    (trial.folder / "a").unlink()
    (trial.folder / "a").symlink_to("nowhere")
    exit_status = trial.sync()
    gone = FILES.keys() - {"a"} - trial.objects().keys()
    return f"**deletes {len(gone)} others**, exit {exit_status}" if gone else RIGHT


def rewritten(trial: Trial) -> str:
    """In place, same size, while it is sent. The object must be the one or the other, or not be."""
    old, new = os.urandom(BIG_BYTES), os.urandom(BIG_BYTES)
    tree(trial.folder, {"big": old})

    def rewrite() -> None:
        with (trial.folder / "big").open("r+b") as file:
            file.write(new)
        trial.proxy.clear_hooks()

    when_sent(trial, 6 << 20, rewrite)
    exit_status = trial.sync()
    if trial.objects().get("big") in (old, new, None):
        torn = ""
    else:
        torn = f"**torn object**, exit {exit_status}"
    trial.proxy.clear_hooks()
    trial.sync()
    repaired = trial.objects().get("big") == new
    if torn:
        return torn + ("" if repaired else ", and for good")
    return RIGHT if repaired else "**never sends the new content**"


def older(trial: Trial) -> str:
    return touched(trial, -3600)


def same_time(trial: Trial) -> str:
    return touched(trial, 0)


def touched(trial: Trial, seconds: int) -> str:
    """Same size, other content, the mtime that it had, hours before the first sync, or an older one."""
    tree(trial.folder, FILES)
    file = trial.folder / "a"
    long_ago = file.stat().st_mtime_ns - 7200 * 10**9
    os.utime(file, ns=(long_ago, long_ago))
    assert trial.sync() == 0
    file.write_text("X")
    os.utime(file, ns=(long_ago + seconds * 10**9,) * 2)
    trial.sync()
    return RIGHT if trial.objects()["a"] == b"X" else "**not noticed**"


def unordered(trial: Trial) -> str:
    """Names around the slash, which the store lists in another order than their bytes have."""
    files = {f"{folder}/{name}": name for folder in ("d", "d-2", "d.x") for name in ("1", "2", "3")}
    trial.seed(files)
    left = []
    for _ in range(3):
        exit_status = trial.sync()
        left.append(len(trial.objects()))
    if min(left) < len(files):
        return f"**{min(left)} of {len(files)} objects left** after one of three runs, exit {exit_status}"
    return RIGHT if exit_status == 0 else f"stops, exit {exit_status}"


def killed(trial: Trial) -> str:
    """In the middle of a multipart upload; then once more, undisturbed."""
    body = os.urandom(BIG_BYTES)
    tree(trial.folder, {"big": body})
    reached = when_sent(trial, 30 << 20, lambda: None)
    process = peers.start(trial.name, trial.place)
    assert reached.wait(60)
    stop_group(process, signal.SIGKILL)
    trial.proxy.clear_hooks()
    trial.proxy.reset()
    exit_status = trial.sync()
    sent = sum(trial.proxy.bytes_sent().values())
    if trial.objects() != {"big": body}:
        return f"**wrong object**, exit {exit_status}"
    faults = ["sends all again"] if sent >= BIG_BYTES else []
    if list_uploads(trial.place.store.client(), trial.place.bucket):
        faults.append("leaves the first upload behind")
    return ", ".join(faults) or RIGHT


def when_sent(trial: Trial, size: int, act: Callable[[], None]) -> threading.Event:
    """Slows uploads down, and acts once when so many bytes of theirs have gone through."""
    acted, turn = threading.Event(), threading.Lock()

    def watch() -> None:
        while sum(trial.proxy.bytes_sent().values()) < size:
            if trial.proxy.closed.wait(0.005):
                return
        act()
        acted.set()

    def slow(request: Request) -> Toxic | None:
        if request.kind not in ("PUT", "UploadPart"):
            return None
        if turn.acquire(blocking=False):
            threading.Thread(target=watch, daemon=True).start()
        return Toxic(bytes_per_second=6_000_000)

    trial.proxy.on_request(slow)
    return acted


HAZARDS: dict[str, Callable[[Trial], str]] = {
    "a directory that may not be read": unreadable,
    "a source that is empty by mistake (ours: `BUCKET_DELETE=refuse`)": emptied,
    "a source whose disk is not mounted any more": unmounted,
    "a disk below the source that is not mounted any more": unmounted_below,
    "a file that became a dangling symlink": dangling,
    "a file rewritten while it is sent": rewritten,
    "other content, same size, older mtime": older,
    "other content, same size, same mtime": same_time,
    "a store that does not list in byte order, nothing to do": unordered,
    "killed in a multipart upload, then run again": killed,
}
TABLE = Table("peers", "hazard", list(HAZARDS), list(COMMANDS))
CONTENDERS = list(COMMANDS) if WRITING else [OURS]


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[None]:
    yield
    if WRITING:
        TABLE.write()


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("hazard", HAZARDS)
def test_a_hazard_loses_nothing(
    hazard: str,
    contender: str,
    store: Any,
    bucket: str,
    make_proxy: Callable[..., RecordingProxy],
    tmp_path: Path,
) -> None:
    proxy = make_proxy(store)
    if contender != OURS:
        store.client().create_bucket(Bucket=bucket)
    trial = Trial(contender, Place(tmp_path, store, proxy.url, bucket), proxy)
    verdict = HAZARDS[hazard](trial)
    TABLE.see(hazard, contender, verdict)
    assert contender != OURS or verdict == RIGHT, (tmp_path / "output").read_text()


def test_the_page_has_every_hazard_and_every_contender_and_ours_is_right() -> None:
    if not WRITING:
        TABLE.check_names()
        assert {cells[OURS] for cells in TABLE.read().values()} == {RIGHT}

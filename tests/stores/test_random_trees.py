"""Random folders, changed at random: the bucket equals the folder after each sync, a second only lists."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections import Counter
from pathlib import Path

import pytest
from bench import Mirror, Shell, assert_same, expected, remove, tree
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from proxy import RecordingProxy
from zygote import Zygote

SEGMENTS = [
    "a",
    "b",
    "a-b",
    "a.b",
    "a!",
    "a0",
    "A",
    "é",
    "e\u0301",
    "x y",
    "+%",
    "\U0001f600",
    "..c",
    "\\",
    "\x01",
]

paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3).map("/".join)
bodies = st.one_of(st.sampled_from([b"", b"1", b"2", b"11", b"22"]), st.binary(max_size=40))
steps = st.one_of(
    st.tuples(st.just("write"), paths, bodies),
    st.tuples(st.just("write"), paths, bodies),
    st.tuples(st.just("rewrite"), st.integers(0, 30), bodies),
    st.tuples(st.just("keep times"), st.integers(0, 30), bodies),
    st.tuples(st.just("remove"), st.integers(0, 30), st.none()),
    st.tuples(st.just("remove folder"), st.sampled_from(SEGMENTS), st.none()),
    st.tuples(st.just("touch"), st.integers(0, 30), st.none()),
    st.tuples(st.just("move"), st.integers(0, 30), paths),
    st.tuples(st.just("folder"), paths, st.none()),
    st.tuples(st.just("stranger"), paths, bodies),
    st.tuples(st.just("thief"), st.integers(0, 30), st.none()),
    st.tuples(st.just("lose index"), st.none(), st.none()),
)
histories = st.lists(st.lists(steps, min_size=1, max_size=8), min_size=6, max_size=6)


def write(folder: Path, path: str, body: bytes) -> None:
    """Put a file there, whatever is in its way."""
    where = folder
    for segment in path.split("/")[:-1]:
        where = where / segment
        if where.is_file():
            where.unlink()
    remove(folder / path)
    tree(folder, {path: body})


def apply(mirror: Mirror, step) -> None:
    name, which, argument = step
    folder = mirror.folder
    files = sorted(expected(folder))
    if isinstance(which, int):
        if not files:
            return
        which = files[which % len(files)]
    target = folder / which if which is not None else folder
    if name == "write":
        write(folder, which, argument)
    elif name == "rewrite":
        target.write_bytes(argument)
    elif name == "keep times":  # the same length and mtime, perhaps other bytes
        stat = target.stat()
        target.write_bytes((argument + b"~" * stat.st_size)[: stat.st_size])
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif name in ("remove", "remove folder"):
        remove(target)
    elif name == "touch":
        os.utime(target, (1, 1))
    elif name == "move":
        body = target.read_bytes()
        target.unlink()
        write(folder, argument, body)
    elif name == "folder":
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            target.mkdir(parents=True, exist_ok=True)
    elif name == "stranger":
        with contextlib.suppress(ClientError):  # no bucket, or no room beside `x/y`
            mirror.store.client().put_object(Bucket=mirror.bucket, Key=which, Body=argument)
    elif name == "thief":
        with contextlib.suppress(ClientError):
            mirror.store.client().delete_object(Bucket=mirror.bucket, Key=which)
    elif name == "lose index":
        shutil.rmtree(mirror.shell.jobs / ".index", ignore_errors=True)


class Laboratory:
    def __init__(self, base: Path, store, proxy: RecordingProxy) -> None:
        self.store, self.proxy = store, proxy
        self.shell = Shell(base, store, STORAGE_URL=proxy.url)
        self.zygote = Zygote(self.shell.environment, base / "output")
        self.output = base / "output"
        self.count = 0

    def sync(self, mirror: Mirror) -> Counter[str]:
        self.proxy.reset()
        status = self.zygote.run("start", "--source", "photos", "--dest", mirror.bucket)
        log = self.shell.log(self.shell.ids()[-1]) if self.shell.ids() else ""
        assert status == 0, f"exit status {status}: {self.output.read_text(errors='replace')[-3000:]}\n{log}"
        return self.proxy.kinds()

    def check(self, history) -> None:
        mirror = Mirror(self.shell, self.store, self.proxy, f"r-{uuid.uuid4().hex[:16]}")
        remove(mirror.folder)
        mirror.folder.mkdir()
        try:
            for steps_of_round in history:
                for step in steps_of_round:
                    apply(mirror, step)
                self.sync(mirror)
                wanted = expected(mirror.folder)
                assert mirror.exists == bool(wanted)
                if wanted:
                    assert_same(mirror.contents, wanted)
                    second = self.sync(mirror)
                    assert set(second) == {"LIST"}, second
                    assert_same(mirror.contents, wanted)
                self.count += 1
        finally:
            self.store.remove_bucket(mirror.bucket)
            for path in self.shell.jobs.iterdir():
                if path.is_file():
                    path.unlink()


@pytest.fixture(scope="module")
def laboratory(stores, tmp_path_factory):
    store = stores.get("juicefs")
    proxy = RecordingProxy(store)
    lab = Laboratory(tmp_path_factory.mktemp("random"), store, proxy)
    yield lab
    lab.zygote.close()
    lab.shell.close()
    proxy.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("syncs", [60, pytest.param(300, marks=pytest.mark.long)])
def test_after_each_random_change_the_bucket_equals_the_folder(syncs, laboratory):
    laboratory.count = 0

    @settings(
        max_examples=syncs // 6,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes; the printed blob repeats the case
    )
    @given(histories)
    def run(history):
        laboratory.check(history)

    run()
    assert laboratory.count >= syncs

"""The crash loop of `crash.py`: a few rounds of it; more in `make test-long`, two hundred in `make soak`."""

from __future__ import annotations

import hashlib
import random

import pytest
from bench import wait_for
from crash import CrashLoop
from histories import History
from watched import EPISODES

ROUNDS_AT_MOST = 24
SEED = 20261122


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "rounds, workers, servers, plans",
    [(4, 2, 2, 1), pytest.param(8, 5, 3, 2, marks=pytest.mark.long)],
    ids=["a few rounds", "more of them"],
)
def test_after_rounds_of_changes_and_kills_bucket_and_folder_have_never_differed(
    rounds, workers, servers, plans, juicefs, tmp_path
):
    loop = CrashLoop(tmp_path, juicefs, SEED, watched=0.0)

    def seen() -> dict[str, bool]:
        return {
            "workers were killed": sum(loop.phases.values()) >= workers,
            "servers were killed": loop.kills["server"] + loop.kills["server and worker"] >= servers,
            "requests failed": bool(loop.weather.counts),
            "the bucket was looked at": bool(loop.poller.reads),
            "disks were taken away": bool(loop.disks.counts),
            "and missed": loop.absences["mounted again"] + loop.absences["forgotten"] > 0,
            "plans were approved": loop.asked.counts["approved"] >= plans,
        }

    try:
        while loop.rounds < rounds or (loop.rounds < ROUNDS_AT_MOST and not all(seen().values())):
            loop.round()
        print(loop.summary())
        assert loop.differences == 0
        assert seen() == dict.fromkeys(seen(), True)
    finally:
        loop.close()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_after_rounds_of_a_watched_mirror_bucket_and_folder_have_never_differed(juicefs, tmp_path):
    loop = CrashLoop(tmp_path, juicefs, SEED, watched=1.0)
    try:
        while loop.rounds < 3 or not all(loop.watched.counts[kind] for kind in EPISODES):
            loop.round()
        print(loop.summary())
        assert loop.differences == 0
    finally:
        loop.close()


def test_the_judge_sees_what_no_plan_names(juicefs, tmp_path):
    loop = CrashLoop(tmp_path, juicefs, SEED)
    client = juicefs.client()
    try:
        for name in "abc":
            loop.history.write(name, b"12345678")
        loop.service.done(loop.bucket)
        before = loop.asked.look()
        (loop.folder / "a").unlink()
        job = loop.service.sync(loop.bucket, plan="1")
        status = loop.service.wait_state(job)
        loop.asked.judge(job, before, status)
        client.put_object(Bucket=loop.bucket, Key="d", Body=b"by a plan")
        with pytest.raises(AssertionError, match="a plan has changed the bucket"):
            loop.asked.judge(job, before, status)
        client.delete_object(Bucket=loop.bucket, Key="d")
        loop.asked.approve(job)
        client.delete_object(Bucket=loop.bucket, Key="a")
        loop.asked.judge(job, before, status)
        client.delete_object(Bucket=loop.bucket, Key="b")
        with pytest.raises(AssertionError, match=r"in no approved plan: \['b'\]"):
            loop.asked.judge(job, before, status)
    finally:
        loop.close()


def test_the_judge_sees_a_wrong_object_a_left_over_and_a_secret(juicefs, tmp_path):
    loop = CrashLoop(tmp_path, juicefs, SEED)
    client = juicefs.client()
    try:
        loop.history.write("a", b"12345678")
        loop.service.done(loop.bucket)
        loop._compare()
        loop._judge_files()
        for name, content in {
            "20200101T000000-00000001.json.tmp": "{}",
            ".self-test-1": "",
            "20200101T000000-00000001.log": f"key {juicefs.secret_key}",
        }.items():
            path = loop.service.jobs / name
            path.write_text(content)
            with pytest.raises(AssertionError):
                loop._judge_files()
            path.unlink()
        loop._judge_files()
        wait_until_seen(loop, b"12345678")
        loop._judge_store()
        client.put_object(Bucket=loop.bucket, Key="a", Body=b"87654321")
        with pytest.raises(AssertionError):
            loop._compare()
        assert loop.differences == 1
        wait_until_seen(loop, b"87654321")
        with pytest.raises(AssertionError, match="no version"):
            loop._judge_store()
        client.create_multipart_upload(Bucket=loop.bucket, Key="b")
        loop.history.write("a", b"87654321")  # so that it is a version, and only the upload is wrong
        with pytest.raises(AssertionError, match="unfinished"):
            loop._judge_store()
    finally:
        loop.close()


def wait_until_seen(loop: CrashLoop, body: bytes) -> None:
    wait_for(lambda: ("a", hashlib.md5(body).hexdigest()) in loop.poller.seen)


def test_a_history_knows_every_version_of_every_file(tmp_path):
    def versions(seed):
        history = History(tmp_path / f"folder{seed}", tmp_path / f"staging{seed}", random.Random(seed))
        hashed: dict[str, tuple[int, ...]] = {}
        for _ in range(60):
            history.change()
            for path in history.files():
                found = (history.folder / path).stat()
                stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                if hashed.get(path) != stamp:
                    body = (history.folder / path).read_bytes()
                    assert hashlib.md5(body).hexdigest() in history.versions[path]
                    hashed[path] = stamp
        return history.versions

    assert sum(len(found) for found in versions(1).values()) > 60
    assert versions(2) != versions(3)

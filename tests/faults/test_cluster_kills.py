"""A clustered job at random instants: members killed, one frozen, the job's process itself killed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time

import psutil
import pytest
from bench import Shell, expected, tree
from stores import Store, list_keys, list_uploads

from syncworker.s3 import etag

PART, PARTS = 8 << 20, 8
ROUNDS = int(os.environ.get("ROUNDS", "8"))


@pytest.mark.long
@pytest.mark.timeout(max(900, 60 * ROUNDS))
@pytest.mark.parametrize("victim", ["a member", "the job", "a frozen member", "all members"])
def test_at_random_instants_the_bucket_equals_the_folder_in_the_end(
    make_shell: object, juicefs: Store, bucket: str, victim: str
) -> None:
    shell: Shell = make_shell(juicefs, CLUSTER="local:2", CLUSTER_MIN_FILES="0", CLUSTER_PATIENCE="5")  # type: ignore[operator]
    seed = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
    chance = random.Random(seed)
    folder = shell.uploads / "photos"
    for number in range(ROUNDS):
        gone = {f"r{number - 1}/{n}": None for n in range(0, 500, 7)} if number else {}
        changed = {f"r{number - 1}/{n}": chance.randbytes(3000) for n in range(1, 500, 7)} if number else {}
        large = {
            "large": chance.randbytes(PARTS * PART - 1),
            f"r{number}/x-large": chance.randbytes(20 << 20),
        }
        small = {f"r{number}/{n}": chance.randbytes(5000) for n in range(500)}
        tree(folder, {**gone, **changed, **large, **small, f"r{number - 1}/x-large": None})
        process, job = shell.begin(bucket)
        time.sleep(chance.uniform(0.5, 4.0))
        members = [p for p in shell.workers() if "cluster" in _line(p)]
        chance.shuffle(members)
        with contextlib.suppress(psutil.NoSuchProcess):
            if victim == "the job":
                process.kill()
            elif victim == "a frozen member" and members:
                members[0].suspend()
            else:
                for member in members[: 1 if victim == "a member" else None]:
                    member.kill()
        status = process.wait(120)
        if status != 0:
            assert victim == "the job", (seed, number, status, shell.status(job)["error"], shell.log(job))
            resumed = shell.run("resume", job, "--quiet", timeout=120)
            assert resumed.returncode == 0 or shell.status(job)["state"] == "done", (seed, resumed.stderr)
        kinds = [line["op"] for line in shell.report(job) if line["op"] in ("upload", "delete")]
        if "delete" in kinds:
            first = kinds.index("delete")
            assert "upload" not in kinds[first:], (seed, number)
        found = list_keys(juicefs.client(), bucket)
        sums = {key: tag_of(body) for key, body in expected(folder).items()}
        assert {key: each["ETag"].strip('"') for key, each in found.items()} == sums, (seed, number)
        assert not list_uploads(juicefs.client(), bucket), (seed, number)


def tag_of(body: bytes) -> str:
    """Of the object: of its parts where it went in parts, each of which the storage has checked."""
    if len(body) <= PART:
        return hashlib.md5(body).hexdigest()
    return etag.composite([hashlib.md5(body[at : at + PART]).digest() for at in range(0, len(body), PART)])


def _line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []

"""The crash loop: random changes to a folder, a sync, `kill -9` at a random instant, and a judge.

One round
1. The folder changes at random (`histories.py`), sometimes while the sync runs. Disks come and go
   (`absences.py`): while one is away no job may delete what is on it; then it is mounted again, or said to be
   gone for good. The index is removed now and then.
2. A job is started: by HTTP, with the server's keys or with its own, or from a shell. Some ask before they
   delete, and are approved, by HTTP or from a shell (`asked.py`); some rounds are a watched mirror's
   (`watched.py`).
3. At a random instant (a moment after the start, or when the proxy meets the n-th request) the worker, the
   server or both are killed. What comes then is chosen at random too: the server is started again, the job is
   resumed by HTTP or from a shell, or a new one is made; and perhaps that is killed as well.
4. When a job has ended `done` with nothing killed, all is judged by other eyes than ours: boto3 straight at
   the store, the files under `jobs/`, the process table. See `_judge`.

Meanwhile a poller lists the bucket at the store itself: each object it ever sees must be a version that its
file has had.

The proxy between worker and store also injects faults, and counts what is sent more than once. A request
that was on its way when its worker was killed is waited for, because a store may carry it out late: that is
the one thing that a mirror without conditional writes cannot see.

The seed decides what is done, not when the machine does it: it repeats the plan of a run, not its timing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import random
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from absences import Disks
from asked import MAX_DELETE, Asked
from bench import (
    FINAL,
    Cut,
    RecordingProxy,
    Request,
    Service,
    Shell,
    assert_same,
    contents,
    exists,
    expected,
    s3_error,
    wait_for,
)
from botocore.exceptions import ClientError
from shapes import check_status
from stores import Store, list_keys, list_uploads
from truth import check_left, check_truth, statuses
from watched import Watched

SECONDS = 180.0  # for one step: far more than any needs, on a busy machine too
STEPS = 20  # of one round: three kills, a disk that is away, plans, and the ways on need fewer
# The same place, however it is written.
SPELLINGS = tuple(
    f"http://{host}:{{}}"
    for host in ("127.0.0.1", "localhost", "LOCALHOST.", "127.1", "2130706433", "[::ffff:127.0.0.1]")
)


class Weather:
    """A hook: now and then a request fails, in this round's mood."""

    KINDS = (
        "503",
        "500",
        "cut before",
        "cut in the body",
        "cut before the answer",
        "cut in the answer",
        "slow",
    )

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self.rate = 0.0
        self.counts: Counter[str] = Counter()

    def __call__(self, request: Request) -> Any:
        with self._lock:
            if self._rng.random() >= self.rate:
                kind = ""
            else:
                kind = self._rng.choice(self.KINDS)
                self.counts[kind] += 1
            some = self._rng.random()
        match kind:
            case "503":
                return s3_error(503, "SlowDown")
            case "500":
                return s3_error(500, "InternalError")
            case "cut before":
                return Cut()
            case "cut in the body":
                return Cut(body_bytes=int(some * int(request.headers.get("content-length", "0"))))
            case "cut before the answer":
                return Cut(answer_bytes=0)
            case "cut in the answer":
                return Cut(answer_bytes=int(some * 600))
            case "slow":
                time.sleep(some * 0.3)
        if request.kind == "UploadPart":
            time.sleep(some * 0.1)  # so that a kill finds uploads unfinished
        return None


class Poller:
    """Lists the bucket at the store, over and over, and reads what is new: what anybody could have seen. It
    takes a third of a processor at most, so that there is something to see.

    By content, not by ETag: for an instant `juicefs gateway` lists the size of a new object with the ETag of
    the old one."""

    def __init__(self, store: Store, bucket: str) -> None:
        self._client = store.new_client(retries={"total_max_attempts": 1})
        self._bucket = bucket
        self._known: set[tuple[Any, ...]] = set()
        self.seen: set[tuple[str, str]] = set()  # key, MD5
        self.looks = self.reads = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        spent = 0.0
        while not self._end.wait(max(0.05, 2 * spent)):
            began = time.monotonic()
            with contextlib.suppress(ClientError):  # no bucket
                found = list_keys(self._client, self._bucket)
                self.looks += 1
                for key, item in found.items():
                    self._look(key, (key, item["ETag"], item["Size"], item["LastModified"]))
            spent = time.monotonic() - began

    def _look(self, key: str, stamp: tuple[Any, ...]) -> None:
        if stamp in self._known or key.endswith("/") or self._end.is_set():
            return
        with contextlib.suppress(ClientError):  # deleted meanwhile
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            self._known.add(stamp)
            self.reads += 1
            self.seen.add((key, hashlib.md5(body).hexdigest()))

    def close(self) -> None:
        self._end.set()
        self._thread.join(30)


class CrashLoop:
    """A store, a proxy, a folder, a server and a shell. `round` does one round, and raises AssertionError.
    `watched`: how many of the rounds are a watched mirror's."""

    def __init__(self, base: Path, store: Store, seed: int, watched: float = 0.05) -> None:
        self.store, self.rng = store, random.Random(seed)
        self.bucket = f"c-{uuid.uuid4().hex[:16]}"
        self.proxy = RecordingProxy(store)
        self.weather = Weather(seed)
        toml = str(base / "mirrors.toml")
        self.service = Service(base, store, STORAGE_URL=self.proxy.url, KEEP_JOBS="20", MIRRORS_FILE=toml)
        self.shell = Shell(base, store, STORAGE_URL=self.proxy.url)
        self.folder = self.service.uploads / "photos"
        self.disks = Disks(base, self.service.uploads, seed)
        self.history = self.disks.history
        self.asked = Asked(self.service, store, self.bucket, self.proxy)
        self.watched, self.watched_share = Watched(self, Path(toml), SECONDS), watched
        self.others = 0  # jobs beside those that are looked at
        self.poller = Poller(store, self.bucket)
        self.kills: Counter[str] = Counter()
        self.phases: Counter[str] = Counter()  # what the worker was doing when it was killed
        self.ways: Counter[str] = Counter()
        self.rounds = self.syncs = self.bytes_sent = self.bytes_again = self.parts_again = 0
        self.differences = self.kills_in_multipart = 0
        self.forgets = False  # the next job is to forget the disks that are away
        self.disturbed = False  # in this round, so that what is sent again is no fault
        self.absences: Counter[str] = Counter()
        self.service.start()

    def close(self) -> None:
        self.poller.close()
        self.service.close()
        self.shell.close()
        self.proxy.close()
        self.disks.close()
        self.store.remove_bucket(self.bucket)

    # -- one round
    def round(self) -> None:
        self.proxy.clear_hooks()
        self.proxy.reset()
        if not self.forgets and self.rng.random() < self.watched_share:
            self.watched.round()
            self._judge(None)
            return
        fair = self.rng.random() < 0.5
        self.weather.rate = 0.0 if fair else self.rng.choice([0.03, 0.1])
        for _ in range(self.rng.randint(1, 5)):
            self.disks.change()
        self.disturbed = self.disks.come_and_go(self._keys())
        kills = self.rng.choices([0, 1, 2, 3], [1, 6, 3, 2])[0]
        job: str | None = None
        for step in range(STEPS):
            job, settled = self._step(job, kill=step < kills)
            if settled:
                break
        else:
            raise AssertionError(f"{STEPS} steps, and no job has ended `done`")
        self._judge(kills if fair and not self.disturbed else None)

    def _judge(self, kills: int | None) -> None:
        self._judge_store()
        self._judge_files()
        self._count_bytes(kills)
        self.rounds += 1

    def _step(self, job: str | None, *, kill: bool) -> tuple[str | None, bool]:
        """A job, perhaps killed: (the job to go on with, whether bucket and folder must be equal now)."""
        self.proxy.clear_hooks()
        if not kill:
            self.weather.rate = 0.0
        self.proxy.on_request(self.weather)
        self._remove_index()
        before, others = self.asked.look(), self.others
        process, job = self._begin(job)
        self.syncs += 1
        if self.rng.random() < 0.2:
            self._ask_for_another(job)
        moves = kill and self.rng.random() < 0.25
        if moves:
            move = self.rng.choice([self.disks.change, self._come_and_go])
            mover = threading.Timer(self.rng.random() * 0.5, move)
            mover.start()
        if kill:
            self._kill_sometime(job)
        status = self._end_of(job, process)
        if moves:
            mover.join(SECONDS)
        wait_for(lambda: all(r.finished for r in self.proxy.requests), SECONDS, "the requests of the dead")
        lost = self.disks.protected - self._keys()
        assert not lost, f"deleted while their disk was away: {sorted(lost)}\n{json.dumps(status)}"
        if self.others == others:
            self.asked.judge(job, before, status)
        if (status["error"] or {}).get("code") == "DiskNotMounted" and not kill:
            assert self.disks.away or moves, status
            return self._end_absence(job), False
        if status["state"] == "waiting":
            return self._while_it_waits(job), False
        if not kill:
            assert status["state"] == "done", f"{json.dumps(status)}\n{self.service.log(job)}"
        if status["state"] == "done" and not moves:
            self._compare()
            # A plan with nothing in it has left alone what the dead left behind.
            return None, not status["options"].get("plan") or status["plan"] is not None
        other = status["state"] == "done" or self.rng.random() < 0.3
        return (None if other else job), False

    def _while_it_waits(self, job: str) -> str | None:
        """The folder may change before the plan is approved; or nobody ever approves it."""
        if self.rng.random() < 0.3:
            self.rng.choice([self.disks.change, self._come_and_go])()
        return job if self.rng.random() < 0.85 else None

    def _compare(self) -> None:
        wanted = expected(self.folder)
        found = contents(self.store, self.bucket) if exists(self.store, self.bucket) else None
        self.differences += found != (wanted or None)
        assert (found is not None) == bool(wanted), (
            "a bucket is there if, and only if, the folder holds a file"
        )
        assert_same(found or {}, wanted)

    # -- disks, and the index
    def _keys(self) -> set[str]:
        return set(list_keys(self.store.client(), self.bucket)) if exists(self.store, self.bucket) else set()

    def _come_and_go(self) -> None:
        self.disturbed |= self.disks.come_and_go(self._keys())

    def _end_absence(self, job: str) -> str | None:
        """A job has said that a disk is away: it is mounted again, or forgotten. The job to go on with."""
        self.disturbed = True
        if self.rng.random() < 0.6:
            self.absences["mounted again"] += 1
            self.disks.mount_all()
            return job if self.rng.random() < 0.5 else None
        self.absences["forgotten"] += 1
        self.disks.forget()
        self.forgets = True
        return None

    def _remove_index(self) -> None:
        """Sometimes; with it goes what is known of unfinished uploads, which are then ended here."""
        if self.rng.random() < 0.08:
            for path in (self.service.jobs / ".index").glob("*"):
                path.unlink(missing_ok=True)
            for upload in self._uploads():
                with contextlib.suppress(ClientError):
                    self.store.client().abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
            self.absences["index removed"] += 1
            self.disturbed = True

    # -- starting
    def _begin(self, job: str | None) -> tuple[subprocess.Popen[bytes] | None, str]:
        """Starts or resumes a job, one way or another: (the shell's process, the job)."""
        ways = ["http", "http with keys", "shell"] if job is None else ["resume", "resume from a shell"]
        if job is not None and self.service.status(job)["state"] == "waiting":
            ways = ["approve", "approve from a shell"]
        way = self.rng.choice(ways)
        asks = self.rng.choices([{}, {"plan": "1"}, {"max_delete": str(MAX_DELETE)}], [4, 3, 2])[0]
        forget, asks = ("1", {}) if self.forgets else ("0", asks)
        self.forgets = False
        self.ways[way] += 1
        wait = self.rng.choices(["0", "0.005"], [8, 1])[0]
        rate = self.rng.choices(["", "4M"], [5, 1])[0]
        self._limit_all()
        if way == "shell":
            process, made = self.shell.begin(
                self.bucket, "photos", "--wait", wait, "--forget-mounts", forget, "--bandwidth", rate,
                *(text for name, value in asks.items() for text in (f"--{name.replace('_', '-')}", value)),
            )  # fmt: skip
            return process, made
        etag = self.asked.approve(job) if job is not None and "approve" in way else ""
        if way.endswith("from a shell"):
            assert job is not None
            attempt = self.service.status(job)["attempt"]
            process = self.shell.spawn(way.split()[0], job)
            self.service.wait_file(job, lambda s: s["attempt"] > attempt, SECONDS)
            return process, job
        if way == "resume":
            reply = self.service.get("/resume", id=job)
        elif way == "approve":
            reply = self.service.get("/approve", id=job, etag=etag)
        else:
            keys = self._spelled()
            given = keys if way == "http with keys" else {}
            asked = {
                "source": "photos",
                "dest": self.bucket,
                "wait": wait,
                "forget_mounts": forget,
                "bandwidth": rate,
                **asks,
            }
            reply = self.service.post("/sync", **asked, **given)
        assert reply.status == 202, reply
        return None, reply.json()["id"]

    def _limit_all(self) -> None:
        """Sometimes all jobs together are limited, and sometimes their budget's file is damaged."""
        if self.rng.random() < 0.3:
            (self.service.jobs / "bandwidth").write_text(self.rng.choice(["8M", "20M", "0", "nonsense"]))
            self.absences["limited"] += 1
        budget = self.service.jobs / ".bandwidth"
        if budget.exists() and self.rng.random() < 0.1:
            budget.write_bytes(b"damaged")

    def _spelled(self) -> dict[str, str]:
        """The storage with its keys, its address written in one way or another."""
        url = self.rng.choice(SPELLINGS).format(self.proxy.port)
        return {"storage_url": url, "access_key": self.store.access_key, "secret_key": self.store.secret_key}

    def _ask_for_another(self, job: str) -> None:
        """One bucket has one job, however its storage is spelled, until that job has ended."""
        reply = self.service.post("/sync", source="photos", dest=self.bucket, **self._spelled())
        if reply.status == 409:
            assert reply.json()["job"] == job, reply
            self.absences["another job refused"] += 1
            return
        assert (reply.status, self._has_ended(job)) == (202, True), reply
        self.service.wait_state(reply.json()["id"], timeout=SECONDS)
        self.disturbed = True
        self.others += 1

    # -- killing
    def _kill_sometime(self, job: str) -> None:
        """Waits for a moment, or for a request, and kills: the worker, the server, or both."""
        whom = self.rng.choices(["worker", "server", "both"], [5, 2, 3])[0]
        now = threading.Event()
        if self.rng.random() < 0.5:
            now.wait(self.rng.random() * 1.2)
        else:
            choices = [(), ("UploadPart",), ("CompleteMultipartUpload",), ("DELETE", "DeleteObjects")]
            kinds = self.rng.choices(choices, [6, 2, 1, 1])[0]
            left = self.rng.choice([1, 2] if kinds else [1, 2, 3, self.rng.randint(3, 30)])

            def count(request: Request) -> None:
                nonlocal left
                left -= not kinds or request.kind in kinds
                if left <= 0:
                    now.set()

            self.proxy.on_request(count)
            # The job may end before that request comes.
            wait_for(lambda: now.is_set() or self._has_ended(job), SECONDS, "the request to kill at")
        if self.rng.random() < 0.07:
            self.service.file(job, "cancel").touch()
        elif self.rng.random() < 0.2:
            self._pause(job)
        self._kill(job, whom)

    def _pause(self, job: str) -> None:
        """For a moment, or until after the kill: `_end_of` continues the job."""
        self.service.file(job, "pause").touch()
        self.absences["paused"] += 1
        threading.Event().wait(self.rng.random() * 0.6)
        if self.rng.random() < 0.3:
            self.service.file(job, "pause").unlink(missing_ok=True)
            threading.Event().wait(self.rng.random() * 0.3)

    def _has_ended(self, job: str) -> bool:
        return self.service.status(job)["state"] in FINAL

    def _kill(self, job: str, whom: str) -> None:
        killed = []
        if whom in ("server", "both"):
            self.service.kill()
            killed.append("server")
        if whom in ("worker", "both"):
            status = self.service.status(job)
            for worker in self.service.workers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.send_signal(signal.SIGKILL)
                    killed.append("worker")
            if "worker" in killed:
                self.phases[status["phase"] or status["state"]] += 1
                self.kills_in_multipart += self._uploads() != []
        self.kills[" and ".join(dict.fromkeys(killed)) or "none: it had ended"] += 1

    def _uploads(self) -> list[dict[str, Any]]:
        return list_uploads(self.store.client(), self.bucket) if exists(self.store, self.bucket) else []

    def _end_of(self, job: str, process: subprocess.Popen[bytes] | None) -> dict[str, Any]:
        """The job's final state, as a server tells it; a dead one is started again for that."""
        if self.service.process.poll() is not None:
            if self.rng.random() < 0.3:
                self._ask_a_shell(job)
            self.service.start()
        self.service.file(job, "pause").unlink(missing_ok=True)  # it may have been resumed by itself
        status = self.service.wait_state(job, timeout=SECONDS)
        check_status(status)
        assert self.service.status(job)["state"] == status["state"], "what is told is what is written"
        if process is not None:
            process.wait(SECONDS)
        return status

    def _ask_a_shell(self, job: str) -> None:
        """When no server supervises, whoever looks must find the truth by himself."""
        lives = bool(self.service.workers())
        shown = self.shell.run("show", job, "--json")
        status = json.loads(shown.stdout)
        check_status(status)
        assert lives or status["state"] != "running", status

    # -- judging
    def _judge_store(self) -> None:
        """Nothing was ever seen that was no version of its file; no upload of ours is left unfinished."""
        strange = [(key, md5) for key, md5 in list(self.poller.seen) if not self.disks.has_had(key, md5)]
        assert strange == [], "(key, MD5) of objects that were no version of their file"
        left = self._uploads()
        assert left == [], f"unfinished uploads are left: {left}"

    def _judge_files(self) -> None:
        """Each file under jobs/ is one that the contract names; statuses are whole and final, tell the truth,
        and their jobs' locks are free; no key is in any of them, but in the secret of a job that may still
        be resumed."""
        # The workers' last word is written before their lock is free.
        wait_for(lambda: not self.service.workers(), SECONDS, "the end of the workers")
        jobs = self.service.jobs
        check_left(jobs, self.store.secret_key)
        check_truth(jobs)
        for status in statuses(jobs):
            check_status(status)
        for path in [*jobs.glob("2*.lock"), *jobs.glob(".dest/*.lock"), jobs / ".create.lock"]:
            # The server takes a lock for an instant, to write down what it has found.
            wait_for(lambda p=path: not _is_locked(p), 10, f"{path.name}, held though no worker lives,")
        assert self.store.secret_key not in self.service.output()

    def _count_bytes(self, kills: int | None) -> None:
        """What was sent more than once: the same bytes of the same key and part. With nothing but kills in
        its way, a file has at most two parts sent again for each."""
        sent: dict[tuple[str, int | None, str], list[int]] = {}
        for request in self.proxy.of_kind("PUT", "UploadPart"):
            name = (request.key, request.part, request.headers.get("content-md5", ""))
            sent.setdefault(name, []).append(request.body_bytes)
        again: Counter[str] = Counter()
        for (key, part, _md5), sizes in sent.items():
            self.bytes_sent += sum(sizes)
            self.bytes_again += sum(sizes) - max(sizes)
            if part is not None:
                again[key] += len(sizes) - 1
        self.parts_again += sum(again.values())
        if kills is not None:
            assert all(count <= 2 * kills for count in again.values()), (again, kills)

    # -- telling
    def summary(self) -> str:
        def listed(counter: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"

        return "\n".join(
            [
                f"rounds:    {self.rounds}, jobs started or resumed: {self.syncs} ({listed(self.ways)})",
                f"kills:     {sum(self.kills.values())} ({listed(self.kills)})",
                f"           workers killed while: {listed(self.phases)};"
                f" with a multipart upload open: {self.kills_in_multipart}",
                f"faults:    {self.weather.counts.total()} ({listed(self.weather.counts)})",
                f"bytes:     {self.bytes_sent:,} sent, {self.bytes_again:,} of them more than once"
                f" ({self.parts_again} parts)",
                f"store:     listed {self.poller.looks} times while it went on,"
                f" {self.poller.reads} objects read and compared",
                f"disks:     taken away {self.disks.counts.total()} times ({listed(self.disks.counts)});"
                f" {listed(self.absences)};"
                f" {'one' if self.disks.below[-1].ignores_case else 'none'} of them ignores case",
                f"asked:     {listed(self.asked.counts)}",
                f"watched:   {listed(self.watched.counts)}",
                f"{self.differences} differences",
            ]
        )


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # the server removes old jobs
        pass
    return False

"""Worker, shell and server killed at, or failed in, each of their system calls on the job directory.

After each: what is left can be read and tells the truth, no key lies where nobody would remove it, and going
on ends `done` with the bucket equal to the folder.

Here each call meets its faults at a few of its occurrences (the first, second, fourth …); `make
test-syscalls` does it at every one, until a run survives.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest
from bench import FINAL, Service, Shell, assert_same, contents, expected, fill, tree, wait_for
from stores import Store
from syscalls import FAIL, ID, KILL, Fault, has_happened, paths, put_back, run, traced
from truth import check_left, check_truth
from zygote import Zygote

ALL = os.environ.get("SYSCALLS") == "all"
BUCKET = "syscalls"
KEYS = ("access_key", "secret_key")
# `new_id` is the one thing that is not the program's own: the paths must be known before it starts.
CREATE = f"""
import sys
from syncworker.jobs import store as jobs
from syncworker.shell import cli
jobs.new_id = lambda now: {ID!r}
cli.run_job = None
import syncworker.worker.worker
syncworker.worker.worker.run_job = lambda *_: sys.exit(77)
sys.exit(cli.main(["start", "--source", "photos", "--dest", {BUCKET!r}]))
"""


def occurrences() -> Iterator[int]:
    return iter(count(1)) if ALL else iter((1, 2, 4, 8))


class Laboratory:
    """A store, a folder, a bucket with something old in it; a job directory that is put back each time."""

    def __init__(self, base: Path, store: Store) -> None:
        self.store, self.base = store, base
        keys = {"SYNC_ACCESS_KEY": store.access_key, "SYNC_SECRET_KEY": store.secret_key}
        self.shell = Shell(base, store, **keys)
        self.service = Service(base, store)
        self.zygote = Zygote(self.service.environment, base / "output")
        self.jobs = self.shell.jobs
        tree(self.shell.uploads, {"photos": {"a": "1", "b": "22", "d/c": "333"}, "other": {"x": "1"}})
        self.wanted = expected(self.shell.uploads / "photos")
        fill(store, BUCKET, {})
        self.shell.sync(BUCKET)  # the index has its name, and knows the files
        self.index = next(path.stem for path in (self.jobs / ".index").glob("*.sqlite"))
        self._make_templates()

    def _make_templates(self) -> None:
        for path in [*self.jobs.glob("2*"), *(self.jobs / ".index").iterdir()]:
            path.unlink()
        (self.base / "templates").mkdir()
        self._keep("create")
        assert run([sys.executable, "-c", CREATE], self.shell.environment, self.base / "out") == 77
        status = self.shell.status(ID)
        assert status["state"] == "queued"
        assert self.shell.file(ID, "secret").exists()
        self._keep("run")
        running = {"state": "running", "phase": "starting", "pid": 1, "pid_started_at": 1.0}
        self._write(status | running | {"started_at": status["created_at"], "auto_resume": True})
        self._keep("server")
        assert self.zygote.run("show", ID) == 0
        assert self.shell.status(ID)["state"] == "interrupted"
        self._keep("resume")

    def _write(self, status: dict) -> None:
        self.shell.file(ID, "json").write_text(json.dumps(status))

    def _keep(self, name: str) -> None:
        shutil.copytree(self.jobs, self.base / "templates" / name)

    def close(self) -> None:
        self.zygote.close()
        self.shell.close()
        self.service.close()
        self.store.remove_bucket(BUCKET)

    # -- one trial
    def trial(self, scenario: str, fault: Fault, number: int) -> bool:
        """Whether the fault has happened; AssertionError when what is left is not as it must be."""
        put_back(self.base / "templates" / scenario, self.jobs)
        client = self.store.client()
        for key in self.wanted:
            client.delete_object(Bucket=BUCKET, Key=key)
        client.put_object(Bucket=BUCKET, Key="old", Body=b"x")
        trace = self.base / "trace"
        prefix = traced(fault, number, paths(self.jobs, self.index), trace)
        if scenario == "server":
            self._serve(prefix)
        else:
            arguments = ["-c", CREATE] if scenario == "create" else ["-m", "syncworker", scenario, ID]
            status = run([*prefix, sys.executable, *arguments], self.shell.environment, self.base / "out")
            if scenario != "create" and not has_happened(trace):
                assert status == 0, (self.base / "out").read_text()
        try:
            self._judge(scenario)
        except BaseException as error:
            said = (self.base / "out").read_text(errors="replace")[-2500:]
            error.add_note(f"{scenario}: {fault} at the {number}th; the command said:\n{said}")
            raise
        return has_happened(trace)

    def _serve(self, prefix: list[str]) -> None:
        """A server that finds the job of a dead worker; it ends, or the job does, and then it is ended."""
        environment = self.service.environment
        ended = threading.Event()

        def stop_when_done() -> None:
            def over() -> bool:
                with contextlib.suppress(OSError, ValueError):
                    status = json.loads(self.shell.file(ID, "json").read_bytes())
                    if status["state"] in FINAL and not (
                        status["state"] == "interrupted" and status["auto_resume"]
                    ):
                        return True
                return ended.is_set()

            with contextlib.suppress(AssertionError):  # interrupted, and left so: it is ended all the same
                wait_for(over, 6)
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    ours = process.environ().get("JOBS_DIR") == str(self.jobs)
                    if ours and process.cmdline()[-1:] == ["server.py"] and process.name() != "strace":
                        process.send_signal(signal.SIGTERM)

        thread = threading.Thread(target=stop_when_done)
        thread.start()
        try:
            run([*prefix, sys.executable, "server.py"], environment, self.base / "out")
        finally:
            ended.set()
            thread.join()

    def _judge(self, scenario: str) -> None:
        """What a shell finds tells the truth; what it says to do next ends `done`."""
        for _ in range(3):
            if self.zygote.run("list", "--all", "--json") != 0:
                raise AssertionError((self.base / "output").read_text())
            found = json.loads((self.base / "output").read_text())["jobs"]
            check_truth(self.jobs)
            if not found:
                assert scenario == "create", "the job is gone"
                assert self.zygote.run("start", "--source", "photos", "--dest", BUCKET) == 0
                continue
            state = found[0]["state"]
            assert state != "running", "no worker lives"
            if state == "done":
                break
            job = found[0]["id"]
            resumed = self.zygote.run("run" if state == "queued" else "resume", job)
            assert resumed == 0, (self.base / "output").read_text()
        assert state == "done"
        assert_same(contents(self.store, BUCKET), self.wanted)
        # The next job that is made removes what a killed one has left.
        assert self.zygote.run("start", "--source", "photos", "--dest", BUCKET) == 0
        check_left(self.jobs, self.store.secret_key)


@pytest.fixture(scope="module")
def laboratory(stores, tmp_path_factory):
    made = Laboratory(tmp_path_factory.mktemp("syscalls"), stores.get("juicefs"))
    yield made
    made.close()


SCENARIOS = ("run", "resume", "create", "server") if ALL else ("run",)
SOME = ("resume", "create", "server")
NEVER = {("create", "unlink"), ("create", "ftruncate")}  # calls that are not made there
EVERY = [(scenario, fault) for scenario in SCENARIOS for fault in [*KILL, *FAIL]]
if not ALL:
    few = {"openat SIGKILL", "fsync+fdatasync SIGKILL", "rename SIGKILL", "rename EACCES", "openat EMFILE"}
    EVERY += [(scenario, fault) for scenario in SOME for fault in [*KILL, *FAIL] if str(fault) in few]


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("scenario", "fault"), EVERY, ids=[f"{s} {f}" for s, f in EVERY])
def test_after_a_fault_in_a_system_call_the_truth_is_told_and_going_on_ends_done(laboratory, scenario, fault):
    met = 0
    for number in occurrences():
        if not laboratory.trial(scenario, fault, number):
            break
        met += 1
    assert bool(met) != ((scenario, fault.calls) in NEVER), "a call that was thought to be made was not"
    print(f"{scenario}: {fault}: {met} times")

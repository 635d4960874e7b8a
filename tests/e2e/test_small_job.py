"""What a job of a few files does before its first file is sent: what it imports, and what it waits for."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from bench import PROJECT, Mirror
from stores import minimal_environment

# Each is a part of the start of every job that would need it only for something else.
NOT_NEEDED = {
    "awscrt", "boto3", "bz2", "botocore", "email", "http.client", "lzma", "psutil", "random", "re2",
    "secrets", "shutil", "_ssl", "tempfile", "urllib.request",
}  # fmt: skip
OF_THE_SHELL = {"argparse", "gettext"}
MODULES_AT_MOST = 300  # half a millisecond of processor time each, with what they bring along


@pytest.fixture
def few(mirror: Mirror) -> Mirror:
    mirror.make({f"{number}.txt": 100 for number in range(10)})
    return mirror


def imported(error: str) -> set[str]:
    """The modules that `-X importtime` has told of."""
    return {line.rpartition("|")[2].strip() for line in error.splitlines() if line.startswith("import time:")}


def queued(mirror: Mirror) -> str:
    """The id of a job that waits for its worker."""
    code = (
        "from syncworker import request, settings\nfrom syncworker.jobs.store import Jobs\n"
        "set_ = settings.load()\njobs = Jobs(set_.jobs_dir)\njobs.prepare()\n"
        f"print(jobs.create(request.parse(set_, source='photos', dest='{mirror.bucket}'))['id'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT, env=mirror.shell.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_small_job_imports_nothing_that_it_does_not_need(few: Mirror) -> None:
    few.shell.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    modules = imported(few.sync().err)
    assert "asyncio" in modules
    assert not modules & NOT_NEEDED


def test_a_worker_for_a_small_job_imports_few_modules(few: Mirror) -> None:
    job = queued(few)
    few.shell.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    worker = few.shell.run("run", job)
    assert worker.returncode == 0, worker.stderr[-2000:]
    modules = imported(worker.stderr)
    assert "asyncio" in modules
    assert not modules & (NOT_NEEDED | OF_THE_SHELL)
    assert len(modules) <= MODULES_AT_MOST


def test_a_job_over_tls_has_an_asyncio_with_tls() -> None:
    code = (
        "from syncworker.system.tls import import_asyncio\n"
        "import_asyncio({url!r})\nimport asyncio.sslproto, ssl\nprint(asyncio.sslproto.ssl is ssl)"
    )
    for url, has in (("https://s3.example.com", "True"), ("http://127.0.0.1:9000", "False")):
        command = [sys.executable, "-c", code.format(url=url)]
        environment = minimal_environment(PROJECT)
        done = subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == has, url


def test_the_first_file_waits_for_no_more_than_what_must_survive_a_power_cut(few: Mirror) -> None:
    """The disk has the status `running` and the mounts that protect the destination. The index is a cache."""
    job, trace = queued(few), few.shell.base / "trace"
    command = ["strace", "-f", "-y", "-s", "8", "-e", "trace=fsync,fdatasync,sendto", "-o", str(trace), "--"]
    worker = subprocess.run(
        [*command, sys.executable, "-m", "syncworker", "run", job],
        cwd=PROJECT, env=few.shell.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert worker.returncode == 0, worker.stderr[-2000:]
    before = trace.read_text().partition('"PUT /')[0]
    waits = re.findall(r"f(?:data)?sync\(\d+<([^>]*)>", before)
    names = [path.removeprefix(f"{few.shell.jobs}").partition(".tmp")[0] for path in waits]
    index = few.shell.jobs / ".index"
    assert names[:2] == [f"/{job}.json", ""], waits
    # Its progress is written beside the work: on a slow machine before the first file, too.
    names = names[:2] + [name for name in names[2:] if name != f"/{job}.json"]
    assert len(names) == 4, waits
    assert names[2].startswith("/.dest/"), waits
    assert names[3] == "/.dest", waits
    assert not [path for path in waits if path.startswith(str(index))]

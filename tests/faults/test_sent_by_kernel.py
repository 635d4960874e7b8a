"""Parts that the kernel sends from the file (sendfile), after this program has read them for their sums."""

from __future__ import annotations

from collections import Counter

import pytest
from bench import Mirror, assert_same, expected

WRITES_BETWEEN = """
import mmap, os, runpy, sys

with open("{path}", "r+b") as file:
    pages = mmap.mmap(file.fileno(), 0)
for at in range(0, len(pages), 4096):
    pages[at : at + 5] = b"dirty"  # from now on, until the disk has them, writing leaves the times
real, seen = os.sendfile, []

def sendfile(out, file, offset, count):
    if not seen:
        seen.append(offset)
        pages[offset : offset + 5] = b"other"
    return real(out, file, offset, count)

os.sendfile = sendfile
sys.argv = ["syncworker", "start", "--source", "photos", "--dest", "{bucket}"]
runpy.run_module("syncworker", run_name="__main__", alter_sys=True)
"""


CANNOT_SEND = """
import errno, os, runpy, sys
real = {{name: getattr(os, name) for name in ("sendfile", "pread", "preadv")}}
sent = []

def checked(name):
    def call(*arguments):
        file = arguments[1 if name == "sendfile" else 0]
        path = os.readlink(f"/proc/self/fd/{{file}}")
        if path.endswith("/bad"):
            sent.append(name)
            if "sendfile" in sent and name in {names}:
                raise OSError(errno.EIO, "Input/output error")
        return real[name](*arguments)
    return call

for name in real:
    setattr(os, name, checked(name))
sys.argv = ["syncworker", "start", "--source", "photos", "--dest", "{bucket}"]
runpy.run_module("syncworker", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("names", [("sendfile",), ("sendfile", "pread", "preadv")])
def test_a_file_that_cannot_be_sent_from_is_read_and_one_that_cannot_be_read_fails_alone(
    mirror: Mirror, names: tuple[str, ...]
) -> None:
    mirror.make({"bad": 40 << 20, "good": 40 << 20, "small": 100})
    code = CANNOT_SEND.format(bucket=mirror.bucket, names=names)
    process = mirror.shell.popen("-c", code, name="worker")
    fails = "pread" in names
    assert process.wait(60) == int(fails), (mirror.shell.base / "worker.err").read_text()
    (job,) = mirror.shell.ids()
    status = mirror.shell.status(job)
    if fails:
        assert (status["state"], status["error"]["code"]) == ("failed", "FilesFailed"), status
        assert set(mirror.contents) == {"good", "small"}
    else:
        assert_same(mirror.contents, expected(mirror.folder))


def test_a_part_that_changes_between_its_sum_and_its_sending_is_refused_and_sent_again(
    mirror: Mirror,
) -> None:
    """As by a program that writes through a mapping: the file's times need not show it."""
    mirror.make({"large": 40 << 20})
    code = WRITES_BETWEEN.format(bucket=mirror.bucket, path=mirror.folder / "large")
    assert mirror.shell.popen("-c", code, name="worker").wait(60) == 0
    # Smaller ones only try the sums.
    sent = [r for r in mirror.proxy.of_kind("UploadPart") if r.body_bytes > 1 << 20]
    assert sorted(Counter(r.query["partNumber"] for r in sent).values()) == [1, 1, 1, 1, 2], sent
    assert_same(mirror.contents, expected(mirror.folder))
    mirror.twice()

"""Ten thousand failures at once: the status stays small, the report is whole, and no failure costs more than
its request. (Five thousand finished jobs: `test_server.py` and `test_supervisor.py`.)"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import pytest
from bench import contents, fill, peak_bytes, s3_error, wait_for
from shapes import check_report, check_status

FILES = 10_000
STATUS_BYTES = 100_000


@pytest.mark.timeout(600)
def test_ten_thousand_failing_files_give_a_small_status_a_whole_report_and_an_end(mirror, juicefs):
    for folder in range(10):
        mirror.make({f"d{folder}": {f"f{n:04}": "x" for n in range(FILES // 10)}})
    fill(juicefs, mirror.bucket, {"old": b"1"})
    mirror.proxy.on_request(lambda r: s3_error(403, "AccessDenied") if r.kind == "PUT" else None)
    process, job = mirror.shell.begin(mirror.bucket)
    path = mirror.shell.file(job, "json")
    largest = 0

    def ended() -> bool:
        nonlocal largest
        largest = max(largest, path.stat().st_size)
        return process.poll() is not None

    wait_for(ended, 500, "the end of the job")
    assert process.returncode == 1
    assert 1000 < largest < STATUS_BYTES
    status = mirror.shell.status(job)
    check_status(status)
    assert (status["state"], status["error"]["code"]) == ("failed", "FilesFailed")
    assert status["progress"]["files_failed"] == status["progress"]["files_total"] == FILES
    assert len(status["errors"]) == 100
    report = mirror.shell.report(job)
    check_report(report)
    failed = [line["key"] for line in report if line.get("error", {}).get("code") == "AccessDenied"]
    assert len(failed) == len(set(failed)) == FILES
    asked = Counter(request.key for request in mirror.proxy.of_kind("PUT"))
    assert set(asked.values()) == {1}, "a refusal is not asked for again: as many requests as files"
    assert sum(mirror.proxy.kinds().values()) < FILES + 10
    assert contents(juicefs, mirror.bucket) == {"old": b"1"}, "nothing was deleted"
    print(f"{FILES} failures in {status['progress']['elapsed_seconds']} s, status up to {largest} bytes")


def test_a_status_is_small_however_long_the_names_of_what_fails_are(mirror, juicefs):
    """A key of 1,024 bytes has six thousand in JSON when it is all one byte a character beyond ASCII."""
    long = "/".join(["é" * 127] * 3)
    mirror.make({long: {f"{'ü' * 100}{n:03}": "x" for n in range(130)}})
    fill(juicefs, mirror.bucket, {"old": b"1"})
    mirror.proxy.on_request(lambda r: s3_error(403, "AccessDenied", "é" * 5000) if r.kind == "PUT" else None)
    run = mirror.start()
    assert run.exit_status == 1
    assert 10 < len(run.status["errors"]) <= 100
    assert mirror.shell.file(run.status["id"], "json").stat().st_size < STATUS_BYTES
    assert len([line for line in mirror.shell.report(run.status["id"]) if "error" in line]) == 130


@pytest.mark.parametrize("other", ["old", "d"])  # the latter stands in the way: they wait for its end
def test_files_that_fail_leave_no_bytes_in_memory(mirror, juicefs, other):
    """What has failed is told by name: no error keeps the body that it was raised over."""
    count, size = 300, 1 << 20
    mirror.make({"d": {f"f{n:04}": f"{n:04}" * (size // 4) for n in range(count)}})
    fill(juicefs, mirror.bucket, {other: b"1"})
    mirror.proxy.on_request(lambda r: s3_error(403, "AccessDenied") if r.kind == "PUT" else None)
    process, job = mirror.shell.begin(mirror.bucket)
    peak = 0

    def ended() -> bool:
        nonlocal peak
        with suppress(OSError, IndexError):  # it has just ended
            peak = max(peak, peak_bytes(process.pid))
        return process.poll() is not None

    wait_for(ended, 500, "the end of the job")
    assert process.returncode == 1
    assert mirror.shell.status(job)["progress"]["files_failed"] >= count
    assert 30e6 < peak < 220e6, "64 MiB may be in flight, not all of the files"

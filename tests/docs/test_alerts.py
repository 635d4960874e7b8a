"""The alerts of docs/operations.md: each fires on the morning it is for, and none on a good one.

promtool plays Prometheus: it gets what real scrapes of a real server showed before and after a real failure,
stretched over the hours of a night, and says which alerts fire.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import disks
import psutil
import pytest
from bench import PROJECT, Cut, Gate, RecordingProxy, Service, s3_error, tree, wait_for
from prometheus_client.parser import text_string_to_metric_families
from stores import Store, free_ports

[RULES] = re.findall(
    r"^```yaml\n(groups:.*?)^```", (PROJECT / "docs" / "operations.md").read_text(), re.MULTILINE | re.DOTALL
)
ALERTS = set(re.findall(r"alert: (\w+)", RULES))
UP = 'up{job="s3-sync-api"}'
HOUR = 60  # minutes, of which each has a sample

Numbers = dict[str, float]
Span = tuple[int, Numbers]  # how many minutes it was so


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def scrape(service: Service) -> Numbers:
    """What Prometheus would have of it: nothing but `up` when it does not answer."""
    found: Numbers = {UP: 0}
    with contextlib.suppress(OSError):
        text = service.get("/metrics").body.decode()
        found[UP] = 1
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{name}={quoted(value)}" for name, value in sorted(sample.labels.items()))
                if sample.name.startswith("syncworker_"):
                    found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def shifted(numbers: Numbers, seconds: float) -> Numbers:
    """With its times moved: promtool's clock begins at 0."""
    return {
        name: value + seconds if value and "_timestamp_seconds" in name else value
        for name, value in numbers.items()
    }


def series(spans: Iterable[Span]) -> list[dict[str, str]]:
    """One sample a minute, in promtool's words."""
    spans = list(spans)
    names = {name for _, numbers in spans for name in numbers}
    return [
        {
            "series": name,
            "values": " ".join(
                f"{numbers[name]:.6f}+0x{minutes - 1}" if name in numbers else f"_x{minutes}"
                for minutes, numbers in spans
            ),
        }
        for name in sorted(names)
    ]


def fires(base: Path, spans: Iterable[Span], wanted: Mapping[int, set[str]]) -> None:
    """Exactly these alerts fire at these minutes."""
    spans = list(spans)
    checks = [
        {
            "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)],
        }
        for minute, names in wanted.items()
    ]
    (base / "rules.yml").write_text(RULES)
    night = {"interval": "1m", "input_series": series(spans), "promql_expr_test": checks}
    test = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [night]}
    (base / "night.yml").write_text(json.dumps(test))
    done = subprocess.run(
        [PROJECT / ".venv" / "promtool", "test", "rules", "night.yml"],
        cwd=base, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def night(
    base: Path, before: Numbers, after: Numbers, wanted: Mapping[int, set[str]], at: int = HOUR
) -> None:
    """`before` until minute `at`, then `after`; the ages in it are what they were when it was scraped."""
    newest = max([v for name, v in after.items() if "_end_timestamp_seconds" in name] or [0])
    move = at * 60 - newest
    minutes = max(wanted) + 1 - at
    fires(base, [(at, shifted(before, move)), (minutes, shifted(after, move))], wanted)


@pytest.fixture
def photos(service: Service) -> Path:
    return tree(service.uploads / "photos", {f"{n}.jpg": f"{n}" for n in range(5)})


# -- the mornings that can be made ------------------------------------------------------------------------


@pytest.fixture
def proxied(
    make_service: Callable[..., Service], juicefs: Store, make_proxy: Callable[[Store], RecordingProxy]
) -> tuple[Service, RecordingProxy]:
    """A service, and the proxy that its storage stands behind."""
    proxy = make_proxy(juicefs)
    return make_service(juicefs, STORAGE_URL=proxy.url), proxy


def test_none_fires_on_a_good_night(
    proxied: tuple[Service, RecordingProxy], bucket: str, tmp_path: Path
) -> None:
    """Two mirrors, one of them the first time, with a store that asks to slow down in between."""
    service, proxy = proxied
    tree(service.uploads / "photos", {f"{n}.jpg": f"{n}" for n in range(5)})
    tree(service.uploads / "films", {"a": "1"})
    service.done(bucket)
    before = scrape(service)
    refused: list[str] = []

    def slow_down(request: Any) -> Any:
        if request.method == "PUT" and len(refused) < 2:
            refused.append(request.key)
            return s3_error(503, "SlowDown")
        return None

    proxy.on_request(slow_down)
    tree(service.uploads / "photos", {"new": "new"})
    service.done(bucket)
    service.done(f"{bucket}-films", "films")
    assert refused
    quiet: dict[int, set[str]] = {minute: set() for minute in (1, 30, 61, 70, 10 * HOUR, 25 * HOUR)}
    night(tmp_path, before, scrape(service), quiet)


def test_a_wrong_key_wakes_somebody_at_once_though_it_is_the_first_failure_ever(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    service = make_service(juicefs, MINIO_SECRET_KEY="not-the-key-of-this-storage")
    tree(service.uploads / "photos", {"a": "1"})
    before = scrape(service)
    status = service.wait_state(service.sync(bucket), "failed")
    after = scrape(service)
    assert status["error"]["code"] == "SignatureDoesNotMatch"
    assert after['syncworker_errors_total{code="SignatureDoesNotMatch"}'] == 1
    assert after[f'syncworker_last_success_timestamp_seconds{{dest="{bucket}",source="photos"}}'] == 0
    now = {"SyncFailed", "SyncErrors"}
    night(tmp_path, before, after, {HOUR - 1: set(), HOUR + 1: now, 4 * HOUR: {"SyncFailed"}})


def test_a_storage_that_is_not_there_wakes_somebody(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    service.done(bucket)
    before = scrape(service)
    service.environment["STORAGE_URL"] = "http://127.0.0.1:1"
    service.restart()
    status = service.wait_state(service.sync(bucket), "failed", timeout=90)
    assert status["error"]["code"] == "ConnectFailed"
    night(tmp_path, before, scrape(service), {HOUR - 1: set(), HOUR + 1: {"SyncFailed", "SyncErrors"}})


def test_a_storage_that_goes_while_a_job_runs_wakes_somebody_before_the_job_gives_up(
    make_service: Callable[..., Service],
    juicefs: Store,
    bucket: str,
    make_proxy: Callable[[Store], RecordingProxy],
    tmp_path: Path,
) -> None:
    proxy = make_proxy(juicefs)
    service = make_service(juicefs, STORAGE_URL=proxy.url, STORAGE_PATIENCE="600")
    tree(service.uploads / "photos", {f"{n}.jpg": f"{n}" for n in range(5)})
    before = scrape(service)
    gone: list[str] = []

    def goes(request: Any) -> Any:
        gone.extend([request.key] if request.method == "PUT" and request.key else [])
        return Cut() if gone else None

    proxy.on_request(goes)
    job = service.sync(bucket)
    delayed = 'syncworker_jobs_delayed{reason="storage_down"}'
    after = wait_for(lambda: (found := scrape(service))[delayed] and found, 30, "the outage to be told")
    service.post("/cancel", id=job, now="1")
    service.wait_state(job, "cancelled")
    night(tmp_path, before, after, {HOUR + 1: set(), HOUR + 6: {"SyncStorageAway"}})


def met(service: Service, bucket: str, proxy: RecordingProxy, meet: Callable[[str], object]) -> str:
    """A sync that is in the middle of an upload when that is done to the job of this id."""
    gate = Gate(proxy, lambda request: request.method == "PUT" and bool(request.key))
    job = service.sync(bucket)
    gate.wait()
    meet(job)
    gate.open()
    return job


def killed(service: Service, bucket: str, proxy: RecordingProxy, kill: Callable[[int], None]) -> None:
    """The same, done to its worker."""
    met(service, bucket, proxy, lambda job: kill(service.show(job)["pid"]))


def test_a_worker_that_is_killed_moves_a_counter_and_wakes_somebody(
    proxied: tuple[Service, RecordingProxy], bucket: str, tmp_path: Path
) -> None:
    service, proxy = proxied
    tree(service.uploads / "photos", {"a": "1"})
    before = scrape(service)
    died = 'syncworker_errors_total{code="WorkerDied"}'
    assert before[died] == 0
    killed(service, bucket, proxy, lambda pid: os.kill(pid, signal.SIGKILL))
    after = wait_for(lambda: (found := scrape(service))[died] and found, 20, "the end to be noticed")
    assert (after[died], after['syncworker_attempts_ended_total{state="interrupted"}']) == (1, 1)
    later = {"SyncNotFinished"}
    night(tmp_path, before, after, {HOUR - 1: set(), HOUR + 1: {"SyncWorkerDied"}, 3 * HOUR: later})
    service.restart()
    assert scrape(service)[died] == 1  # not once more


def test_a_worker_that_is_told_to_stop_is_counted_and_wakes_nobody_at_once(
    proxied: tuple[Service, RecordingProxy], bucket: str, tmp_path: Path
) -> None:
    service, proxy = proxied
    tree(service.uploads / "photos", {"a": "1"})
    before = scrape(service)
    stopped = 'syncworker_errors_total{code="Stopped"}'
    assert before[stopped] == 0
    killed(service, bucket, proxy, lambda pid: os.kill(pid, signal.SIGTERM))
    after = wait_for(lambda: (found := scrape(service))[stopped] and found, 20, "the end")
    night(tmp_path, before, after, {HOUR + 1: set(), HOUR + 59: set(), 2 * HOUR + 1: {"SyncNotFinished"}})


def test_a_job_that_somebody_cancels_wakes_nobody(
    proxied: tuple[Service, RecordingProxy], bucket: str, tmp_path: Path
) -> None:
    service, proxy = proxied
    tree(service.uploads / "photos", {"a": "1"})
    before = scrape(service)

    def cancel(job: str) -> None:
        assert service.get("/cancel", id=job).status in (200, 202)

    service.wait_state(met(service, bucket, proxy, cancel), "cancelled")
    ended = 'syncworker_attempts_ended_total{state="cancelled"}'
    after = wait_for(lambda: (found := scrape(service)).get(ended) and found, 20, "the end")
    assert any("last_result" in name and "cancelled" in name and value for name, value in after.items())
    night(tmp_path, before, after, {HOUR + 1: set(), 2 * HOUR + 1: set(), 5 * HOUR: set()})


def test_a_worker_out_of_memory_wakes_somebody(
    proxied: tuple[Service, RecordingProxy], bucket: str, tmp_path: Path
) -> None:
    """`ulimit -v`, put on the worker before it has read a byte: whether it says so with its last breath or
    dies. Its first request is held until the limit is set: one file needs more than is left then."""
    service, proxy = proxied
    tree(service.uploads / "photos", {f"{number}.bin": bytes(7 << 20) for number in range(9)})
    before = scrape(service)
    gate = Gate(proxy, lambda _request: True)
    job = service.sync(bucket)
    gate.wait()
    pid = service.show(job)["pid"]
    most = psutil.Process(pid).memory_info().vms + (2 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
    gate.open()
    status = service.wait_state(job, ("failed", "interrupted"), timeout=60)
    after = scrape(service)
    now = {"SyncFailed", "SyncErrors"} if status["state"] == "failed" else {"SyncWorkerDied"}
    night(tmp_path, before, after, {HOUR - 1: set(), HOUR + 1: now})


def test_a_folder_of_which_nothing_can_be_mirrored_wakes_somebody_though_the_job_is_done(
    service: Service, juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    (service.uploads / "photos").mkdir()
    before = scrape(service)
    os.mkfifo(service.uploads / "photos" / "pipe")
    assert service.done(bucket)["skipped"] == {"fifo": 1}
    night(tmp_path, before, scrape(service), {HOUR - 1: set(), HOUR + 1: {"SyncSkips"}})


def test_a_job_that_waits_for_approval_wakes_somebody(
    service: Service, juicefs: Store, bucket: str, photos: Path, tmp_path: Path
) -> None:
    service.done(bucket)
    before = scrape(service)
    (photos / "1.jpg").unlink()
    (photos / "2.jpg").unlink()
    service.wait_state(service.sync(bucket, max_delete="1"), "waiting")
    night(tmp_path, before, scrape(service), {HOUR - 1: set(), 3 * HOUR: {"SyncWaitsForApproval"}})


def test_a_night_in_which_nothing_ran_wakes_somebody(
    service: Service, juicefs: Store, bucket: str, photos: Path, tmp_path: Path
) -> None:
    before = scrape(service)
    service.done(bucket)
    after = scrape(service)
    late = 27 * HOUR
    old = {"SyncTooOld", "NothingSynced"}
    night(tmp_path, before, after, {2 * HOUR: set(), 24 * HOUR: set(), late + 10: old})


def test_one_mirror_that_is_not_made_any_more_wakes_somebody_though_another_is(
    service: Service, juicefs: Store, bucket: str, photos: Path, tmp_path: Path
) -> None:
    """And though there are newer jobs of others than are kept, which is what KEEP_JOBS=1 plays."""
    service.environment["KEEP_JOBS"] = "1"
    service.restart()
    service.done(bucket)
    before = scrape(service)
    tree(service.uploads / "films", {"a": "1"})
    service.done(f"{bucket}-films", "films")
    wait_for(lambda: len(service.ids()) == 1, 10, "the first job's files to go")
    service.restart()
    after = scrape(service)
    age = f'syncworker_last_success_timestamp_seconds{{dest="{bucket}",source="photos"}}'
    films = f'syncworker_last_success_timestamp_seconds{{dest="{bucket}-films",source="films"}}'
    assert after[age] == before[age] and after[films]
    after[age] -= 25 * 3600  # it was yesterday that it ran
    night(tmp_path, before, after, {HOUR + 10: set(), 2 * HOUR + 10: {"SyncTooOld"}}, at=HOUR)


def test_a_server_that_is_gone_wakes_somebody(service: Service, tmp_path: Path) -> None:
    before = scrape(service)
    service.kill()
    night(tmp_path, before, scrape(service), {HOUR - 1: set(), HOUR + 6: {"SyncServerDown"}})


def test_a_queue_that_does_not_get_shorter_wakes_somebody(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    service = make_service(juicefs, MAX_RUNNING_JOBS="1", MAX_QUEUED_JOBS="5")
    tree(service.uploads / "photos", {"a": "1", "b": "2"})
    before = scrape(service)
    first = service.sync(bucket, wait="600")
    service.wait_state(first, "running")
    for number in range(5):
        service.sync(f"{bucket}-{number}")
    after = scrape(service)
    assert after["syncworker_queue_length{}"] == 5
    night(tmp_path, before, after, {HOUR + 1: set(), HOUR + 16: {"SyncQueueGrows"}})


# -- those that take a disk or a quarter of an hour ---------------------------------------------------------


def test_a_storage_that_fails_again_and_again_wakes_somebody(
    proxied: tuple[Service, RecordingProxy], bucket: str, tmp_path: Path
) -> None:
    """The first upload of each object is refused. What the counter does while the job runs is played on for
    as long as the rule waits."""
    service, proxy = proxied
    tree(service.uploads / "photos", {f"{n}.jpg": f"{n}" for n in range(2000)})
    before = scrape(service)
    tried: set[tuple[str, str]] = set()

    def fails_first(request: Any) -> Any:
        one = (request.method, request.key or "")
        if not one[1] or one in tried:
            return None
        tried.add(one)
        return s3_error(503, "ServiceUnavailable")

    proxy.on_request(fails_first)
    job = service.sync(bucket)
    retries = "syncworker_s3_retries_total{}"

    def sent_again(times: float) -> Numbers:
        def look() -> Numbers | None:
            found = scrape(service)
            return found if found[retries] > times else None

        found = wait_for(look, 60, "requests that are sent again")
        assert found is not None
        return found

    first, began = sent_again(0), time.monotonic()
    second = sent_again(first[retries] + 20)
    a_minute = 60 * (second[retries] - first[retries]) / (time.monotonic() - began)
    service.post("/cancel", id=job, now="1")
    service.wait_state(job, "cancelled")
    move = HOUR * 60 - time.time()
    storm = [
        (1, shifted(second | {retries: first[retries] + a_minute * minute}, move)) for minute in range(1, 41)
    ]
    calm = (HOUR, shifted(before, move))
    fires(tmp_path, [calm, *storm], {HOUR - 1: set(), HOUR + 5: set(), HOUR + 35: {"StoreFails"}})


def test_a_disk_that_is_nearly_full_wakes_somebody(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    """The embedded storage on a disk of 128 MiB, to which a mirror is made that just fits."""
    disk = tmp_path / "disk"
    disk.mkdir()
    disks.mount(disk, "128m")
    try:
        service = make_service(
            None,
            start=False,
            MINIO_PORT=str(free_ports(1)[0]),
            MINIO_ACCESS_KEY="embedded-access",
            MINIO_SECRET_KEY="embedded-secret",
            STORAGE_URL="",
            STORAGE_DIR=str(disk / "storage"),
        )
        service.start(timeout=30)
        try:
            before = scrape(service)
            free = "syncworker_storage_disk_free_bytes{}"
            spare = int(0.04 * before["syncworker_storage_disk_bytes{}"])
            tree(service.uploads / "photos", {"film": int(before[free]) - spare})
            service.done("mybucket")
            after = scrape(service)
            assert 0 < after[free] < spare + (1 << 20)
            night(tmp_path, before, after, {HOUR - 1: set(), HOUR + 1: {"SyncStorageNearlyFull"}})
        finally:
            service.close()
    finally:
        disks.unmount_all(disk)


def test_every_alert_has_its_morning() -> None:
    source = Path(__file__).read_text()
    assert len(ALERTS) > 8
    assert {name for name in ALERTS if f'"{name}"' not in source} == set()

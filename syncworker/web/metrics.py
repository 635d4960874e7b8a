"""`/metrics`: what all jobs have done, in Prometheus' text format.

The numbers come from job files alone: each status carries its job's tally (totals.py), which outlives its
worker.
`Ledger` sums the tallies of the jobs that are there and of those that have been removed, which it keeps in
`.totals.json`, so that no counter goes down when old jobs are removed or the server starts again.

- Before jobs are removed, `retire` adds them to the totals and names them there as leaving, in one atomic
  write. A job that is still there and is named so is not counted twice, whenever the server died between.
- A job that somebody else removed while the server ran is added as soon as that is seen; one removed while no
  server ran is lost.
- A status is read again only when its file has changed.

What somebody is to be woken for begins at 0: every code of an error that is known before (known_errors.py),
every end of an attempt. A series that were born at 1 would hide the first failure from `increase()`.
`syncworker_last_*` alone carry names of folders and buckets: of 1,000 mirrors at most (last_runs.py).
They outlive the files of their jobs as the counters do. No series carries a job's id.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncworker import __version__
from syncworker.escape import escape_non_utf8
from syncworker.jobs import last_runs, totals
from syncworker.jobs.known_errors import CODES
from syncworker.jobs.last_runs import LastRun, Mirror, Runs
from syncworker.jobs.status import Status
from syncworker.jobs.status_cache import Entry
from syncworker.jobs.store import Jobs
from syncworker.jobs.totals import Tally
from syncworker.mirrors.keeper import Keeper
from syncworker.model import DELAYS, FINAL_STATES, State
from syncworker.system import disk_space, durable_files, processes, std_streams

log = logging.getLogger("syncworker.web.metrics")
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
TOTALS = ".totals.json"
_COUNTERS = (
    ("objects_deleted", "objects_deleted", "Objects deleted because no file is there for them"),
    ("uploaded_bytes", "bytes_uploaded", "Bytes sent to stores and taken by them"),
    ("resumed_bytes", "bytes_resumed", "Bytes of parts that an earlier attempt had sent"),
    ("attempts", "attempts", "Workers started: first attempts and resumes"),
    ("s3_retries", "retries", "Requests to stores that were sent again"),
    ("worker_cpu_seconds", "cpu_seconds", "Processor time of all workers, user and system"),
)
_FILES = ("uploaded", "unchanged", "failed", "skipped")
_LAST: tuple[tuple[str, str, Callable[[LastRun], float]], ...] = (
    ("success_timestamp_seconds", "When the mirror last succeeded, 0: never", lambda run: run.success_at),
    ("end_timestamp_seconds", "When its last job ended", lambda run: run.ended_at),
    ("duration_seconds", "How long the last attempt of that job took", lambda run: run.seconds),
    ("skipped_files", "What that job found and could not mirror", lambda run: run.skipped),
    ("failed_files", "Files and objects that it could not do", lambda run: run.failed),
)


class _Known(NamedTuple):
    """What has been read of a job."""

    entry: Entry | None
    tally: Tally
    run: tuple[Mirror, LastRun] | None

    @property
    def ended(self) -> bool:
        return self.entry is None or self.entry.ended


class Ledger:
    """The sums. Safe to use from any thread; `retire` is the supervisor's."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._path = os.path.join(jobs.path, TOTALS)
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._settled: tuple[Tally, Runs] | None = None  # the sums of all that has ended; None: not known yet
        kept = durable_files.read_json(self._path) or {}
        self._gone = totals.clean(kept.get("metrics"))
        self._gone_runs = last_runs.of_json(kept.get("last_runs"))
        leaving = kept.get("leaving")
        self._leaving = {str(job_id) for job_id in leaving} if isinstance(leaving, list) else set()

    def retire(self, job_ids: Iterable[str]) -> None:
        """These jobs are about to be removed."""
        with self._lock:
            there = self._jobs.entries()
            self._leaving &= there.keys()
            for job_id in set(job_ids) - self._leaving:
                self._leaving.add(job_id)
                self._known.pop(job_id, None)
                self._keep(self._read(job_id, there.get(job_id)))
            self._write(durable=True)

    def sum(self) -> Tally:
        """Over all jobs there are and were."""
        with self._lock:
            self._look()
            found = totals.empty()
            totals.add(found, self._ended()[0])
            for known in self._known.values():
                if not known.ended:
                    totals.add(found, known.tally)
            return found

    def last_runs(self) -> Runs:
        """Of each mirror that the jobs know or knew: the same mapping until another one has ended."""
        with self._lock:
            self._look()
            return self._ended()[1]

    def _ended(self) -> tuple[Tally, Runs]:
        if self._settled is None:
            total, runs = totals.empty(), dict(self._gone_runs)
            totals.add(total, self._gone)
            for known in self._known.values():
                if known.ended:
                    totals.add(total, known.tally)
                    if known.run is not None:
                        last_runs.add(runs, *known.run)
            self._settled = total, last_runs.newest(runs)
        return self._settled

    def _look(self) -> None:
        """Reads what has changed, and keeps what was removed by somebody else."""
        there = self._jobs.entries()
        lost = self._known.keys() - there.keys() - self._leaving
        for job_id in lost:
            self._keep(self._known.pop(job_id))
        if lost:
            self._write(durable=False)
        for job_id, entry in there.items():
            if job_id in self._leaving:
                continue
            known = self._known.get(job_id)
            if known is None or known.entry is not entry:
                if entry.ended or (known is not None and known.ended):
                    self._settled = None
                self._known[job_id] = self._read(job_id, entry)

    def _keep(self, known: _Known) -> None:
        self._settled = None
        totals.add(self._gone, known.tally)
        if known.run is not None:
            last_runs.add(self._gone_runs, *known.run)

    def _read(self, job_id: str, entry: Entry | None) -> _Known:
        status: Mapping[str, Any] = self._jobs.read(job_id) or {}
        return _Known(entry, totals.clean(status.get("metrics")), last_runs.of_status(status))

    def _write(self, *, durable: bool) -> None:
        self._gone_runs = last_runs.newest(self._gone_runs, time.time() - last_runs.FORGOTTEN_SECONDS)
        value = {
            "version": 1,
            "metrics": self._gone,
            "last_runs": last_runs.to_json(self._gone_runs),
            "leaving": sorted(self._leaving),
        }
        try:
            durable_files.replace_json(self._path, value, durable=durable)
        except OSError as error:  # a full disk, which removing jobs makes room on: the sums live on in memory
            log.warning("%s cannot be written: %s", self._path, error.strerror)


class _Jobs(Collector):
    """The families of the service, made anew for each scrape, but `_last`."""

    def __init__(
        self,
        jobs: Jobs,
        ledger: Ledger,
        max_running: int,
        max_queued: int,
        storage_dir: str | None,
        keeper: Keeper | None,
    ) -> None:
        self._keeper = keeper
        self._jobs, self._ledger, self._storage_dir = jobs, ledger, storage_dir
        self._max_running, self._max_queued = max_running, max_queued

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("syncworker_build_info", "The version of the service", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._now()
        if self._keeper is not None:
            yield from _mirrors(self._keeper)
        yield from _counters(self._ledger.sum())

    def _now(self) -> Iterator[Metric]:
        states = [entry.state for entry in self._jobs.entries().values()]
        by_state = GaugeMetricFamily(
            "syncworker_jobs", "Jobs whose files are there, by state", labels=["state"]
        )
        for state in State:
            by_state.add_metric([state.value], states.count(state))
        yield by_state
        yield GaugeMetricFamily(
            "syncworker_queue_length", "Jobs that wait for a worker", states.count(State.QUEUED)
        )
        yield GaugeMetricFamily("syncworker_queue_limit", "MAX_QUEUED_JOBS", self._max_queued)
        yield GaugeMetricFamily("syncworker_workers_limit", "MAX_RUNNING_JOBS", self._max_running)
        yield CounterMetricFamily(
            "syncworker_log_writes_lost",
            "Messages of the server that could not be written",
            std_streams.lost(),
        )
        room = disk_space.look(self._storage_dir) if self._storage_dir else None
        if room is not None:
            yield GaugeMetricFamily(
                "syncworker_storage_disk_bytes", "The disk of the embedded storage", room.total_bytes
            )
            yield GaugeMetricFamily(
                "syncworker_storage_disk_free_bytes", "What is free there", room.free_bytes
            )
        active = self._jobs.active()
        delayed = GaugeMetricFamily(
            "syncworker_jobs_delayed",
            "Running jobs that do not get on, by what they wait for",
            labels=["reason"],
        )
        reasons = [delay.get("reason") for status in active if (delay := status.get("delay"))]
        for reason in DELAYS:
            delayed.add_metric([reason], reasons.count(reason))
        yield delayed
        sizes = list(_worker_sizes(active))
        yield GaugeMetricFamily("syncworker_workers", "Worker processes that live now", len(sizes))
        yield GaugeMetricFamily(
            "syncworker_workers_resident_memory_bytes", "Resident memory of all living workers", sum(sizes)
        )


def _worker_sizes(active: list[Status]) -> Iterator[int]:
    for status in active:
        pid, started_at = status.get("pid"), status.get("pid_started_at")
        if isinstance(pid, int) and isinstance(started_at, int | float):
            found = processes.resources(pid) if processes.is_running(pid, started_at) else None
            if found is not None:
                yield found[0]


def _last(runs: Runs, is_own: Callable[[str], bool]) -> Iterator[Metric]:
    """Two labels name a mirror; a prefix and another storage than the configured one are named where there
    is one, so that a mirror which succeeds hides none that does not."""
    result = GaugeMetricFamily("syncworker_last_result", "1 beside how its last job ended")
    numbers = [
        (GaugeMetricFamily(f"syncworker_last_{name}", meaning), value) for name, meaning, value in _LAST
    ]
    own = {url for url in {mirror.storage_url for mirror in runs} if is_own(url)}
    named: Runs = {}  # a storage may have been spelled in two ways
    for mirror, run in runs.items():
        last_runs.add(named, mirror._replace(storage_url="") if mirror.storage_url in own else mirror, run)
    for mirror, run in named.items():
        labels = {"source": mirror.source, "dest": mirror.dest}
        labels |= {"prefix": mirror.prefix} if mirror.prefix else {}
        labels |= {"storage": mirror.storage_url} if mirror.storage_url else {}
        labels = {name: escape_non_utf8(value) for name, value in labels.items()}
        result.add_sample(result.name, labels | {"state": run.state}, 1)
        for family, value in numbers:
            family.add_sample(family.name, labels, value(run))
    yield from (result, *(family for family, _ in numbers))


def _mirrors(keeper: Keeper) -> Iterator[Metric]:
    """Few by their nature: an operator names each."""
    success = GaugeMetricFamily(
        "syncworker_mirror_last_success_timestamp_seconds",
        "When a mirror's newest whole and successful run ended",
        labels=["mirror"],
    )
    overdue = GaugeMetricFamily(
        "syncworker_mirror_overdue", "1: older than max_age without a success", labels=["mirror"]
    )
    skipped = CounterMetricFamily(
        "syncworker_mirror_runs_skipped",
        "Runs that were due while the destination was busy",
        labels=["mirror"],
    )
    missed = CounterMetricFamily(
        "syncworker_mirror_runs_missed",
        "Times of a mirror's schedule at which no server ran",
        labels=["mirror"],
    )
    for view in keeper.overview()["mirrors"]:
        name = [view["name"]]
        if view["last_success_at"]:
            success.add_metric(name, datetime.fromisoformat(view["last_success_at"]).timestamp())
        overdue.add_metric(name, int(view["overdue"]))
        skipped.add_metric(name, view["runs_skipped"])
        missed.add_metric(name, view["runs_missed"])
    yield from (success, overdue, skipped, missed)
    sent = CounterMetricFamily(
        "syncworker_notifications", "Messages to addresses of notify, by result", labels=["result"]
    )
    sent.add_metric(["sent"], keeper.counts.sent)
    sent.add_metric(["failed"], keeper.counts.failed)
    yield sent


def _counters(total: Tally) -> Iterator[Metric]:
    counts = total["counts"]
    by_result = CounterMetricFamily("syncworker_files", "Files finished with, by result", labels=["result"])
    for result in _FILES:
        by_result.add_metric([result], counts.get(f"files_{result}", 0))
    yield by_result
    ends = CounterMetricFamily(
        "syncworker_attempts_ended", "Attempts of jobs that have ended, by how", labels=["state"]
    )
    for state in sorted(FINAL_STATES):
        ends.add_metric([state.value], counts.get(totals.ENDED + state.value, 0))
    yield ends
    for name, source, meaning in _COUNTERS:
        yield CounterMetricFamily(f"syncworker_{name}", meaning, counts.get(source, 0))
    errors = CounterMetricFamily(
        "syncworker_errors", "Errors of files and of whole jobs, by code", labels=["code"]
    )
    for code, number in sorted((dict.fromkeys(CODES, 0) | total["errors"]).items()):
        errors.add_metric([code], number)
    yield errors
    phases = CounterMetricFamily("syncworker_phase_seconds", "Seconds of workers, by phase", labels=["phase"])
    for phase, number in sorted(total["phase_seconds"].items()):
        phases.add_metric([phase], number)
    yield phases
    requests = CounterMetricFamily(
        "syncworker_s3_requests",
        "Answers of stores, by operation and HTTP status",
        labels=["operation", "status"],
    )
    for name, number in sorted(total["requests"].items()):
        operation, _, status = name.partition(" ")
        requests.add_metric([operation, status], number)
    yield requests


class _Families(CollectorRegistry):
    """These, once."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Metrics:
    def __init__(
        self,
        jobs: Jobs,
        ledger: Ledger,
        *,
        max_running: int,
        max_queued: int,
        storage_dir: str | None = None,
        is_own: Callable[[str], bool] = lambda _: True,
        keeper: Keeper | None = None,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Jobs(jobs, ledger, max_running, max_queued, storage_dir, keeper))
        ProcessCollector(registry=self._registry)  # process_*: the server itself
        self._ledger, self._is_own = ledger, is_own
        self._rendered: tuple[Runs, bytes] = ({}, b"")  # of what rarely changes, and may be long

    def render(self) -> bytes:
        counted = generate_latest(self._registry)
        runs = self._ledger.last_runs()  # after the counters: an end that these tell of is in it
        known, rendered = self._rendered
        if known is not runs:
            rendered = generate_latest(_Families(_last(runs, self._is_own)))
            self._rendered = runs, rendered
        return counted + rendered

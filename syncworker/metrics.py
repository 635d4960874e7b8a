"""`/metrics`: what all jobs have done, in Prometheus' text format.

The numbers come from job files alone: each status carries its job's tally (tally.py), which outlives its
worker.
`Ledger` sums the tallies of the jobs that are there and of those that have been removed, which it keeps in
`.totals.json`, so that no counter goes down when old jobs are removed or the server starts again.

- Before jobs are removed, `retire` adds them to the totals and names them there as leaving, in one atomic
  write. A job that is still there and is named so is not counted twice, whenever the server died between.
- A job that somebody else removed while the server ran is added as soon as that is seen; one removed while no
  server ran is lost.
- A status is read again only when its file has changed.

No series carries a job's id, a folder's or a bucket's name: the number of series stays small.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncworker import __version__, files, process, space, std_streams, tally
from syncworker.jobs import Jobs
from syncworker.model import State
from syncworker.tally import Tally

log = logging.getLogger("syncworker.metrics")
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


class Ledger:
    """The sums. Safe to use from any thread; `retire` is the supervisor's."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._path = os.path.join(jobs.path, TOTALS)
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int, int], Tally]] = {}
        kept = files.read_json(self._path) or {}
        self._gone = tally.clean(kept.get("metrics"))
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
                tally.add(self._gone, self._read(job_id))
            self._write(durable=True)

    def sum(self) -> Tally:
        """Over all jobs there are and were."""
        with self._lock:
            there = self._jobs.entries()
            lost = self._known.keys() - there.keys() - self._leaving
            for job_id in lost:
                tally.add(self._gone, self._known.pop(job_id)[1])
            if lost:
                self._write(durable=False)
            found = tally.empty()
            tally.add(found, self._gone)
            for job_id, entry in there.items():
                if job_id in self._leaving:
                    continue
                known = self._known.get(job_id)
                if known is None or known[0] != entry.stamp:
                    known = self._known[job_id] = (entry.stamp, self._read(job_id))
                tally.add(found, known[1])
            return found

    def _read(self, job_id: str) -> Tally:
        return tally.clean((self._jobs.read(job_id) or {}).get("metrics"))

    def _write(self, *, durable: bool) -> None:
        value = {"version": 1, "metrics": self._gone, "leaving": sorted(self._leaving)}
        try:
            files.replace_json(self._path, value, durable=durable)
        except OSError as error:  # a full disk, which removing jobs makes room on: the sums live on in memory
            log.warning("%s cannot be written: %s", self._path, error.strerror)


class _Jobs(Collector):
    """The families of the service, made anew for each scrape."""

    def __init__(
        self, jobs: Jobs, ledger: Ledger, max_running: int, max_queued: int, storage_dir: str | None
    ) -> None:
        self._jobs, self._ledger, self._storage_dir = jobs, ledger, storage_dir
        self._max_running, self._max_queued = max_running, max_queued

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("syncworker_build_info", "The version of the service", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._now()
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
        room = space.look(self._storage_dir) if self._storage_dir else None
        if room is not None:
            yield GaugeMetricFamily(
                "syncworker_storage_disk_bytes", "The disk of the embedded storage", room.total_bytes
            )
            yield GaugeMetricFamily(
                "syncworker_storage_disk_free_bytes", "What is free there", room.free_bytes
            )
        sizes = list(self._worker_sizes())
        yield GaugeMetricFamily("syncworker_workers", "Worker processes that live now", len(sizes))
        yield GaugeMetricFamily(
            "syncworker_workers_resident_memory_bytes", "Resident memory of all living workers", sum(sizes)
        )

    def _worker_sizes(self) -> Iterator[int]:
        for status in self._jobs.active():
            pid, started_at = status.get("pid"), status.get("pid_started_at")
            if isinstance(pid, int) and isinstance(started_at, int | float):
                found = process.resources(pid) if process.is_running(pid, started_at) else None
                if found is not None:
                    yield found[0]


def _counters(total: Tally) -> Iterator[Metric]:
    counts = total["counts"]
    by_result = CounterMetricFamily("syncworker_files", "Files finished with, by result", labels=["result"])
    for result in _FILES:
        by_result.add_metric([result], counts.get(f"files_{result}", 0))
    yield by_result
    for name, source, meaning in _COUNTERS:
        yield CounterMetricFamily(f"syncworker_{name}", meaning, counts.get(source, 0))
    errors = CounterMetricFamily(
        "syncworker_errors", "Errors of files and of whole jobs, by code", labels=["code"]
    )
    for code, number in sorted(total["errors"].items()):
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


class Metrics:
    def __init__(
        self,
        jobs: Jobs,
        ledger: Ledger,
        *,
        max_running: int,
        max_queued: int,
        storage_dir: str | None = None,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Jobs(jobs, ledger, max_running, max_queued, storage_dir))
        ProcessCollector(registry=self._registry)  # process_*: the server itself

    def render(self) -> bytes:
        return generate_latest(self._registry)

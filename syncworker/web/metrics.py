"""`/metrics`: the sums of what all jobs have done, in Prometheus' text format.

The numbers come from job files alone; the sums (`history/ledger.py`) outlive removed jobs and this server.

Counters that people set alerts on begin at 0: every error code that is known before (known_errors.py), every
end of an attempt. A series that began at 1 would hide the first failure from `increase()`.
Only `syncworker_last_*` has names of folders and buckets: of 1,000 mirrors at most (last_runs.py). They
outlive the files of their jobs as the counters do. No series has a job's id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncworker import __version__
from syncworker.escape import escape_non_utf8
from syncworker.history import last_runs
from syncworker.history.last_runs import LastRun, Runs
from syncworker.history.ledger import Ledger
from syncworker.jobs import totals
from syncworker.jobs.known_errors import CODES
from syncworker.jobs.record import Status
from syncworker.jobs.store import Jobs
from syncworker.jobs.totals import Tally
from syncworker.mirrors.keeper import Keeper
from syncworker.model import DELAYS, FINAL_STATES, State
from syncworker.settings import Settings
from syncworker.system import disk_space, processes, std_streams

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_COUNTERS = (
    ("objects_deleted", "objects_deleted", "Objects deleted because they have no file"),
    ("uploaded_bytes", "bytes_uploaded", "Bytes sent to stores and accepted by them"),
    ("resumed_bytes", "bytes_resumed", "Bytes of parts that an earlier attempt had sent"),
    ("attempts", "attempts", "Workers started: first attempts and resumes"),
    ("s3_retries", "retries", "Requests to stores that were sent again"),
    ("worker_cpu_seconds", "cpu_seconds", "Processor time of all workers, user and system"),
)
_MEMBER_STATES = ("none", "opening", "ready", "ending", "refused", "lost")  # of `cluster` in a status
_FILES = ("uploaded", "unchanged", "failed", "skipped")
_LAST: tuple[tuple[str, str, Callable[[LastRun], float]], ...] = (
    ("success_timestamp_seconds", "When the mirror last succeeded, 0: never", lambda run: run.success_at),
    ("end_timestamp_seconds", "When its last job ended", lambda run: run.ended_at),
    ("duration_seconds", "How long the last attempt of that job took", lambda run: run.seconds),
    ("skipped_files", "What that job found and could not mirror", lambda run: run.skipped),
    ("failed_files", "Files and objects that failed in it", lambda run: run.failed),
)


class _Families(Collector):
    """What `generate_latest` takes."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class Metrics:
    def __init__(self, jobs: Jobs, ledger: Ledger, settings: Settings, keeper: Keeper) -> None:
        self._jobs, self._ledger, self._settings, self._keeper = jobs, ledger, settings, keeper
        self._process = ProcessCollector(registry=None)  # process_*: the server itself
        self._rendered: tuple[Runs, bytes] = ({}, b"")  # of the last runs: long, and rarely changed

    def render(self) -> bytes:
        counted = generate_latest(_Families(self._counted()))
        runs = self._ledger.last_runs()  # after the counters, so that it has every end that they have
        known, rendered = self._rendered
        if known is not runs:
            rendered = generate_latest(_Families(_last(runs, self._settings)))
            self._rendered = runs, rendered
        return counted + rendered

    def _counted(self) -> Iterator[Metric]:
        version = [(__version__, 1)]
        yield _labelled("build_info", "The version of the service", "version", version, GaugeMetricFamily)
        yield from self._now()
        yield from _mirrors(self._keeper)
        yield from _counters(self._ledger.sum())
        yield from self._process.collect()

    def _now(self) -> Iterator[Metric]:
        config, active = self._settings, self._jobs.active()
        states = [entry.state for entry in self._jobs.entries().values()]
        yield _by("jobs", "Jobs whose files are there, by state", "state", State, states)
        yield _gauge("queue_length", "Jobs that wait for a worker", states.count(State.QUEUED))
        yield _gauge("queue_limit", "MAX_QUEUED_JOBS", config.max_queued_jobs)
        yield _gauge("workers_limit", "MAX_RUNNING_JOBS", config.max_running_jobs)
        lost = "Messages of the server that could not be written"
        yield CounterMetricFamily("syncworker_log_writes_lost", lost, std_streams.lost())
        room = None if config.storage_url else disk_space.look(config.storage_dir)
        if room is not None:
            yield _gauge("storage_disk_bytes", "The disk of the embedded storage", room.total_bytes)
            yield _gauge("storage_disk_free_bytes", "Free space on that disk", room.free_bytes)
        reasons = [delay.get("reason") for status in active if (delay := status.get("delay"))]
        what = "Running jobs that make no progress, by what they wait for"
        yield _by("jobs_delayed", what, "reason", DELAYS, reasons)
        yield from _clusters(active)
        sizes = list(_worker_sizes(active))
        yield _gauge("workers", "Worker processes that live now", len(sizes))
        yield _gauge("workers_resident_memory_bytes", "Resident memory of all living workers", sum(sizes))


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"syncworker_{name}", meaning, value)


def _by(name: str, meaning: str, label: str, values: Iterable[str], seen: Sequence[object]) -> Metric:
    """Counts how often each of these values was seen."""
    numbers = ((str(value), seen.count(value)) for value in values)
    return _labelled(name, meaning, label, numbers, GaugeMetricFamily)


def _labelled(
    name: str,
    meaning: str,
    label: str,
    numbers: Iterable[tuple[str, float]],
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily] = CounterMetricFamily,
) -> Metric:
    """Returns a family with one label, from (value of the label, number)."""
    family = kind(f"syncworker_{name}", meaning, labels=[label])
    for value, number in numbers:
        family.add_metric([value], number)
    return family


def _clusters(active: list[Status]) -> Iterator[Metric]:
    """Yields the members that running jobs have in other processes and on other machines."""
    clusters = [cluster for status in active if (cluster := status.get("cluster"))]
    members = [member for cluster in clusters for member in cluster.get("workers", [])]
    what = "Members of clusters that running jobs have, by state"
    yield _by("cluster_members", what, "state", _MEMBER_STATES, [member.get("state") for member in members])
    flying = sum(member.get("in_flight", 0) for member in members)
    yield _gauge("cluster_files_in_flight", "Files that they are sending now, of running jobs", flying)
    what = "Files of running jobs that were handed out again because a member was lost"
    yield _gauge("cluster_files_resent", what, sum(cluster.get("resent", 0) for cluster in clusters))


def _worker_sizes(active: list[Status]) -> Iterator[int]:
    for status in active:
        pid, started_at = status.get("pid"), status.get("pid_started_at")
        if isinstance(pid, int) and isinstance(started_at, int | float):
            found = processes.resources(pid) if processes.is_running(pid, started_at) else None
            if found is not None:
                yield found[0]


def _last(runs: Runs, settings: Settings) -> Iterator[Metric]:
    """Yields the metrics of each mirror's last run. A mirror with a prefix or another storage has a label for
    it, so that a successful mirror does not hide a failed one."""
    result = GaugeMetricFamily("syncworker_last_result", "1 for the state in which its last job ended")
    numbers = [
        (GaugeMetricFamily(f"syncworker_last_{name}", meaning), value) for name, meaning, value in _LAST
    ]
    own = {url for url in {mirror.storage_url for mirror in runs} if settings.is_own(url)}
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
    """Yields a series for each named mirror. They are few: an operator names each."""
    views = keeper.overview()["mirrors"]

    def of(field: str) -> Iterator[tuple[str, Any]]:
        return ((view["name"], view[field]) for view in views)

    ends = ((name, datetime.fromisoformat(at).timestamp()) for name, at in of("last_success_at") if at)
    what = "When a mirror's newest whole and successful run ended"
    yield _labelled("mirror_last_success_timestamp_seconds", what, "mirror", ends, GaugeMetricFamily)
    what = "1: older than max_age without a success"
    yield _labelled("mirror_overdue", what, "mirror", of("overdue"), GaugeMetricFamily)
    what = "Runs that were due while the destination was busy"
    yield _labelled("mirror_runs_skipped", what, "mirror", of("runs_skipped"))
    what = "Times of a mirror's schedule at which no server ran"
    yield _labelled("mirror_runs_missed", what, "mirror", of("runs_missed"))
    what = "Messages to addresses of notify, by result"
    yield _labelled("notifications", what, "result", keeper.counts.items())


def _counters(total: Tally) -> Iterator[Metric]:
    counts = total["counts"]
    results = ((result, counts.get(f"files_{result}", 0)) for result in _FILES)
    yield _labelled("files", "Finished files, by result", "result", results)
    ends = ((state.value, counts.get(totals.ENDED + state.value, 0)) for state in sorted(FINAL_STATES))
    yield _labelled("attempts_ended", "Attempts of jobs that have ended, by how", "state", ends)
    for name, source, meaning in _COUNTERS:
        yield CounterMetricFamily(f"syncworker_{name}", meaning, counts.get(source, 0))
    errors = sorted((dict.fromkeys(CODES, 0) | total["errors"]).items())
    yield _labelled("errors", "Errors of files and of whole jobs, by code", "code", errors)
    phases = sorted(total["phase_seconds"].items())
    yield _labelled("phase_seconds", "Seconds of workers, by phase", "phase", phases)
    what = "Answers of stores, by operation and HTTP status"
    requests = CounterMetricFamily("syncworker_s3_requests", what, labels=["operation", "status"])
    for name, number in sorted(total["requests"].items()):
        operation, _, status = name.partition(" ")
        requests.add_metric([operation, status], number)
    yield requests

"""The sums over all jobs, removed ones included: what `/metrics` counts.

Each status holds its job's tally (totals.py). `Ledger` adds up the tallies of the jobs that exist and of
those that were removed, which it keeps in `.totals.json`. So no counter goes down when old jobs are removed
or the server restarts.

- Before jobs are removed, `retire` adds them to the totals and lists them there as leaving, in one atomic
  write. A job that still exists and is listed as leaving is not counted twice, even if the server died in
  between.
- A job that another process removed while the server ran is added as soon as the server notices; one removed
  while no server ran is lost.
- A status is read again only when its file has changed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from syncworker.history import last_runs
from syncworker.history.last_runs import LastRun, Mirror, Runs
from syncworker.jobs import totals
from syncworker.jobs.status_cache import Entry
from syncworker.jobs.store import Jobs
from syncworker.jobs.totals import Tally
from syncworker.system import durable_files

log = logging.getLogger("syncworker.history.ledger")
TOTALS = ".totals.json"


class _Known(NamedTuple):
    """What was read of a job."""

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
        self._sums: tuple[Tally, Runs] | None = None  # the sums of all ended jobs; None: not known yet
        kept = durable_files.read_json(self._path) or {}
        self._gone = totals.clean(kept.get("metrics"))
        self._gone_runs = last_runs.of_json(kept.get("last_runs"))
        leaving = kept.get("leaving")
        self._leaving = {str(job_id) for job_id in leaving} if isinstance(leaving, list) else set()

    def retire(self, job_ids: Iterable[str]) -> None:
        """Adds these jobs, which are about to be removed, to the totals."""
        with self._lock:
            there = self._jobs.entries()
            self._leaving &= there.keys()
            for job_id in set(job_ids) - self._leaving:
                self._leaving.add(job_id)
                self._known.pop(job_id, None)
                self._keep(self._read(job_id, there.get(job_id)))
            self._write(durable=True)

    def sum(self) -> Tally:
        """The tally over all jobs that exist or existed."""
        with self._lock:
            self._refresh()
            found = totals.empty()
            totals.add(found, self._ended()[0])
            for known in self._known.values():
                if not known.ended:
                    totals.add(found, known.tally)
            return found

    def last_runs(self) -> Runs:
        """The last run of each mirror; the same mapping until another job has ended."""
        with self._lock:
            self._refresh()
            return self._ended()[1]

    def _ended(self) -> tuple[Tally, Runs]:
        if self._sums is None:
            total, runs = totals.empty(), dict(self._gone_runs)
            totals.add(total, self._gone)
            for known in self._known.values():
                if known.ended:
                    totals.add(total, known.tally)
                    if known.run is not None:
                        last_runs.add(runs, *known.run)
            self._sums = total, last_runs.newest(runs)
        return self._sums

    def _refresh(self) -> None:
        """Reads the statuses that have changed, and adds jobs that others removed to the totals."""
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
                    self._sums = None
                self._known[job_id] = self._read(job_id, entry)

    def _keep(self, known: _Known) -> None:
        self._sums = None
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
        except OSError as error:  # a full disk: removing jobs must go on; the sums stay in memory
            log.warning("%s cannot be written: %s", self._path, error.strerror)

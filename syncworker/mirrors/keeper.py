"""The keeper: one thread that runs mirrors by their schedule, watches their folders, and notifies people.

Every half second it reads `mirrors.toml` if that has changed, records the jobs of each mirror that have
ended, and starts what is due (`schedule.decide`). All else that it knows is in `.mirrors.json` (`memory`):
the same file, time and memory lead to the same runs in any process.

A run is submitted before it is remembered: a server that dies in between starts it once more, which costs a
scan of the folder; the other way round the run would be lost. Nothing here talks to a store or waits for a
job.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from syncworker.errors import SyncError, UsageError
from syncworker.jobs.ids import Conflict, NoSuchJob
from syncworker.jobs.record import Status
from syncworker.jobs.status import timestamp
from syncworker.jobs.status_cache import Entry
from syncworker.mirrors import schedule
from syncworker.mirrors.file import MirrorFile
from syncworker.mirrors.memory import RUNS, Memories, Memory, run_of
from syncworker.mirrors.mirror import Mirror
from syncworker.mirrors.notify import WAITING, News
from syncworker.mirrors.schedule import Act
from syncworker.mirrors.view import in_words, time_text, view
from syncworker.mirrors.watch import WatchedMirrors
from syncworker.model import State
from syncworker.request import RequestKeys
from syncworker.service.supervisor import Supervisor
from syncworker.settings import Settings

TICK_SECONDS = 0.5
WHOLE_EVERY = timedelta(hours=24)  # a watched mirror is synced as a whole, in case an event was missed
WATCH_JOBS_KEPT = 100
FAR = datetime(9999, 1, 1, tzinfo=UTC)
log = logging.getLogger("syncworker.mirrors")


def utc_now() -> datetime:
    return datetime.now(UTC)


class Keeper:
    """`overview`, `is_overdue` and `run` may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        file: MirrorFile,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.file = file
        self._settings = settings
        self._supervisor = supervisor
        self._jobs = supervisor.jobs
        self._clock = clock
        self._news = News(self._jobs)
        self.counts = self._news.counts
        self._memories = Memories(self._jobs.path)
        self._seen: dict[str, tuple[int, int, int]] = {}  # the stamps of ended jobs that were recorded
        self._next_runs: dict[str, datetime | None] = {}
        self._errors: dict[str, str] = {}
        self._watched = WatchedMirrors()
        # A mirror and the hash of its jobs: while both stay the same, it needs nothing between two times.
        self._idle: dict[str, tuple[Mirror, int, datetime, datetime]] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirrors", daemon=True)

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._watched.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.tick()
            except Exception:  # a full disk, for example: the next round may succeed
                log.exception("mirrors: this round failed; the next one tries again")
            self._stopping.wait(self._pause())

    def _pause(self) -> float:
        """Returns the seconds to the next round, or until a watched folder has been quiet, if that is
        sooner."""
        return min([TICK_SECONDS, *(seconds + 0.01 for seconds in self._watched.quiet_in())])

    # -- what requests call -------------------------------------------------------------------------------

    def run(self, name: str) -> Status:
        """Starts a mirror now. Raises UsageError for an unknown name, and what `Supervisor.submit` raises."""
        self._load()
        mirror = self.file.mirrors.get(name)
        if mirror is None:
            raise UsageError(
                "NoSuchMirror", "there is no mirror of this name in mirrors.toml", param="mirror"
            )
        return self._supervisor.submit(mirror.request(self._settings))

    def overview(self) -> dict[str, Any]:
        """The answer of `/mirrors`."""
        with self._lock:
            self._load()
            of_mirror = self._by_mirror()
            mistakes = [{"line": each.line, "message": each.message} for each in self.file.mistakes]
            views = [self._view(mirror, of_mirror[name]) for name, mirror in self.file.mirrors.items()]
        error = f"mirrors.toml, {self.file.mistakes[0]}" if mistakes else None
        return {"count": len(views), "mirrors": views, "error": error, "mistakes": mistakes}

    def is_overdue(self, name: str) -> bool | None:
        """None: there is no such mirror."""
        with self._lock:
            self._load()
            mirror = self.file.mirrors.get(name)
            if mirror is None:
                return None
            return schedule.is_overdue(mirror.max_age, self._memory(mirror), self._clock())

    def keys_of(self, status: Status) -> RequestKeys | None:
        """Returns the keys of a job's mirror, if that mirror still uses the job's storage."""
        mirror = self.file.mirrors.get(str(status.get("mirror")))
        if mirror is None or mirror.url(self._settings) != status["storage_url"]:
            return None
        return mirror.keys

    def _view(self, mirror: Mirror, jobs: Mapping[str, Entry]) -> dict[str, Any]:
        memory, next_run = self._memory(mirror), self._next_runs.get(mirror.name)
        shown = view(mirror, mirror.url(self._settings), memory, jobs, self._watched.get(mirror.name))
        return shown | {
            "next_run_at": time_text(next_run),
            "overdue": schedule.is_overdue(mirror.max_age, memory, self._clock()),
            "error": self._errors.get(mirror.name) or shown["error"],
        }

    # -- one round ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        with self._lock:
            self._load()
            self._news.take_results(self._memory_of)
            of_mirror = self._by_mirror()
            self._watched.update_from(self.file.mirrors, self._settings.uploads_dir)
            mirrors = self.file.mirrors.values()
            busy = [each for each in mirrors if not self._rests(each, of_mirror[each.name])]
            for mirror in busy:
                self._tend(mirror, of_mirror[mirror.name])
            if busy:
                self._memories.save()

    def _load(self) -> None:
        with self._lock:
            if not self.file.load():
                return
            for mistake in self.file.mistakes:
                log.error("%s, %s (the mirrors stay as they were)", self.file.path, mistake)
            if not self.file.mistakes:
                self._memories.forget_old(set(self.file.mirrors), self._clock())
                self._errors.clear()
                self._next_runs.clear()

    def _by_mirror(self) -> defaultdict[str, dict[str, Entry]]:
        found: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
        entries = self._jobs.glance()
        for job_id, entry in entries.items():
            if entry.mirror:
                found[entry.mirror][job_id] = entry
        for gone in self._seen.keys() - entries.keys():
            del self._seen[gone]
        return found

    def _memory(self, mirror: Mirror) -> Memory:
        now = self._clock()
        memory = self._memories.of(mirror.name, now)
        asked = f"{in_words(mirror)} {mirror.schedule.zone}"
        if memory.schedule != asked:
            if memory.schedule and mirror.schedule.cron:
                memory.last_due = now  # earlier times of a new schedule were not missed
            elif memory.schedule and mirror.schedule.every is not None and memory.last_due is not None:
                memory.last_due = max(memory.last_due, now - mirror.schedule.every)
            memory.schedule, memory.retry_at = asked, None
        return memory

    def _memory_of(self, name: str) -> Memory | None:
        mirror = self.file.mirrors.get(name)
        return None if mirror is None else self._memory(mirror)

    def _rests(self, mirror: Mirror, jobs: Mapping[str, Entry]) -> bool:
        """Returns whether the mirror is known to have nothing to do: the usual case."""
        known, stamps, since, until = self._idle.get(mirror.name, (None, 0, FAR, FAR))
        return known is mirror and stamps == _stamps(jobs) and since <= self._clock() < until

    def _may_rest(self, mirror: Mirror, memory: Memory, jobs: Mapping[str, Entry], now: datetime) -> None:
        """Records until when the mirror is idle; never while messages are unsent or its folder is watched."""
        self._idle.pop(mirror.name, None)
        if memory.outbox or mirror.watch:
            return
        moments = [self._next_runs.get(mirror.name) or FAR]
        if mirror.max_age is not None and "overdue" not in memory.told:
            moments.append((memory.last_success or memory.first_seen) + mirror.max_age)
        self._idle[mirror.name] = (mirror, _stamps(jobs), now, min(moments))

    def _tend(self, mirror: Mirror, jobs: Mapping[str, Entry]) -> None:
        memory, now = self._memory(mirror), self._clock()
        for job_id, entry in sorted(jobs.items()):
            if entry.ended and self._seen.get(job_id) != entry.stamp:
                if (state := self._note_end(mirror, memory, job_id, now)) is not None:
                    self._note_end_of_watched(mirror, jobs, state, now)
                self._seen[job_id] = entry.stamp
        waiting = any(entry.state is State.WAITING for entry in jobs.values())
        busy = self._is_busy(mirror)
        decision = schedule.decide(mirror.schedule, memory, now, busy=busy, waiting=waiting)
        before, memory.last_due = memory.last_due, decision.last_due
        self._next_runs[mirror.name] = decision.next_run
        if decision.act is Act.SKIP:
            self._skip(mirror, memory)
        elif decision.act in (Act.RUN, Act.RETRY) and not self._start(mirror, memory, decision.act):
            memory.last_due = before
        elif decision.act is Act.NOTHING and not waiting and not busy:
            self._follow(mirror, memory, now)
        if decision.act in (Act.RUN, Act.SKIP) and memory.last_due != before:
            self._note_missed(mirror, memory, before, now, skipped=decision.act is Act.SKIP)
        self._news.note_age(mirror, memory, now)
        self._news.send(mirror, memory)
        self._may_rest(mirror, memory, jobs, now)

    def _is_busy(self, mirror: Mirror) -> bool:
        place, prefix = mirror.place(self._settings)
        return any(
            not entry.ended and entry.overlaps(place, prefix) for entry in self._jobs.glance().values()
        )

    def _skip(self, mirror: Mirror, memory: Memory) -> None:
        memory.skipped += 1
        log.warning("mirror %s: its destination is busy: this run is skipped", mirror.name)

    def _note_missed(
        self, mirror: Mirror, memory: Memory, before: datetime | None, now: datetime, *, skipped: bool
    ) -> None:
        """Counts scheduled times at which no server ran. `before` is the newest time that was handled
        earlier. A skipped run is counted as skipped, not as missed."""
        come, is_first = memory.last_due, before is None and mirror.schedule.every is not None
        if come is None or is_first:
            return
        since = before or min(memory.first_seen, now)
        until = come - timedelta(microseconds=1) if skipped else come
        count = schedule.missed(mirror.schedule, since, until, now)
        if not count:
            return
        memory.missed += count
        memory.last_missed = come
        message = "mirror %s: %d runs were missed since %s, as no server ran: one makes up for them"
        log.warning(message, mirror.name, count, timestamp(since))

    def _start(self, mirror: Mirror, memory: Memory, act: Act) -> bool:
        """Starts a run. Returns False if it has to be tried again in the next round."""
        try:
            status = self._submit(mirror)
        except Conflict:  # its destination has become busy
            self._skip(mirror, memory)
            return True
        except (SyncError, OSError) as error:  # the queue or the disk is full
            self._complain(mirror, error)
            return isinstance(error, UsageError)  # the folder now leads out of the root, for example
        memory.last_whole = self._clock()
        if (watched := self._watched.get(mirror.name)) is not None:
            watched.watcher.take()  # the job covers the changes seen so far
        memory.scheduled, memory.retry_at = status["id"], None
        memory.retries = memory.retries + 1 if act is Act.RETRY else 0
        what = "a retry" if act is Act.RETRY else "this run"
        log.info("mirror %s: %s is job %s", mirror.name, what, status["id"])
        return True

    def _submit(self, mirror: Mirror, scope: tuple[str, ...] | None = None) -> Status:
        status = self._supervisor.submit(replace(mirror.request(self._settings), scope=scope))
        self._errors.pop(mirror.name, None)
        return status

    # -- watching -----------------------------------------------------------------------------------------

    def _follow(self, mirror: Mirror, memory: Memory, now: datetime) -> None:
        """Starts a job for the changes in a watched folder, once it is quiet."""
        watched = self._watched.get(mirror.name)
        if watched is None or not watched.may_start(now):
            return
        if memory.last_whole is None or now - memory.last_whole > WHOLE_EVERY:
            watched.watcher.need_whole()
        if watched.watcher.pending() is None:
            return
        changes = watched.watcher.take()
        scope = None if changes.whole else changes.folders
        try:
            status = self._submit(mirror, scope)
        except (SyncError, OSError) as error:  # a busy destination: tried again when it is free
            watched.watcher.restore(changes)
            if not isinstance(error, Conflict):
                self._complain(mirror, error)
            return
        if changes.whole:
            memory.last_whole = now
        what = "all" if scope is None else f"{len(scope)} changed folders"
        log.info("mirror %s: job %s compares %s", mirror.name, status["id"], what)

    def _note_end_of_watched(
        self, mirror: Mirror, jobs: Mapping[str, Entry], state: str, now: datetime
    ) -> None:
        watched = self._watched.get(mirror.name)
        if watched is None:
            return
        watched.note_end(state, now)
        ended = [j for j, each in jobs.items() if each.ended and each.state is not State.WAITING]
        self._supervisor.remove(sorted(j for j in ended if jobs[j].is_scoped)[:-WATCH_JOBS_KEPT])

    def _complain(self, mirror: Mirror, error: SyncError | OSError) -> None:
        message = error.message if isinstance(error, SyncError) else error.strerror or error
        text = f"a run could not be started: {message}"
        if self._errors.get(mirror.name) != text:
            log.error("mirror %s: %s", mirror.name, text)
        self._errors[mirror.name] = text

    # -- what has ended -----------------------------------------------------------------------------------

    def _note_end(self, mirror: Mirror, memory: Memory, job_id: str, now: datetime) -> str | None:
        """Records the end of a job and returns its state; None if it was recorded before."""
        try:
            status = self._jobs.observe(job_id)
        except NoSuchJob:
            return None
        run = run_of(status)
        known = memory.run(job_id)
        is_old = len(memory.runs) >= RUNS and known is None and job_id < str(memory.runs[0]["id"])
        if run["finished_at"] is None or is_old or (known and known["finished_at"] == run["finished_at"]):
            return None
        memory.remember(run)
        if (watched := self._watched.get(mirror.name)) is not None:
            watched.look_again_at_written(status)
        finished = datetime.fromisoformat(run["finished_at"]).astimezone(UTC)
        is_whole_success = run["state"] == "done" and not run["scoped"]
        if is_whole_success:
            memory.last_success = max(finished, memory.last_success or finished)
        if finished < memory.first_seen:  # before anything was remembered
            return None
        if is_whole_success:
            self._news.note_success(mirror, memory, job_id, now)
        elif run["state"] == "failed":
            self._news.note_failure(mirror, memory, status, now)
        elif run["state"] == WAITING:
            self._news.note_waiting(mirror, memory, status, now)
        return str(run["state"])


def _stamps(jobs: Mapping[str, Entry]) -> int:
    """Returns a hash that differs, almost surely, when a job was added, removed or changed."""
    return hash(frozenset((job_id, entry.stamp, entry.cancelled) for job_id, entry in jobs.items()))

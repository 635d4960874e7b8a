"""The keeper: one thread that runs mirrors by their schedule, watches their folders, and has people told.

Every half second it reads `mirrors.toml` if that has changed, takes note of the jobs of each mirror that have
ended, and starts what is due (`schedule.decide`). What it knows beyond that is in `.mirrors.json` (`memory`):
the same file, clock and memory lead to the same runs, in whichever process.

A run is submitted before it is remembered: a server that dies in between starts it once more, which costs a
look at the folder; the other way round it would be lost. Nothing here talks to a store or waits for a job.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from syncworker.ending import BEING_WRITTEN
from syncworker.errors import SyncError, UsageError
from syncworker.jobs.record import Status
from syncworker.jobs.status import error_code, timestamp
from syncworker.jobs.status_cache import Entry
from syncworker.jobs.store import Conflict, NoSuchJob
from syncworker.mirrors import notify, schedule
from syncworker.mirrors.file import Mirror, MirrorFile
from syncworker.mirrors.memory import Memories, Memory
from syncworker.mirrors.schedule import Act
from syncworker.mirrors.watch import Changes, Watcher
from syncworker.model import State
from syncworker.options import table
from syncworker.request import RequestKeys
from syncworker.service.supervisor import Supervisor
from syncworker.settings import Settings
from syncworker.storage_url import destination_id

TICK_SECONDS = 0.5
WHOLE_EVERY = timedelta(hours=24)  # of a watched mirror: what no event told of is found
WATCH_AGAIN_SECONDS = 30.0  # a folder that could not be watched is tried again
WATCH_JOBS_KEPT = 100
# After a job of a watched mirror that failed: the next one, a whole one, comes no sooner.
FAILURE_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (30, 120, 600, 1800, 3600))
TELL_AGAIN = timedelta(hours=20)  # a failure that lasts is reported about once a day, not at each retry
WAITING = State.WAITING.value
FAR = datetime(9999, 1, 1, tzinfo=UTC)
log = logging.getLogger("syncworker.mirrors")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Counts:
    """Since this server started."""

    sent: int = 0
    failed: int = 0


@dataclass(slots=True)
class Watched:
    """A mirror whose folder is watched, as it was when the watcher was made."""

    mirror: Mirror
    watcher: Watcher
    made_at: float
    failures: int = 0
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """There is nothing to do for a mirror while it and its jobs stay as they are, within these times."""

    mirror: Mirror
    jobs: int
    since: datetime
    until: datetime


class Keeper:
    """`overview`, `is_overdue` and `run` may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        file: MirrorFile,
        *,
        clock: Callable[[], datetime] = utc_now,
        sender: notify.Sender | None = None,
    ) -> None:
        self.file = file
        self.counts = Counts()
        self._settings = settings
        self._supervisor = supervisor
        self._jobs = supervisor.jobs
        self._clock = clock
        self._sender = sender or notify.Sender()
        self._memories = Memories(self._jobs.path)
        self._seen: dict[
            str, tuple[int, int, int]
        ] = {}  # ended jobs that were taken note of, by their stamps
        self._in_flight: set[tuple[str, str, str]] = set()  # mirror, entry, digest
        self._next_runs: dict[str, datetime | None] = {}
        self._errors: dict[str, str] = {}
        self._watched: dict[str, Watched] = {}
        self._idle: dict[str, Idle] = {}
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
        for watched in self._watched.values():
            watched.watcher.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.tick()
            except Exception:  # a full disk, for example: the next round may succeed
                log.exception("mirrors: this round failed, the next one goes on")
            self._stopping.wait(self._pause())

    def _pause(self) -> float:
        """Until the next round: at the moment when it is quiet in a watched folder, if that comes sooner."""
        quiet = [watched.watcher.quiet_in() for watched in self._watched.values()]
        return min([TICK_SECONDS, *(seconds + 0.01 for seconds in quiet if seconds > 0)])

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
            views = [
                self._view(mirror, of_mirror.get(name, {})) for name, mirror in self.file.mirrors.items()
            ]
        error = f"mirrors.toml, {self.file.mistakes[0]}" if mistakes else None
        return {"count": len(views), "mirrors": views, "error": error, "mistakes": mistakes}

    def is_overdue(self, name: str) -> bool | None:
        """None: there is no such mirror."""
        with self._lock:
            self._load()
            mirror = self.file.mirrors.get(name)
            return None if mirror is None else self._overdue(mirror, self._memory(mirror), self._clock())

    def keys_of(self, status: Status) -> RequestKeys | None:
        """The keys of the mirror that a job is a run of, where it still goes to that job's storage."""
        mirror = self.file.mirrors.get(str(status.get("mirror")))
        if (
            mirror is None
            or (mirror.storage_url or self._settings.default_storage_url) != status["storage_url"]
        ):
            return None
        return mirror.keys

    def _view(self, mirror: Mirror, jobs: Mapping[str, Entry]) -> dict[str, Any]:
        memory, now = self._memory(mirror), self._clock()
        last = max(jobs, default="")
        if memory.runs and str(memory.runs[-1]["id"]) > last:
            last, state = memory.runs[-1]["id"], memory.runs[-1]["state"]
        else:
            recorded = jobs[last].state if last else None
            state = recorded.value if recorded else None
        next_run = self._next_runs.get(mirror.name)
        return {
            "name": mirror.name,
            "source": mirror.source,
            "dest": mirror.dest,
            "storage_url": mirror.storage_url or self._settings.default_storage_url,
            "options": table.parse(mirror.asked),
            "schedule": _for_people(mirror),
            "next_run_at": timestamp(next_run) if next_run else None,
            "last_job": last or None,
            "last_state": state,
            "waiting_job": _waiting(jobs),
            "last_success_at": timestamp(memory.last_success) if memory.last_success else None,
            "overdue": self._overdue(mirror, memory, now),
            "watching": bool((watched := self._watched.get(mirror.name)) and watched.watcher.watching),
            "runs_skipped": memory.skipped,
            "runs_missed": memory.missed,
            "last_missed_at": timestamp(memory.last_missed) if memory.last_missed else None,
            "runs": [{"files_total": None, "bytes_total": None} | run for run in memory.runs],
            "error": self._errors.get(mirror.name)
            or _trouble(jobs)
            or (watched.watcher.error if watched is not None else None),
        }

    # -- one round ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        with self._lock:
            self._load()
            self._take_results()
            of_mirror = self._by_mirror()
            self._mind_watchers()
            busy = [each for each in self.file.mirrors.values() if not self._rests(each, of_mirror)]
            for mirror in busy:
                self._tend(mirror, of_mirror.get(mirror.name, {}))
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

    def _by_mirror(self) -> dict[str, dict[str, Entry]]:
        found: dict[str, dict[str, Entry]] = {}
        entries = self._jobs.glance()
        for job_id, entry in entries.items():
            if entry.mirror:
                found.setdefault(entry.mirror, {})[job_id] = entry
        for gone in self._seen.keys() - entries.keys():
            del self._seen[gone]
        return found

    def _memory(self, mirror: Mirror) -> Memory:
        now = self._clock()
        memory = self._memories.of(mirror.name, now)
        asked = f"{_in_words(mirror)} {mirror.schedule.zone}"
        if memory.schedule != asked:
            if memory.schedule and mirror.schedule.cron:
                memory.last_due = now  # times of a schedule that is new have not been missed
            elif memory.schedule and mirror.schedule.every is not None and memory.last_due is not None:
                memory.last_due = max(memory.last_due, now - mirror.schedule.every)
            memory.schedule, memory.retry_at = asked, None
        return memory

    def _rests(self, mirror: Mirror, of_mirror: Mapping[str, Mapping[str, Entry]]) -> bool:
        """Whether a look at the mirror would find nothing to do: most are idle nearly always."""
        idle, now = self._idle.get(mirror.name), self._clock()
        return (
            idle is not None
            and idle.mirror is mirror
            and idle.jobs == _stamps(of_mirror.get(mirror.name, {}))
            and idle.since <= now < idle.until
        )

    def _may_rest(self, mirror: Mirror, memory: Memory, jobs: Mapping[str, Entry], now: datetime) -> None:
        """Remembers until when; not at all while something is being sent or watched."""
        self._idle.pop(mirror.name, None)
        if memory.outbox or mirror.watch:
            return
        moments = [self._next_runs.get(mirror.name) or FAR]
        if mirror.max_age is not None and "overdue" not in memory.told:
            moments.append((memory.last_success or memory.first_seen) + mirror.max_age)
        self._idle[mirror.name] = Idle(mirror, _stamps(jobs), now, min(moments))

    def _tend(self, mirror: Mirror, jobs: Mapping[str, Entry]) -> None:
        memory, now = self._memory(mirror), self._clock()
        for job_id, entry in sorted(jobs.items()):
            if entry.ended and self._seen.get(job_id) != entry.stamp:
                if (state := self._note_end(mirror, memory, job_id, now)) is not None:
                    self._note_end_of_watched(mirror, jobs, state, now)
                self._seen[job_id] = entry.stamp
        waiting = any(entry.state is State.WAITING for entry in jobs.values())
        busy = self._is_busy(mirror)
        decision = schedule.decide(mirror.schedule, memory.past, now, busy=busy, waiting=waiting)
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
        self._mind_age(mirror, memory, now)
        self._send(mirror, memory)
        self._may_rest(mirror, memory, jobs, now)

    def _is_busy(self, mirror: Mirror) -> bool:
        place = destination_id(mirror.storage_url or self._settings.default_storage_url, mirror.dest)
        prefix = table.parse_prefix(mirror.asked["prefix"]) if mirror.asked.get("prefix") else ""
        return any(
            not entry.ended and entry.overlaps(place, prefix) for entry in self._jobs.glance().values()
        )

    def _skip(self, mirror: Mirror, memory: Memory) -> None:
        memory.skipped += 1
        log.warning("mirror %s: its destination is busy: this run is skipped", mirror.name)

    def _note_missed(
        self, mirror: Mirror, memory: Memory, before: datetime | None, now: datetime, *, skipped: bool
    ) -> None:
        """Counts the times of the schedule at which no server ran. `before`: the newest one that had been
        dealt with. The one that is skipped is counted as such."""
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
        log.warning(
            "mirror %s: %d runs were missed since %s, as no server ran: one makes up for them",
            mirror.name,
            count,
            timestamp(since),
        )

    def _start(self, mirror: Mirror, memory: Memory, act: Act) -> bool:
        """Whether the time is dealt with; False: to be tried again in the next round."""
        try:
            status = self._supervisor.submit(mirror.request(self._settings))
        except Conflict:  # since the look
            self._skip(mirror, memory)
            return True
        except UsageError as error:  # the folder leads out of the root by now, for example
            self._complain(mirror, error.message)
            return True
        except (SyncError, OSError) as error:  # the queue or the disk is full
            self._complain(
                mirror, error.message if isinstance(error, SyncError) else error.strerror or str(error)
            )
            return False
        self._errors.pop(mirror.name, None)
        self._note_whole(mirror, memory)
        memory.scheduled, memory.retry_at = status["id"], None
        memory.retries = memory.retries + 1 if act is Act.RETRY else 0
        log.info(
            "mirror %s: %s is job %s",
            mirror.name,
            "a retry" if act is Act.RETRY else "this run",
            status["id"],
        )
        return True

    # -- watching -----------------------------------------------------------------------------------------

    def _mind_watchers(self) -> None:
        """Makes those that are missing, anew those that gave up, and ends those that nobody wants."""
        wanted = {name: mirror for name, mirror in self.file.mirrors.items() if mirror.watch}
        for name, watched in list(self._watched.items()):
            gave_up = (
                not watched.watcher.is_alive() and time.monotonic() - watched.made_at > WATCH_AGAIN_SECONDS
            )
            if wanted.get(name) != watched.mirror or gave_up:
                watched.watcher.stop()
                del self._watched[name]
        for name in wanted.keys() - self._watched.keys():
            mirror = wanted[name]
            asked = table.Options.of_status({"options": table.parse(mirror.asked)})
            path_filter = asked.path_filter()
            root = os.path.join(self._settings.uploads_dir, mirror.source)
            watcher = Watcher(root, path_filter.skips_folder if path_filter else lambda _: False)
            self._watched[name] = Watched(mirror, watcher, time.monotonic())
            watcher.start()

    def _follow(self, mirror: Mirror, memory: Memory, now: datetime) -> None:
        """Starts a job for what has changed in a watched folder, once it is quiet."""
        watched = self._watched.get(mirror.name)
        if watched is None or not watched.watcher.watching:
            return
        if watched.not_before is not None and now < watched.not_before:
            return
        if memory.last_whole is None or now - memory.last_whole > WHOLE_EVERY:
            watched.watcher.need_whole()
        if watched.watcher.pending() is None:
            return
        changes = watched.watcher.take()
        scope = None if changes.whole else changes.folders
        try:
            request = mirror.request(self._settings)
            status = self._supervisor.submit(replace(request, scope=scope))
        except (SyncError, OSError) as error:  # also when it has become busy: when it is free
            watched.watcher.give_back(changes)
            if not isinstance(error, Conflict):
                self._complain(mirror, getattr(error, "message", None) or str(error))
            return
        self._errors.pop(mirror.name, None)
        if changes.whole:
            memory.last_whole = now
        what = "all" if scope is None else f"{len(scope)} changed folders"
        log.info("mirror %s: job %s looks at %s", mirror.name, status["id"], what)

    def _note_whole(self, mirror: Mirror, memory: Memory) -> None:
        """A scheduled job looks at everything: what was seen to change until now is in it."""
        memory.last_whole = self._clock()
        if (watched := self._watched.get(mirror.name)) is not None:
            watched.watcher.take()

    def _note_end_of_watched(
        self, mirror: Mirror, jobs: Mapping[str, Entry], state: str, now: datetime
    ) -> None:
        watched = self._watched.get(mirror.name)
        if watched is None:
            return
        if state == "done":
            watched.failures, watched.not_before = 0, None
        else:  # whatever it was to look at may not be in the bucket
            watched.watcher.need_whole()
        if state in ("failed", "cancelled", "interrupted"):
            watched.not_before = now + FAILURE_PAUSES[min(watched.failures, len(FAILURE_PAUSES) - 1)]
            watched.failures += 1
        scoped = sorted(
            job_id
            for job_id, entry in jobs.items()
            if entry.is_scoped and entry.ended and entry.state is not State.WAITING
        )
        self._supervisor.remove(scoped[:-WATCH_JOBS_KEPT])

    def _complain(self, mirror: Mirror, message: str) -> None:
        text = f"a run could not be started: {message}"
        if self._errors.get(mirror.name) != text:
            log.error("mirror %s: %s", mirror.name, text)
        self._errors[mirror.name] = text

    # -- what has ended -----------------------------------------------------------------------------------

    def _note_end(self, mirror: Mirror, memory: Memory, job_id: str, now: datetime) -> str | None:
        """The state in which the job has ended; None: that is known already."""
        try:
            status = self._jobs.observe(job_id)
        except NoSuchJob:
            return None
        run = _run_of(status)
        known = memory.run(job_id)
        is_old = len(memory.runs) >= 30 and known is None and job_id < str(memory.runs[0]["id"])
        if run["finished_at"] is None or is_old or (known and known["finished_at"] == run["finished_at"]):
            return None
        memory.remember(run)
        self._look_again_at_written(mirror, status)
        finished = datetime.fromisoformat(run["finished_at"]).astimezone(UTC)
        is_whole_success = run["state"] == "done" and not run["scoped"]
        if is_whole_success:
            memory.last_success = max(finished, memory.last_success or finished)
        if finished < memory.first_seen:  # of a time that nothing is remembered of
            return None
        if is_whole_success:
            self._note_success(mirror, memory, job_id, now)
        elif run["state"] == "failed":
            self._note_failure(mirror, memory, status, now)
        elif run["state"] == WAITING:
            self._note_waiting(mirror, memory, status, now)
        return str(run["state"])

    def _look_again_at_written(self, mirror: Mirror, status: Status) -> None:
        """What was being written while a job after changes ran is the next one's."""
        watched = self._watched.get(mirror.name)
        scope = status.get("scope")
        if watched is not None and scope and (status.get("skipped") or {}).get(BEING_WRITTEN):
            watched.watcher.give_back(Changes(False, tuple(scope)))

    def _note_success(self, mirror: Mirror, memory: Memory, job_id: str, now: datetime) -> None:
        memory.retry_at, memory.retries = None, 0
        if memory.told:
            memory.told.clear()
            self._tell(mirror, memory, "recovered", "the last run ended well", job_id, now)

    def _note_failure(self, mirror: Mirror, memory: Memory, status: Status, now: datetime) -> None:
        if status["id"] == memory.scheduled and memory.retries < mirror.retries:
            pauses = schedule.RETRY_PAUSES
            memory.retry_at = now + pauses[min(memory.retries, len(pauses) - 1)]
        code, told = str(error_code(status)), memory.told.get("failed") or {}
        at = told.get("at")
        if told.get("code") == code and at and now - datetime.fromisoformat(at) < TELL_AGAIN:
            return
        memory.told["failed"] = {"at": timestamp(now), "code": code}
        again = f"; it is tried again at {timestamp(memory.retry_at)}" if memory.retry_at else ""
        text = f"{_reason(status)} ({code}){again}"
        self._tell(mirror, memory, "failed", text, status["id"], now)

    def _note_waiting(self, mirror: Mirror, memory: Memory, status: Status, now: datetime) -> None:
        which = f"{status['id']} {status['attempt']}"
        if memory.told.get(WAITING) == which:
            return
        memory.told[WAITING] = which
        text = f"{_reason(status)}; its schedule stops until job {status['id']} is approved or cancelled"
        self._tell(mirror, memory, WAITING, text, status["id"], now)

    def _overdue(self, mirror: Mirror, memory: Memory, now: datetime) -> bool:
        return schedule.is_overdue(mirror.max_age, memory.first_seen, memory.last_success, now)

    def _mind_age(self, mirror: Mirror, memory: Memory, now: datetime) -> None:
        if not self._overdue(mirror, memory, now):
            memory.told.pop("overdue", None)
            return
        if "overdue" in memory.told:
            return
        memory.told["overdue"] = timestamp(now)
        last = memory.last_success
        since = f"the last success was at {timestamp(last)}" if last else "there has been no success yet"
        newest = memory.runs[-1] if memory.runs else None
        ran = f"the last run was {newest['id']}, {newest['state']}" if newest else "nothing has run"
        self._tell(mirror, memory, "overdue", f"{since}; {ran}", newest["id"] if newest else None, now)

    # -- telling ------------------------------------------------------------------------------------------

    def _tell(
        self, mirror: Mirror, memory: Memory, event: str, text: str, job_id: str | None, now: datetime
    ) -> None:
        log.warning("mirror %s: %s: %s", mirror.name, event, text)
        if not mirror.notify:
            return
        entry = {
            "id": f"{event} {timestamp(now)}",
            "event": event,
            "text": text,
            "job": job_id,
            "at": timestamp(now),
            "last_success_at": timestamp(memory.last_success) if memory.last_success else None,
            "left": [notify.digest(address) for address in mirror.notify],
        }
        memory.outbox = [*memory.outbox, entry][-100:]

    def _send(self, mirror: Mirror, memory: Memory) -> None:
        addresses = {notify.digest(each): (n, each) for n, each in enumerate(mirror.notify, 1)}
        for entry in memory.outbox:
            entry["left"] = [each for each in entry["left"] if each in addresses]
            for digest in entry["left"]:
                place = (mirror.name, entry["id"], digest)
                if place in self._in_flight:
                    continue
                self._in_flight.add(place)
                number, address = addresses[digest]
                more = {name: entry[name] for name in ("job", "at", "last_success_at")}
                body = notify.message(entry["event"], mirror.name, entry["text"], **more)
                self._sender.deliver(notify.Delivery(mirror.name, entry["id"], number, address, body))
        memory.outbox = [entry for entry in memory.outbox if entry["left"]]

    def _take_results(self) -> None:
        while not self._sender.results.empty():
            result = self._sender.results.get()
            done, digest = result.delivery, notify.digest(result.delivery.address)
            self._in_flight.discard((done.mirror, done.entry, digest))
            self.counts.sent += result.sent
            self.counts.failed += not result.sent
            if done.mirror not in self.file.mirrors:
                continue
            memory = self._memory(self.file.mirrors[done.mirror])
            for entry in memory.outbox:
                if entry["id"] == done.entry:
                    entry["left"] = [each for each in entry["left"] if each != digest]
                    if result.sent and entry["job"]:
                        self._jobs.note_notified(entry["job"])


def _stamps(jobs: Mapping[str, Entry]) -> int:
    """Another number, as good as surely, when a job has come, gone or changed."""
    return hash(frozenset((job_id, entry.stamp, entry.cancelled) for job_id, entry in jobs.items()))


def _waiting(jobs: Mapping[str, Entry]) -> str | None:
    return max((job_id for job_id, entry in jobs.items() if entry.state is State.WAITING), default=None)


def _trouble(jobs: Mapping[str, Entry]) -> str | None:
    job_id = _waiting(jobs)
    return job_id and f"job {job_id} waits: the schedule stops until it is approved or cancelled"


def _in_words(mirror: Mirror) -> str:
    """As it is remembered: another text is another schedule."""
    if mirror.schedule.cron:
        return f"cron {mirror.schedule.cron}"
    if mirror.schedule.every is not None:
        return f"every {mirror.schedule.every.total_seconds():.0f} s"
    return "by hand"


def _for_people(mirror: Mirror) -> str:
    if mirror.schedule.cron or mirror.schedule.every is None:
        return _in_words(mirror)
    seconds = int(mirror.schedule.every.total_seconds())
    units = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
    length, unit = next((length, unit) for length, unit in units if seconds % length == 0)
    return f"every {seconds // length} {unit}" if (seconds, unit) != (86400, "days") else "every day"


def _reason(status: Status) -> str | None:
    error = status.get("error")
    return (error and error.get("message")) or status.get("message")


def _run_of(status: Status) -> dict[str, Any]:
    progress = status["progress"]
    return {
        "id": status["id"],
        "state": status["state"],
        "attempt": status.get("attempt"),
        "scoped": status.get("scope") is not None,
        "started_at": status.get("started_at"),
        "finished_at": status.get("finished_at"),
        "files_total": progress.get("files_total"),
        "bytes_total": progress.get("bytes_total"),
        "files_uploaded": progress.get("files_uploaded"),
        "bytes_uploaded": progress.get("bytes_uploaded"),
        "objects_deleted": progress.get("objects_deleted"),
        "error": error_code(status),
    }

"""The scenario `server`: what an answer costs while jobs run, with a history of a thousand.

Five jobs "run": a process holds their locks and writes their statuses four times a second each, as workers
do. Told are answers a second, by one connection and (where `wrk` is there) by eight; the server's processor
time for each; and, at 200 a second offered whether or not the earlier ones are answered, how long each waits
from the moment that it was due.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.measure import Failed
from benchmarks.results import Options, Result, result, target
from benchmarks.stores import PROJECT, free_port, minimal_environment
from benchmarks.trees import work_folder

RUNNING, HISTORY = 5, 1000
OFFERED = 200  # a second
_TICK = os.sysconf("SC_CLK_TCK")

# argv: the jobs folder, how many run, how many have ended. Prints `ready`, then writes until its input ends.
_WORKERS = """
import sys, threading, time
from syncworker.jobs.status import begin
from syncworker.jobs.store import Jobs
from syncworker.model import State
from syncworker.request import Request
jobs, running, ended = Jobs(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
jobs.prepare()
for number in range(ended):
    status = jobs.create(Request(f"folder-{number % 20}", f"bucket-{number % 20}", "http://127.0.0.1:1", 0.0))
    with jobs.lock(status["id"]) as lock:
        lock.acquire()
        begin(status)
        jobs.finish(status, State.DONE, None, "the bucket equals the folder")
held = []
for number in range(running):
    status = jobs.create(Request("photos", f"running-{number}", "http://127.0.0.1:1", 0.0))
    lock = jobs.lock(status["id"])
    assert lock.acquire()
    begin(status)
    status["phase"] = "transferring"
    status["current"] = [
        {"op": "upload", "key": f"2026/{n}.jpg", "size": 5242880, "bytes_done": n << 10} for n in range(8)
    ]
    held.append((lock, status))
    jobs.write(status, durable=False)
print("ready", flush=True)
threading.Thread(target=sys.stdin.read, daemon=False).start()
while threading.active_count() > 1:
    for _, status in held:
        status["progress"]["files_done"] += 1
        jobs.write(status, durable=False)
        time.sleep(0.25 / max(1, len(held)))
"""


@contextmanager
def _serving(running: int, ended: int) -> Iterator[tuple[int, int]]:
    """Port and process id of a server with so many jobs."""
    folder = work_folder() / "serving"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_port()
    environment = minimal_environment(
        folder,
        API_PORT=str(port),
        UPLOADS_DIR=str(folder / "uploads"),
        JOBS_DIR=str(folder / "jobs"),
        STORAGE_URL="http://127.0.0.1:1",
        KEEP_JOBS=str(ended + 1),
        MINIO_ACCESS_KEY="AKIDBENCH",
        MINIO_SECRET_KEY="secret-of-the-benchmark",
    )
    command = [sys.executable, "-c", _WORKERS, str(folder / "jobs"), str(running), str(ended)]
    with (folder / "server.log").open("wb") as log:
        workers = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert workers.stdout is not None
        server = None
        try:
            if workers.stdout.readline() != b"ready\n":
                raise SystemExit("the jobs of the benchmark cannot be made")
            server = subprocess.Popen(
                [sys.executable, str(PROJECT / "server.py")], env=environment, stdout=log, stderr=log
            )
            _wait_until_up(server, port, folder / "server.log")
            yield port, server.pid
        finally:
            if server is not None:
                server.terminate()
                server.wait(60)
            workers.communicate()


def _wait_until_up(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/healthz")
            if connection.getresponse().status == http.client.OK:
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server does not start:\n{log.read_text()}")
        time.sleep(0.05)


def _spent(pid: int) -> float:
    """Processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _each(port: int, pid: int, path: str, seconds: float, headers: dict[str, str]) -> tuple[float, float]:
    """One connection: answers a second, and milliseconds of processor time for each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    count, before, began = 0, _spent(pid), time.perf_counter()
    while time.perf_counter() - began < seconds:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (200, 304):
            raise Failed(f"{path}: {answer.status}")
        count += 1
    took = time.perf_counter() - began
    connection.close()
    return count / took, 1000 * (_spent(pid) - before) / count


def _tag(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.headers["ETag"]


def _wrk(port: int, pid: int, path: str, seconds: float) -> tuple[float, float]:
    """The same by eight connections of `wrk`."""
    before = _spent(pid)
    done = subprocess.run(
        ["wrk", "-t2", "-c8", f"-d{max(1, round(seconds))}s", f"http://127.0.0.1:{port}{path}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    spent = _spent(pid) - before
    found = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    if found is None or rate is None or "Non-2xx" in done.stdout:
        raise Failed(done.stdout)
    return float(rate[1]), 1000 * spent / int(found[1])


async def _offer(port: int, path: str, rate: float, seconds: float, connections: int = 16) -> list[float]:
    """Open loop: milliseconds from the moment that each request was due to its whole answer."""
    due: asyncio.Queue[float] = asyncio.Queue()
    waits: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (at := await due.get()) >= 0:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if not head.startswith(b"HTTP/1.1 200") or length is None:
                raise Failed(head.decode("latin-1"))
            await reader.readexactly(int(length[1]))
            waits.append(1000 * (time.perf_counter() - at))
        writer.close()

    clients = [asyncio.create_task(client()) for _ in range(connections)]
    began = time.perf_counter()
    for number in range(round(rate * seconds)):
        at = began + number / rate
        await asyncio.sleep(at - time.perf_counter())
        due.put_nowait(at)
    for _ in clients:
        due.put_nowait(-1)
    await asyncio.gather(*clients)
    return sorted(waits)


def server(options: Options) -> Result:
    running, history = options.times(RUNNING, 1), options.times(HISTORY, 10)
    seconds = max(1.0, 5 * min(1.0, options.scale))
    table = [["", "answers/s", "processor ms each"]]
    goals = []
    with _serving(running, history) as (port, pid):
        paths = ("/healthz", "/runnings", "/jobs?limit=50", "/metrics")
        alone: dict[str, float] = {}
        for path in paths:
            rate, alone[path] = _each(port, pid, path, seconds, {})
            table.append([f"{path}, one connection", f"{rate:,.0f}", f"{alone[path]:.2f}"])
        glance = (alone["/runnings"] + alone["/jobs?limit=50"]) / 10  # ms a second, in percent of a core
        goals.append(target("the jobs and the history asked for each second", glance, 1.0, "% of a core"))
        for path in paths[2:3]:
            rate, spent = _each(port, pid, path, seconds, {"Accept-Encoding": "gzip"})
            table.append([f"{path}, packed", f"{rate:,.0f}", f"{spent:.2f}"])
            rate, spent = _each(port, pid, path, seconds, {"If-None-Match": _tag(port, path)})
            table.append([f"{path}, not modified", f"{rate:,.0f}", f"{spent:.2f}"])
        if shutil.which("wrk"):
            for path in paths[:2]:
                rate, spent = _wrk(port, pid, path, seconds)
                table.append([f"{path}, eight by wrk", f"{rate:,.0f}", f"{spent:.2f}"])
            goals.append(target("seconds for 1,500 of /runnings", 1500 / rate, 1.0, "s"))
        for path, offered in (("/runnings", OFFERED), ("/metrics", OFFERED / 10)):
            waits = asyncio.run(_offer(port, path, offered, 2 * seconds))
            half, most = statistics.median(waits), waits[int(0.99 * len(waits))]
            table.append([f"{path}, {offered:g}/s offered", f"p50 {half:.1f} ms", f"p99 {most:.1f} ms"])
            if offered == OFFERED:
                goals += [target("p50", half, 10, "ms"), target("p99", most, 100, "ms")]
    title = f"the server, {running} jobs running, {history:,} ended"
    return result("server", title, options, [], goals) | {"table": table}

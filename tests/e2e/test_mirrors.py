"""Named mirrors by a real server: runs by schedule, by hand and from a shell, what is told of them, and to
whom: a receiver on loopback gets what Slack or a watchdog would."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bench import PROJECT, Service, contents, tree, wait_for
from stores import Store


class Receiver:
    """A webhook. `answers`: the statuses of the next requests, then 200. `seen`: (path, body)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.seen.append((self.path, json.loads(body)))
                receiver.times.append(time.monotonic())
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("Location", f"http://127.0.0.1:{receiver.port}/redirected")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def events(self) -> list[tuple[str, str]]:
        return [(body["mirror"], body["event"]) for _, body in self.seen]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


class Nightly:
    """A service with a mirrors.toml."""

    def __init__(self, service: Service, path: Path) -> None:
        self.service, self.path = service, path

    def write(self, text: str) -> None:
        """As an editor does: whole, by rename."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        os.replace(new, self.path)

    def view(self, name: str) -> dict[str, Any]:
        found = self.service.get("/mirrors").json()
        return next(each for each in found["mirrors"] if each["name"] == name)

    def wait(self, name: str, holds: Callable[[dict[str, Any]], bool], timeout: float = 30) -> dict[str, Any]:
        last: dict[str, Any] = {}

        def look() -> bool:
            nonlocal last
            last = self.view(name)
            return holds(last)

        try:
            wait_for(look, timeout, name)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(last, indent=1)}\n{self.service.output()}") from None
        return last


@pytest.fixture
def nightly(make_service: Callable[..., Service], juicefs: Store, tmp_path: Path) -> Nightly:
    path = tmp_path / "mirrors.toml"
    return Nightly(make_service(juicefs, start=False, MIRRORS_FILE=str(path)), path)


def runs(view: dict[str, Any]) -> list[str]:
    return [run["state"] for run in view["runs"]]


def test_a_mirror_with_every_runs_at_once_then_again_and_says_so(nightly: Nightly, juicefs: Store) -> None:
    service = nightly.service
    tree(service.uploads, {"photos": {"a.jpg": 10, "sub": {"b.jpg": 20}}})
    nightly.write("[photos]\nsource = 'photos'\ndest = 'every-bucket'\nevery = '2s'\nmax_age = '1h'\n")
    service.start()
    view = nightly.wait("photos", lambda view: len(view["runs"]) >= 2)
    assert set(runs(view)) == {"done"}
    assert view["last_success_at"]
    assert view["overdue"] is False
    assert view["next_run_at"]
    assert set(contents(juicefs, "every-bucket")) == {"a.jpg", "sub/b.jpg"}
    status = service.show(view["last_job"])
    assert (status["mirror"], status["source"], status["scope"]) == ("photos", "photos", None)
    assert service.get("/healthz", mirror="photos").json() == {"status": "ok"}
    assert service.get("/healthz", mirror="nobody").status == 404
    page = service.get("/jobs", mirror="photos").json()["jobs"]
    assert len(page) >= 2
    assert {job["mirror"] for job in page} == {"photos"}
    assert service.get("/jobs", mirror="nobody").json()["jobs"] == []
    numbers = service.get("/metrics").body.decode()
    assert 'syncworker_mirror_overdue{mirror="photos"} 0.0' in numbers
    assert 'syncworker_mirror_last_success_timestamp_seconds{mirror="photos"} 1' in numbers


def test_a_mirror_is_started_by_hand_over_http_and_from_a_shell(nightly: Nightly) -> None:
    service = nightly.service
    tree(service.uploads, {"photos": {"a.jpg": 10}})
    nightly.write("[photos]\nsource = 'photos'\ndest = 'by-hand'\nexclude = ['*.tmp']\nwait = 0.25\n")
    service.start()
    assert nightly.view("photos")["next_run_at"] is None
    beside = service.get("/sync", mirror="photos", dest="other")
    assert (beside.status, beside.problem["param"]) == (400, "dest")
    unknown = service.get("/sync", mirror="photo")
    assert (unknown.status, unknown.problem["param"]) == (400, "mirror")
    started = service.post("/sync", mirror="photos")
    assert started.status == 202, started
    status = service.wait_state(started.json()["id"])
    assert (status["state"], status["mirror"], status["wait"]) == ("done", "photos", 0.25)
    assert status["options"] == {"exclude": ["*.tmp"]}
    command = [sys.executable, "-m", "syncworker", "start", "--mirror", "photos", "--json", "--quiet"]
    found = subprocess.run(
        command, cwd=PROJECT, env=service.environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["mirror"] == "photos"
    nightly.wait("photos", lambda view: runs(view) == ["done", "done"])
    for more, code in (("--dest other", 2), ("--mirror nobody", 2)):
        refused = subprocess.run(
            [*command[:4], "--mirror", "photos", *more.split()],
            cwd=PROJECT,
            env=service.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == code, refused


def test_a_mistake_in_the_file_is_shown_and_the_last_good_one_holds(nightly: Nightly) -> None:
    service = nightly.service
    tree(service.uploads, {"photos": {"a.jpg": 10}})
    nightly.write("[photos]\nsource = 'photos'\ndest = 'good-file'\n")
    service.start()
    nightly.write("[photos]\nsource = 'photos'\ndest = 'good-file'\n\n[music]\nsource = 'music'\n")
    found = service.get("/mirrors").json()
    assert [mirror["name"] for mirror in found["mirrors"]] == ["photos"]
    assert found["mistakes"] == [{"line": 5, "message": "[music] dest is missing"}]
    assert "line 5" in found["error"]
    wait_for(lambda: "line 5" in service.output(), 10, "the server's log")
    nightly.write("[music]\nsource = 'music'\ndest = 'good-file'\n")
    found = service.get("/mirrors").json()
    assert ([mirror["name"] for mirror in found["mirrors"]], found["error"]) == (["music"], None)


def test_a_run_that_is_due_while_the_destination_is_busy_is_skipped_and_counted(nightly: Nightly) -> None:
    service = nightly.service
    tree(service.uploads, {"photos": {f"{n}.jpg": 10 for n in range(9)}})
    nightly.write("[photos]\nsource = 'photos'\ndest = 'busy-one'\n")
    service.start()
    job = service.sync("busy-one", wait=3600)
    service.wait_state(job, "running")
    assert service.get("/sync", mirror="photos").problem["job"] == job
    nightly.write("[photos]\nsource = 'photos'\ndest = 'busy-one'\nevery = '1s'\n")
    nightly.wait("photos", lambda view: view["runs_skipped"] >= 2)
    assert [each["id"] for each in service.get("/runnings").json()["jobs"]] == [job]
    service.get("/cancel", id=job)
    nightly.wait("photos", lambda view: "done" in runs(view))
    assert service.get("/runnings").json()["count"] <= 1, "the skipped ones were not queued"


def test_what_was_missed_while_no_server_ran_is_one_run_at_the_start(nightly: Nightly) -> None:
    service = nightly.service
    tree(service.uploads, {"photos": {"a.jpg": 10}})
    nightly.write("[photos]\nsource = 'photos'\ndest = 'missed-one'\ncron = '0 3 * * *'\ntimezone = 'UTC'\n")
    service.start()
    nightly.wait("photos", lambda view: view["next_run_at"] is not None)
    assert nightly.view("photos")["runs"] == []
    memory = service.jobs / ".mirrors.json"
    wait_for(memory.exists, 10, "what is remembered")
    service.terminate()
    kept = json.loads(memory.read_text())
    newest = datetime.now(UTC).replace(hour=3, minute=0, second=0, microsecond=0)
    newest -= timedelta(days=newest > datetime.now(UTC) - timedelta(minutes=2))
    kept["mirrors"]["photos"]["last_due"] = (newest - timedelta(days=3)).isoformat()
    kept["mirrors"]["photos"]["schedule"] = "cron 0 3 * * * UTC"
    memory.write_text(json.dumps(kept))
    service.start()
    view = nightly.wait("photos", lambda view: runs(view) == ["done"])
    assert (view["runs_missed"], datetime.fromisoformat(view["last_missed_at"])) == (3, newest)
    numbers = service.get("/metrics").body.decode()
    assert 'syncworker_mirror_runs_missed_total{mirror="photos"} 3.0' in numbers
    assert "3 runs were missed" in (service.base / "server.err").read_text()
    service.terminate()
    service.start()
    view = nightly.wait("photos", lambda view: view["next_run_at"] is not None)
    assert (runs(view), view["runs_missed"]) == (["done"], 3)
    assert len(service.ids()) == 1
    nightly.write("[photos]\nsource = 'photos'\ndest = 'missed-one'\nevery = '1m'\n")
    view = nightly.wait("photos", lambda view: runs(view) == ["done", "done"])
    assert view["runs_missed"] == 3, "a new schedule has missed nothing"


def test_people_are_told_of_a_failure_once_and_of_its_end(nightly: Nightly, receiver: Receiver) -> None:
    service = nightly.service
    tree(service.uploads, {"photos": {"a.jpg": 10}})
    text = "[photos]\nsource = 'photos'\ndest = 'told-of'\nretries = 0\nevery = '1s'\n"
    text += f"notify = ['{receiver.url('hook/very-secret')}']\n"
    nightly.write(text)
    (service.uploads / "photos" / "closed").mkdir(mode=0)
    service.start()
    first = nightly.wait("photos", lambda view: len(view["runs"]) >= 3 and set(runs(view)) == {"failed"})
    wait_for(lambda: receiver.seen, 10, "the message")
    (service.uploads / "photos" / "closed").rmdir()
    nightly.wait("photos", lambda view: "done" in runs(view))
    wait_for(lambda: len(receiver.seen) >= 2, 10, "the second message")
    assert receiver.events() == [("photos", "failed"), ("photos", "recovered")]
    path, body = receiver.seen[0]
    assert path == "/hook/very-secret"
    failed = service.show(first["runs"][0]["id"])
    assert (body["job"], failed["state"]) == (failed["id"], "failed")
    assert failed["error"]["message"] in body["text"]
    wait_for(lambda: service.show(failed["id"])["notified_at"], 10, "notified_at")
    everything = (
        service.output() + service.get("/mirrors").body.decode() + service.get("/metrics").body.decode()
    )
    for file in service.jobs.iterdir():
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a job writes and replaces files
            everything += file.read_text(errors="replace")
    assert "very-secret" not in everything
    wait_for(lambda: b'result="sent"} 2.0' in service.get("/metrics").body, 10, "the count")


def test_a_job_that_waits_stops_the_schedule_until_it_is_approved(
    nightly: Nightly, receiver: Receiver, juicefs: Store
) -> None:
    service = nightly.service
    folder = tree(service.uploads / "photos", {f"{n}.jpg": 10 for n in range(4)})
    text = "[photos]\nsource = 'photos'\ndest = 'approved'\nmax_delete = '1'\nevery = '1s'\n"
    nightly.write(text + f"notify = ['{receiver.url('hook')}']\n")
    service.start()
    nightly.wait("photos", lambda view: "done" in runs(view))
    for number in range(2):
        (folder / f"{number}.jpg").unlink()
    view = nightly.wait("photos", lambda view: view["last_state"] == "waiting")
    job = view["last_job"]
    wait_for(lambda: receiver.events() == [("photos", "waiting")], 20, "the message")
    assert job in receiver.seen[0][1]["text"]
    view = nightly.wait("photos", lambda view: view["next_run_at"] is None)
    assert job in view["error"]
    assert service.get("/healthz", mirror="photos").status == 200
    waited = len(service.ids())
    time.sleep(3)  # three times of its schedule
    assert len(service.ids()) == waited
    assert len(contents(juicefs, "approved")) == 4
    assert service.get("/approve", id=job).status == 202
    wait_for(lambda: receiver.events()[1:] == [("photos", "recovered")], 30, "the second message")
    assert len(contents(juicefs, "approved")) == 2
    nightly.wait("photos", lambda view: view["next_run_at"] is not None and view["last_job"] > job)
    assert receiver.events() == [("photos", "waiting"), ("photos", "recovered")]


def test_a_message_is_tried_three_times_with_growing_pauses_and_no_redirect_is_followed(
    nightly: Nightly, receiver: Receiver
) -> None:
    service = nightly.service
    receiver.answers = [503, 302, 200]
    text = "[photos]\nsource = 'photos'\ndest = 'never-run'\nmax_age = '1s'\n"
    nightly.write(text + f"notify = ['http://user:pass-word@127.0.0.1:{receiver.port}/x?y=1']\n")
    service.start()
    wait_for(lambda: len(receiver.seen) >= 3, 40, "three tries")
    assert {path for path, _ in receiver.seen} == {"/x?y=1"}
    assert receiver.events() == [("photos", "overdue")] * 3
    assert "there has been no success yet" in receiver.seen[0][1]["text"]
    first, second = (
        later - sooner for sooner, later in zip(receiver.times, receiver.times[1:], strict=False)
    )
    assert second > first >= 2
    assert receiver.headers[0]["authorization"].startswith("Basic ")
    assert "pass-word" not in service.output()
    health = service.get("/healthz", mirror="photos")
    assert (health.status, health.problem["code"]) == (503, "MirrorOverdue")
    wait_for(lambda: b'result="sent"} 1.0' in service.get("/metrics").body, 10, "the count")
    assert len(receiver.seen) == 3


def test_link_local_addresses_are_never_connected_to(nightly: Nightly, receiver: Receiver) -> None:
    from syncworker.mirrors import notify

    for host in ("169.254.169.254", "[fe80::1]", "0xA9FEA9FE", "[::ffff:169.254.169.254]", "100.100.100.200"):
        with pytest.raises(notify.Refused):
            notify.post(f"http://{host}/latest", b"{}")
    assert notify.post(receiver.url("direct"), b"{}") == 200

"""The HTTP server: takes the port, connects its parts, and stops them again. `make run` starts it.

`web/operations.py` has the table of routes. Stopping the server stops no job.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable

import bottle

from syncworker import paths, settings
from syncworker.errors import FatalError, UsageError
from syncworker.history.ledger import Ledger
from syncworker.jobs import cleanup
from syncworker.jobs.store import Jobs
from syncworker.mirrors.file import MirrorFile
from syncworker.mirrors.keeper import Keeper
from syncworker.service import api_token, embedded_store
from syncworker.service import supervisor as supervision
from syncworker.service.folder_sizes import Folders
from syncworker.service.storage_check import StorageCheck, connect
from syncworker.service.supervisor import Supervisor
from syncworker.settings import Settings
from syncworker.system import durable_files, folder_events, processes, std_streams
from syncworker.web import http_server, middleware
from syncworker.web.app import application
from syncworker.web.context import Service
from syncworker.web.metrics import Metrics
from syncworker.web.rendered import Statuses
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.proxy import proxy_of

log = logging.getLogger("server")


def main() -> int:
    """Returns the exit status: 0 after SIGTERM or SIGINT, 2 if something must be changed before the start."""
    std_streams.secure()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full queue is not worth a line a request
    try:
        return _serve()
    except (UsageError, FatalError) as error:
        sys.stderr.write(f"server: {error}\n")
    except OSError as error:  # a folder that cannot be made or written to
        where = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"server: cannot start: {error.strerror or error}{where}\n")
    return 2


def _serve() -> int:
    config = settings.load()
    middleware.check_exposure(config)
    try:  # the port first, so that a second server ends before it touches anything
        server = http_server.Server(config.api_host, config.api_port)
    except (OSError, ValueError) as error:
        raise UsageError("CannotListen", _why_not_listening(config, error)) from error
    jobs = Jobs(config.jobs_dir)
    jobs.prepare()
    durable_files.self_test(jobs.path)
    server_lock = supervision.acquire_server_lock(jobs)
    if server_lock is None:
        raise UsageError("AlreadyServed", f"another server already serves the jobs in {jobs.path}")
    cleanup.clear(jobs)
    if (events := folder_events.open_events(jobs.path)) is not None:
        jobs.catalog.follow(events.take)
    token = api_token.load(config, paths.PROJECT)
    for warning in (*middleware.warnings(config, token), *settings.misspelt(os.environ)):
        log.warning("%s", warning)
    os.makedirs(config.uploads_dir, exist_ok=True)
    store: embedded_store.Embedded | None = None
    if config.storage_url:
        place = Endpoint.of(config.storage_url, config.aws_region)
        proxy_of(place.scheme, place.host, place.port)  # a wrong proxy setting stops the start, not every job
    else:
        store = embedded_store.Embedded(config)
    spawn = supervision.spawner(jobs, os.environ)
    ledger = Ledger(jobs)
    is_up = store.is_up if store else lambda: True
    supervisor = Supervisor(config, jobs, spawn, store_is_up=is_up, on_prune=ledger.retire)
    closing = threading.Event()
    if store:
        store.start(has_workers=supervisor.has_workers)
    else:
        arguments = (config, supervisor.has_workers_on, closing)
        threading.Thread(target=embedded_store.end_unused, args=arguments, name="unused", daemon=True).start()
    keeper = make_keeper(config, supervisor)
    state = store.state if store else lambda: "external"
    app = make_app(config, supervisor, ledger, keeper, state, token_needed=token is not None)
    processes.on_stop(lambda _name: server.stop())
    supervisor.start()
    keeper.start()
    print_banner(config, token, server.port)
    server.run(middleware.Guard(app, config, token), lambda: events is not None and not events.is_lost)
    closing.set()
    keeper.stop()
    supervisor.stop()
    if store:
        store.close(stop=supervisor.wait_until_idle(0.5))
    server_lock.release()
    return 0


def make_keeper(config: Settings, supervisor: Supervisor) -> Keeper:
    return Keeper(config, supervisor, MirrorFile(config.mirrors_file, config, settings.variables))


def make_app(
    config: Settings,
    supervisor: Supervisor,
    ledger: Ledger,
    keeper: Keeper,
    store: Callable[[], str] = lambda: "external",
    *,
    token_needed: bool = False,
) -> bottle.Bottle:
    """Returns the routes as a WSGI application. It checks no caller: wrap it in `middleware.Guard`."""
    numbers = Metrics(supervisor.jobs, ledger, config, keeper)
    check = StorageCheck(lambda limit: connect(config, limit))
    folders, statuses = Folders(config.uploads_dir), Statuses(supervisor.jobs)
    service = Service(config, supervisor, store, numbers, folders, keeper, token_needed, check, statuses)
    return application(service)


def _why_not_listening(config: Settings, error: Exception) -> str:
    holder = processes.port_holder(config.api_port)
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and holder:
        return f"port {config.api_port} is taken by {holder}: stop that, or set API_PORT to another port"
    return f"cannot listen on {config.api_host} port {config.api_port}: {error}: set API_HOST or API_PORT"


def print_banner(config: Settings, token: str | None, port: int) -> None:
    near = middleware.is_loopback(config.api_host) or config.api_host in middleware.WILDCARDS
    host = "localhost" if near else config.api_host
    url = f"http://{middleware.bracketed(host)}:{port}{config.api_base_path.rstrip('/')}"
    storage = config.storage_url or f"{config.default_storage_url} (embedded, data in {config.storage_dir})"
    print(f"server:  {url}")
    if config.api_host in middleware.WILDCARDS:
        names = ", ".join(sorted(middleware.allowed_hosts(config)))
        print(f"names:   {names} (others are refused: ALLOWED_HOSTS)")
    print(f"uploads: {config.uploads_dir}   jobs: {config.jobs_dir}")
    print(f"storage: {storage}")
    if token and config.api_token != token:  # generated: nobody knows it yet
        print(f"log in:  {url}/login?token={token}")
    elif token:
        print(f"log in:  {url}/login?token=API_TOKEN, or send `Authorization: Bearer API_TOKEN`")
    elif not config.storage_url and Folders(config.uploads_dir).look("")["empty"] is False:
        print(f"try:     {url}/sync   {url}/runnings")
    else:  # a click on /sync would delete a bucket, or change one in somebody's own storage
        print(f"try:     {url}/ (the dashboard)")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

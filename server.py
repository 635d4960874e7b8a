"""The HTTP server: takes the port, wires up what it is made of, and stops it again. `make run` starts it.

What there is to call is the table in `web/routes.py`. Stopping the server stops no job.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

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
    """Exit status: 0 after SIGTERM or SIGINT, 2 when something must be changed before it can start."""
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
    starting = _Starting()
    try:
        server = http_server.Server(starting, config.api_host, config.api_port)
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
    if config.storage_url:
        place = Endpoint.of(config.storage_url, config.aws_region)
        proxy_of(place.scheme, place.host, place.port)  # told now, not by every job
    store = (
        None if config.storage_url else embedded_store.Embedded(config, os.path.join(paths.PROJECT, ".env"))
    )
    spawn = supervision.spawner(jobs, os.environ)
    ledger = Ledger(jobs)
    is_up = store.is_up if store else lambda: True
    supervisor = Supervisor(config, jobs, spawn, store_is_up=is_up, on_prune=ledger.retire)
    if store:
        store.start(has_workers=supervisor.has_workers)
    closing = threading.Event()
    if store is None:
        arguments = (config, supervisor.has_workers_on, closing)
        threading.Thread(target=embedded_store.end_unused, args=arguments, name="unused", daemon=True).start()
    state = store.state if store else lambda: "external"
    keeper = make_keeper(config, supervisor)
    app = make_app(config, supervisor, state, ledger=ledger, keeper=keeper, token_needed=token is not None)
    starting.install(middleware.Guard(app, config, token))
    processes.on_stop(lambda _name: server.stop())
    supervisor.start()
    keeper.start()
    print_banner(config, token, server.port)
    server.run()
    closing.set()
    keeper.stop()
    supervisor.stop()
    if store:
        store.close(stop=supervisor.wait_until_idle(0.5))
    server_lock.release()
    return 0


def make_keeper(config: Settings, supervisor: Supervisor) -> Keeper:
    file = MirrorFile(config.mirrors_file, config, settings.variables)
    return Keeper(config, supervisor, file)


def make_app(
    config: Settings,
    supervisor: Supervisor,
    store: Callable[[], str] = lambda: "external",
    *,
    ledger: Ledger | None = None,
    keeper: Keeper | None = None,
    token_needed: bool = False,
) -> bottle.Bottle:
    """The routes as a WSGI application. It trusts its caller: put `guard.Guard` before it."""
    keeper = keeper or make_keeper(config, supervisor)
    numbers = Metrics(supervisor.jobs, ledger or Ledger(supervisor.jobs), config, keeper)
    check = StorageCheck(lambda limit: connect(config, limit))
    folders, statuses = Folders(config.uploads_dir), Statuses(supervisor.jobs)
    service = Service(config, supervisor, store, numbers, folders, keeper, token_needed, check, statuses)
    return application(service)


class _Starting:
    """The port is taken first, so that a second server finds out before it touches anything; requests are
    answered only after `become`, because nothing accepts connections before `Server.run`."""

    def __init__(self) -> None:
        self._application: middleware.Application | None = None

    def install(self, application: middleware.Application) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if self._application is None:
            raise RuntimeError("a request before the start has ended")
        return self._application(environ, start_response)


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
    if token and config.api_token != token:  # made here: nobody knows it yet
        print(f"log in:  {url}/login?token={token}")
    elif token:
        print(f"log in:  {url}/login?token=API_TOKEN, or send `Authorization: Bearer API_TOKEN`")
    elif not config.storage_url and Folders(config.uploads_dir).look("")["empty"] is False:
        print(f"try:     {url}/sync   {url}/runnings")
    else:  # a click on /sync would delete a bucket, or replace what somebody keeps in a storage of their own
        print(f"try:     {url}/ (the dashboard)")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

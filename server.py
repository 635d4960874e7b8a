"""The HTTP server: parse, call, render. `make run` starts it.

The table of routes is `ROUTES`. A handler gets the parameters of its request, checked against the names that
the table allows, and returns (status, JSON value, headers). It reads and writes job files and nothing else:
it never talks to a store, never waits for a worker, and for a name to resolve two seconds at most.

Who may call is decided before this (`guard`), how much may be sent below it (`http`), and what runs beside it
(`supervisor`). Stopping the server stops no job.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPSConnection
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

import bottle

from syncworker import __version__, index, paths, settings
from syncworker import request as spec
from syncworker.errors import FatalError, SyncError, UsageError
from syncworker.jobs import cleanup, pages
from syncworker.jobs import history as histories
from syncworker.jobs.ledger import Ledger
from syncworker.jobs.pages import ReportReader
from syncworker.jobs.plan_sums import PlanSums
from syncworker.jobs.record import Plan
from syncworker.jobs.status import recorded_state
from syncworker.jobs.status_cache import ID_PATTERN
from syncworker.jobs.store import Conflict, Jobs, NoSuchJob, NoSuchPlan, check_id
from syncworker.mirrors.file import MirrorFile
from syncworker.mirrors.keeper import Keeper
from syncworker.model import RESUMABLE_STATES, State
from syncworker.options import table
from syncworker.service import embedded_store
from syncworker.service import supervisor as supervision
from syncworker.service.storage_check import StorageCheck
from syncworker.service.supervisor import QueueFull, Supervisor
from syncworker.settings import Settings
from syncworker.system import disk_space, durable_files, folder_events, processes, std_streams
from syncworker.system.tls import ca_bundle_of, tls_context
from syncworker.web import dashboard, http_server, metrics, middleware, openapi, parameters, rendered
from syncworker.web.folder_sizes import Folders
from syncworker.web.problem_details import problem, to_json
from syncworker.wire import resolver
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.proxy import proxy_of

NAME = "s3-sync-api"
JSON = {"Content-Type": "application/json"}
JOBS_MAX = 500  # of one answer of /jobs
PACKED_FROM_BYTES = 4096  # of an answer, for clients that take gzip: a history is mostly names
AFTER_MAX = 9_999_999_999  # lines of a report
RESOLVE_SECONDS = 2.0
_RESOLVING = threading.BoundedSemaphore(4)  # fewer than the threads that answer
NOTHING_HERE = "there is nothing at this path: see /openapi.json for what there is"
KNOWN_MAX = 100_000  # objects of an index that are counted for a warning
KEY_IN_ADDRESS = "{} was sent in the address, which browsers and proxies remember: use POST"
log = logging.getLogger("server")


class Unwell(SyncError):
    """What /healthz was asked for is not as it should be."""


Parameters = dict[str, str]
Answer = tuple[int, Mapping[str, Any] | bytes, dict[str, str]]  # bytes: with their Content-Type


@dataclass(frozen=True, slots=True)
class Service:
    """What the handlers work with. `store` says how the storage is: up, starting, down or external."""

    settings: Settings
    supervisor: Supervisor
    store: Callable[[], str]
    metrics: metrics.Metrics
    folders: Folders
    keeper: Keeper
    token_needed: bool
    storage_check: StorageCheck
    statuses: rendered.Statuses
    packed: rendered.Packed = field(default_factory=rendered.Packed)
    reports: ReportReader = field(default_factory=ReportReader)
    plans: PlanSums = field(default_factory=PlanSums)

    @property
    def jobs(self) -> Jobs:
        return self.supervisor.jobs

    @property
    def base_path(self) -> str:
        """What addresses begin with, as clients see them."""
        return self.settings.api_base_path


# -- handlers --------------------------------------------------------------------------------------------


def sync(service: Service, given: Parameters) -> Answer:
    if given.get("mirror"):
        return _sync_mirror(service, given)
    source, dest = given.get("source"), given.get("dest")
    request = spec.parse(
        service.settings,
        source=source,
        dest=dest,
        storage_url=given.get("storage_url"),
        access_key=given.get("access_key"),
        secret_key=given.get("secret_key"),
        session_token=given.get("session_token"),
        asked=given,
    )
    if not service.settings.is_own(request.storage_url):
        _check_storage_url(request.storage_url)
    warnings = spec.warn_of_empty(source, dest) + spec.warn_of_missing(request, service.settings)
    status = service.supervisor.submit(request)
    return 202, status | _warned(warnings), {"Location": f"{service.base_path}get?id={quote(status['id'])}"}


def _sync_mirror(service: Service, given: Parameters) -> Answer:
    """A run of a named mirror, now: all that it needs stands in mirrors.toml."""
    if beside := sorted(name for name, value in given.items() if value and name != "mirror"):
        raise UsageError(
            "BadParameter", f"{beside[0]} cannot stand beside mirror: mirrors.toml says it", param=beside[0]
        )
    status = service.keeper.run(given["mirror"])
    return 202, status, {"Location": f"{service.base_path}get?id={quote(status['id'])}"}


def mirrors(service: Service, _given: Parameters) -> Answer:
    return 200, service.keeper.overview(), {}


def _warned(warnings: list[str]) -> dict[str, str]:
    return {"warning": "; ".join(warnings)} if warnings else {}


def runnings(service: Service, _given: Parameters) -> Answer:
    return 200, rendered.listed(service.statuses.active()), JSON


def get(service: Service, given: Parameters) -> Answer:
    return 200, service.statuses.one(_id(given)).body, JSON


def cancel(service: Service, given: Parameters) -> Answer:
    now = table.one_of("now", 0, 1)(given.get("now") or "0")
    status = service.jobs.cancel(_id(given), now=bool(now))
    service.supervisor.wake()
    return 202, status, {}


def pause(service: Service, given: Parameters) -> Answer:
    return 202, service.jobs.pause(_id(given)), {}


def go_on(service: Service, given: Parameters) -> Answer:
    status = service.jobs.go_on(_id(given))
    service.supervisor.wake()
    return 202, status, {}


def limit(service: Service, given: Parameters) -> Answer:
    jobs = service.jobs
    status = jobs.refuse_ended(_id(given)) if given.get("id") else None
    asked = table.parse({"bandwidth": given.get("bandwidth")})
    if "bandwidth" in asked:
        jobs.set_bandwidth(status["id"] if status else None, asked["bandwidth"])
    return 200, jobs.limits(status, service.settings.bandwidth), {}


def resume(service: Service, given: Parameters) -> Answer:
    job_id = _id(given)
    keys = _keys(service, given, job_id, RESUMABLE_STATES)
    status = service.supervisor.resume(job_id, keys)
    return 202, status, {"Location": f"{service.base_path}get?id={quote(job_id)}"}


def approve(service: Service, given: Parameters) -> Answer:
    job_id = _id(given)
    keys = _keys(service, given, job_id, frozenset({State.WAITING}))
    status = service.supervisor.approve(job_id, keys, given.get("etag") or "")
    return 202, status, {"Location": f"{service.base_path}get?id={quote(job_id)}"}


def _keys(
    service: Service, given: Parameters, job_id: str, states: frozenset[State]
) -> spec.RequestKeys | None:
    """Those of the request, which a job in one of these states needs where it has none of its own."""
    keys = spec.parse_keys(*(given.get(name) for name in KEY_PARAMETERS))
    status = service.jobs.observe(job_id)
    if keys is None and not service.jobs.has_keys(job_id):
        keys = service.keeper.keys_of(status)
    is_own = service.settings.is_own(status["storage_url"])
    needs_keys = recorded_state(status) in states and not is_own
    if keys is None and needs_keys and not service.jobs.has_keys(job_id):
        raise UsageError(
            "MissingParameter",
            f"job {job_id} goes to {status['storage_url']}, which is not the configured storage: give its"
            " access_key and secret_key",
            param="access_key",
        )
    return keys


def _page(service: Service, given: Parameters) -> tuple[list[str], str | None]:
    """The ids of a page of the history, newest first, and where the next one begins."""
    limit = _number("limit", given.get("limit"), 50, 1, JOBS_MAX)
    before = given.get("before") or ""
    if before and not ID_PATTERN.fullmatch(before):
        raise UsageError("BadId", "before must be the id of a job: `next` of the page before", param="before")
    asked = replace(histories.parse(given), before=before)
    service.statuses.active()  # has the ends written down that nobody has noticed yet
    entries = service.jobs.entries()
    fitting = (job_id for job_id in sorted(entries, reverse=True) if asked.takes(job_id, entries[job_id]))
    found = list(islice(fitting, limit + 1))
    return found[:limit], found[limit - 1] if len(found) > limit else None


def history(service: Service, given: Parameters) -> Answer:
    wanted, following = _page(service, given)
    following_text = f',\n  "next": {json.dumps(following)}'
    return 200, rendered.listed(service.statuses.page(wanted), following_text), JSON


def history_tag(service: Service, given: Parameters) -> str:
    """From the files' stamps: a page that nobody has touched is not read again."""
    wanted, following = _page(service, given)
    entries = service.jobs.entries()
    page = [(job_id, entries[job_id].stamp, entries[job_id].told) for job_id in wanted if job_id in entries]
    return _etag(repr((page, following)).encode())


def healthz(service: Service, given: Parameters) -> Answer:
    """Needs no token: what it says of the storage names nothing."""
    if table.one_of("storage", 0, 1)(given.get("storage") or "0"):
        trouble = service.storage_check.trouble()
        if trouble is not None:
            raise Unwell("StorageAway", trouble)
    if given.get("mirror"):
        return _health_of_mirror(service, given["mirror"])
    counts = service.supervisor.counts()
    return (
        200,
        {
            "status": "ok",
            "service": NAME,
            "version": __version__,
            "jobs": {"queued": counts.queued, "running": counts.running},
            "storage": service.store(),
            "storage_space": _room(service),
        },
        {},
    )


def _health_of_mirror(service: Service, name: str) -> Answer:
    """For watchers without a token: it says no more than whether the mirror is overdue."""
    overdue = service.keeper.is_overdue(name)
    if overdue is None:
        raise NotFound("NoSuchMirror", "there is no mirror of this name")
    if overdue:
        raise Unwell("MirrorOverdue", "longer than max_age without a success")
    return 200, {"status": "ok"}, {}


class NotFound(SyncError):
    """What was named is not there."""


def _room(service: Service) -> str | None:
    """`ok`, `low` or `full`: the disk of the embedded storage; None: there is none, or it cannot be asked."""
    config = service.settings
    found = disk_space.look(config.storage_dir) if config.storage_url is None else None
    return found.state if found is not None else None


def folders(service: Service, given: Parameters) -> Answer:
    """For the dashboard's form. What a bucket holds, the index of the last sync tells: no store is asked."""
    value = service.folders.overview() | {
        "chosen": None,
        "filtered": None,
        "bucket": None,
        "bucket_delete": service.settings.bucket_delete,
        "storage_space": _room(service),
    }
    if "source" in given:
        source = spec.parse_source(given["source"], service.settings.uploads_dir)
        value["chosen"] = service.folders.look(source)
    asked: Parameters = {name: text for name, text in given.items() if name in ("exclude", "include")}
    path_filter = table.Options.of_status({"options": table.parse(asked)}).path_filter()
    if path_filter is not None:
        source = spec.parse_source(given.get("source", ""), service.settings.uploads_dir)
        value["filtered"] = service.folders.filtered(source, path_filter)
    if "dest" in given:
        dest = spec.parse_dest(given["dest"])
        url = spec.parse_storage_url(given.get("storage_url"), service.settings)
        path = service.jobs.destination({"storage_url": url, "dest": dest}).index_path
        known = index.count_objects(path, KNOWN_MAX + 1)
        more = known is not None and known > KNOWN_MAX
        value["bucket"] = {"dest": dest, "objects_known": KNOWN_MAX if more else known, "more": more}
    return 200, value, {}


def report(service: Service, given: Parameters) -> Answer:
    """A page of the report; `Link` has the next one."""
    job_id = _known_id(service, given)
    after = _number("after", given.get("after"), 0, 0, AFTER_MAX)
    limit = _number("limit", given.get("limit"), pages.LINES_DEFAULT, 1, pages.LINES_MAX)
    op, q = _operation(given), given.get("q") or ""
    errors = table.one_of("errors", 0, 1)(given.get("errors") or "0")
    path = service.jobs.file(job_id, "report.jsonl")
    page = service.reports.page(path, after=after, limit=limit, op=op, q=q, errors=bool(errors))
    headers = {"Content-Type": "application/x-ndjson"}
    if page.following is not None:
        query = {
            "id": job_id,
            "op": op,
            "q": q,
            "errors": errors or "",
            "after": page.following,
            "limit": limit,
        }
        text = urlencode({name: value for name, value in query.items() if value != ""})
        headers["Link"] = f'<{service.base_path}report?{text}>; rel="next"'
    return 200, page.lines, headers


def _plan_of(service: Service, job_id: str) -> Plan | None:
    status = service.jobs.read(job_id)
    return status.get("plan") if status else None


def plan(service: Service, given: Parameters) -> Answer:
    """A page of the plan; `Link` has the next one."""
    job_id = _known_id(service, given)
    after = _number("after", given.get("after"), 0, 0, AFTER_MAX)
    limit = _number("limit", given.get("limit"), pages.LINES_DEFAULT, 1, pages.LINES_MAX)
    about = _plan_of(service, job_id)
    path = service.jobs.file(job_id, "plan.jsonl")
    if not about or not os.path.isfile(path):
        raise NoSuchPlan(job_id)
    op, q, below = _operation(given), given.get("q") or "", given.get("below") or ""
    try:
        page = service.reports.page(path, after=after, limit=limit, op=op, q=q, below=below)
    except ValueError:  # damaged
        raise NoSuchPlan(job_id) from None
    headers = {"Content-Type": "application/x-ndjson", "ETag": f'"{about["etag"]}"'}
    if page.following is not None:
        kept = {name: text for name, text in (("op", op), ("q", q), ("below", below)) if text}
        query = urlencode({"id": job_id, **kept, "after": page.following, "limit": limit})
        headers["Link"] = f'<{service.base_path}plan?{query}>; rel="next"'
    return 200, page.lines, headers


def planned(service: Service, given: Parameters) -> Answer:
    """A plan by folder; the status's `plan` is read first: a plan that is not whole is none."""
    job_id = _known_id(service, given)
    if not _plan_of(service, job_id):
        raise NoSuchPlan(job_id)
    try:
        return 200, service.plans.look(service.jobs.file(job_id, "plan.jsonl"), given.get("below") or ""), {}
    except (FileNotFoundError, ValueError):
        raise NoSuchPlan(job_id) from None


def log_of_job(service: Service, given: Parameters) -> Answer:
    text = pages.log_tail(service.jobs.file(_known_id(service, given), "log"))
    return 200, text.encode(), {"Content-Type": "text/plain; charset=utf-8"}


def asset(page: dashboard.Page) -> Callable[[Service, Parameters], Answer]:
    return lambda _service, _given: (200, *page.answer(bottle.request.get_header("Accept-Encoding", "")))


def exposition(service: Service, _given: Parameters) -> Answer:
    return 200, service.metrics.render(), {"Content-Type": metrics.CONTENT_TYPE}


def description(service: Service, _given: Parameters) -> Answer:
    return 200, openapi.document(token_needed=service.token_needed, base_path=service.base_path), {}


@dataclass(frozen=True, slots=True)
class Route:
    """`acts`: a HEAD, which browsers and link checkers send unasked, must not reach it.

    `conditional`: the answer carries an ETag, and `If-None-Match` is heeded. `tag` tells that ETag before the
    answer is made, where that is cheaper; what it is made of is read before the answer, so that an ETag may
    be older than its answer and never newer.
    """

    path: str
    handler: Callable[[Service, Parameters], Answer]
    parameters: tuple[str, ...]
    acts: bool
    conditional: bool = False
    tag: Callable[[Service, Parameters], str] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "POST") if self.acts else ("GET", "HEAD", "POST")


KEY_PARAMETERS = spec.RequestKeys._fields
SYNC_PARAMETERS = ("source", "dest", "storage_url", *KEY_PARAMETERS, *table.NAMES, "mirror")
HISTORY_PARAMETERS = ("state", "limit", "before", "dest", "source", "mirror", "since", "until", "q")
ROUTES = (
    Route("/sync", sync, SYNC_PARAMETERS, acts=True),
    Route("/runnings", runnings, (), acts=False, conditional=True),
    Route("/get", get, ("id",), acts=False, conditional=True),
    Route("/cancel", cancel, ("id", "now"), acts=True),
    Route("/pause", pause, ("id",), acts=True),
    Route("/continue", go_on, ("id",), acts=True),
    Route("/limit", limit, ("id", "bandwidth"), acts=True),
    Route("/resume", resume, ("id", *KEY_PARAMETERS), acts=True),
    Route("/approve", approve, ("id", "etag", *KEY_PARAMETERS), acts=True),
    Route("/plan", plan, ("id", "op", "q", "below", "after", "limit"), acts=False, conditional=True),
    Route("/plan/sums", planned, ("id", "below"), acts=False),
    Route("/jobs", history, HISTORY_PARAMETERS, acts=False, conditional=True, tag=history_tag),
    Route("/report", report, ("id", "op", "q", "errors", "after", "limit"), acts=False),
    Route("/log", log_of_job, ("id",), acts=False),
    Route("/mirrors", mirrors, (), acts=False, conditional=True),
    Route("/healthz", healthz, ("storage", "mirror"), acts=False),
    Route(
        "/folders",
        folders,
        ("source", "dest", "storage_url", "exclude", "include"),
        acts=False,
        conditional=True,
    ),
    Route("/metrics", exposition, (), acts=False),
    Route("/openapi.json", description, (), acts=False, conditional=True),
    *(Route(path, asset(page), (), False, conditional=True) for path, page in dashboard.PAGES.items()),
)

# -- parameters -------------------------------------------------------------------------------------------


def _id(given: Parameters) -> str:
    if not given.get("id"):
        raise UsageError("MissingParameter", "id is missing: the id of a job", param="id")
    return check_id(given["id"])


def _operation(given: Parameters) -> str:
    op = given.get("op") or ""
    if op and op not in openapi.REPORTED:
        raise UsageError("BadOperation", f"op must be one of {', '.join(openapi.REPORTED)}", param="op")
    return op


def _known_id(service: Service, given: Parameters) -> str:
    """Of a job that there is."""
    job_id = _id(given)
    if service.jobs.read(job_id) is None:
        raise NoSuchJob(job_id)
    return job_id


def _number(name: str, text: str | None, default: int, low: int, high: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
        raise UsageError("BadNumber", f"{name} must be a whole number from {low} to {high}", param=name)
    return int(text)


def _check_storage_url(url: str) -> None:
    """`resolver.check_storage_url` with an end: a name server that does not answer blocks its own thread. A
    name that is not resolved in time is let through; the worker checks what it connects to. Only a few names
    at a time: who names slow ones keeps no other request waiting."""
    if not _RESOLVING.acquire(blocking=False):
        raise SyncError("Busy", "the names of other storages are still being looked up: try again")
    refused: list[UsageError] = []

    def check() -> None:
        try:
            resolver.check_storage_url(url)
        except UsageError as error:
            refused.append(error)
        finally:
            _RESOLVING.release()

    thread = threading.Thread(target=check, name="resolve", daemon=True)
    thread.start()
    thread.join(RESOLVE_SECONDS)
    if refused:
        raise refused[0]


def _connection(config: Settings, limit: float) -> tuple[HTTPConnection, str, dict[str, str]]:
    """A way to the configured storage, as a worker would take it: the same proxy, the same certificates. What
    to ask for there, and with which headers."""
    place = Endpoint.of(config.default_storage_url, config.aws_region)
    proxy = proxy_of(place.scheme, place.host, place.port) if config.storage_url else None
    host, port = (proxy.host, proxy.port) if proxy else (place.host, place.port)
    headers = {"Host": place.host_header(place.host)}
    target = f"{place.base_path}/"
    to_proxy = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
    if place.scheme == "http":
        connection = HTTPConnection(host, port, timeout=limit)
        return connection, place.url + "/" if proxy else target, headers | to_proxy
    context = tls_context(ca_bundle_of())
    secured = HTTPSConnection(host, port, timeout=limit, context=context)
    if proxy:
        secured.set_tunnel(place.host, place.port, headers=to_proxy)
    return secured, target, headers


# -- answers ---------------------------------------------------------------------------------------------


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _is_known(etag: str, if_none_match: str) -> bool:
    """Weak comparison, as RFC 9110 has it for If-None-Match; proxies that compress make an ETag weak."""
    known = [item.strip().removeprefix("W/") for item in if_none_match.split(",")]
    return etag in known or "*" in known


def _problem_of(error: SyncError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, members besides detail and code, headers) of an error."""
    match error:
        case NoSuchJob() | NoSuchPlan() | NotFound():
            return 404, {}, {}
        case Conflict():
            return 409, {"job": error.job}, {}
        case QueueFull() | Unwell():
            return 503, {}, {"Retry-After": "10"}
        case parameters.UnsupportedBody():
            return 415, {}, {}
        case parameters.BodyTooLong():
            return 413, {}, {}
        case UsageError():
            return 400, {"param": error.param}, {}
        case _ if error.code == "Busy":
            return 503, {}, {"Retry-After": "1"}
    return 500, {}, {}


def _error(status: int, code: str, detail: str, headers: dict[str, str], **more: Any) -> bottle.HTTPResponse:
    body, line, fields = problem(status, code, detail, **more)
    return bottle.HTTPResponse(body, line, headers=dict(fields) | headers)


def _call(service: Service, route: Route) -> bottle.HTTPResponse:
    environ = bottle.request.environ
    method = environ["REQUEST_METHOD"]
    if environ["bottle.raw_path"] != route.path:  # Bottle leaves out what is no UTF-8, and takes /%ff for /
        return _error(404, "NotFound", NOTHING_HERE, {})
    if method not in route.methods:
        allow = ", ".join(route.methods)
        detail = f"{method[:20]} is not allowed on {route.path}: use {allow}"
        return _error(405, "MethodNotAllowed", detail, {"Allow": allow})
    try:
        given = parameters.of_request(environ, route.parameters)
        known = environ.get("HTTP_IF_NONE_MATCH") if method != "POST" else None
        etag = route.tag(service, given) if route.tag else None
        if etag and known and _is_known(etag, known):
            return bottle.HTTPResponse(b"", 304, headers={"ETag": etag})
        status, value, headers = route.handler(service, given)
    except SyncError as error:
        number, more, headers = _problem_of(error)
        if number == 500:
            log.error("%s: %s", route.path, error, exc_info=True)
        return _error(number, error.code, error.message, headers, **more)
    except OSError as error:
        log.error("%s: %s", route.path, error, exc_info=True)
        why = error.strerror or "input or output failed"
        return _error(500, "JobsDirectoryFailed", f"the folder of job files cannot be used: {why}", {})
    if not isinstance(value, bytes):
        query = environ.get("QUERY_STRING", "") if method == "GET" else ""
        if sent := [name for name in ("secret_key", "session_token") if f"{name}=" in query]:
            warnings = [*filter(None, [value.get("warning")]), KEY_IN_ADDRESS.format(sent[0])]
            value = {**value, **_warned(warnings)}
        value, headers = to_json(value), JSON | headers
    if route.conditional:
        headers = {"ETag": etag or _etag(value)} | headers
        if known and _is_known(headers["ETag"], known):
            # A browser replaces what it has kept of these by what a 304 says, and by the guard's own policy
            # when it says nothing.
            names = ("ETag", "Cache-Control", "Vary", "Content-Security-Policy")
            kept = {name: headers[name] for name in names if name in headers}
            return bottle.HTTPResponse(b"", 304, headers=kept)
    if len(value) >= PACKED_FROM_BYTES and "Content-Encoding" not in headers:
        headers = {"Vary": "Accept-Encoding"} | headers
        if dashboard.accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")):
            value = service.packed.of(value)
            headers["Content-Encoding"] = "gzip"
    return bottle.HTTPResponse(value, status, headers=headers)


def _unrouted(error: bottle.HTTPError) -> bytes:
    """What Bottle itself finds: an unknown path, a path that is no UTF-8, an exception in a handler."""
    details = {
        404: NOTHING_HERE,
        400: "the path is not valid UTF-8",
        500: "something went wrong here: the server's log says what",
    }
    status = error.status_code
    code = {404: "NotFound", 400: "BadRequest", 405: "MethodNotAllowed"}.get(status, "InternalError")
    body, _, fields = problem(status, code, details.get(status, "the request cannot be answered"))
    for name, value in fields:
        bottle.response.set_header(name, value)
    return body


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
    numbers = metrics.Metrics(
        supervisor.jobs,
        ledger or Ledger(supervisor.jobs),
        max_running=config.max_running_jobs,
        storage_dir=None if config.storage_url else config.storage_dir,
        max_queued=config.max_queued_jobs,
        is_own=config.is_own,
        keeper=keeper,
    )
    check = StorageCheck(lambda limit: _connection(config, limit))
    folders, statuses = Folders(config.uploads_dir), rendered.Statuses(supervisor.jobs)
    service = Service(config, supervisor, store, numbers, folders, keeper, token_needed, check, statuses)
    app = bottle.Bottle()
    app.default_error_handler = _unrouted
    for route in ROUTES:
        app.route(route.path, method="ANY", callback=lambda route=route: _call(service, route))
    return app


# -- start and stop --------------------------------------------------------------------------------------


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
    application = _Starting()
    try:
        server = http_server.Server(application, config.api_host, config.api_port)
    except (OSError, ValueError) as error:
        raise UsageError("CannotListen", _why_not_listening(config, error)) from error
    jobs = Jobs(config.jobs_dir)
    jobs.prepare()
    durable_files.self_test(jobs.path)
    right = supervision.serve_alone(jobs)
    if right is None:
        raise UsageError("AlreadyServed", f"another server already serves the jobs in {jobs.path}")
    cleanup.clear(jobs)
    if (events := folder_events.open_events(jobs.path)) is not None:
        jobs.follow(events.take)
    token = middleware.load_token(config, paths.PROJECT)
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
    supervisor = Supervisor(config, jobs, spawn, store_is_up=is_up, retire=ledger.retire)
    if store:
        store.start(has_workers=supervisor.has_workers)
    closing = threading.Event()
    if store is None:
        arguments = (config, supervisor.has_workers_on, closing)
        threading.Thread(target=embedded_store.end_unused, args=arguments, name="unused", daemon=True).start()
    state = store.state if store else lambda: "external"
    keeper = make_keeper(config, supervisor)
    app = make_app(config, supervisor, state, ledger=ledger, keeper=keeper, token_needed=token is not None)
    application.become(middleware.Guard(app, config, token))
    processes.on_stop(lambda _name: server.stop())
    supervisor.start()
    keeper.start()
    _greet(config, token, server.port)
    server.run()
    closing.set()
    keeper.stop()
    supervisor.stop()
    if store:
        store.close(stop=supervisor.rests(0.5))
    right.release()
    return 0


class _Starting:
    """The port is taken first, so that a second server finds out before it touches anything; requests are
    answered only after `become`, because nothing accepts connections before `Server.run`."""

    def __init__(self) -> None:
        self._application: middleware.Application | None = None

    def become(self, application: middleware.Application) -> None:
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


def _greet(config: Settings, token: str | None, port: int) -> None:
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

"""The table of routes: what there is to call, and what each takes.

A handler gets the parameters of its request, checked against the names that the table allows, and returns
(status, JSON value or bytes, headers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from syncworker.options import table
from syncworker.web import dashboard
from syncworker.web.context import Answer, Parameters, Service
from syncworker.web.handlers_act import KEY_PARAMETERS, approve, cancel, go_on, limit, pause, resume, sync
from syncworker.web.handlers_read import (
    get,
    history,
    history_tag,
    log_of_job,
    plan,
    planned,
    report,
    runnings,
)
from syncworker.web.handlers_site import asset, description, exposition, folders, healthz, mirrors

SYNC_PARAMETERS = ("source", "dest", "storage_url", *KEY_PARAMETERS, *table.NAMES, "mirror")
HISTORY_PARAMETERS = ("state", "limit", "before", "dest", "source", "mirror", "since", "until", "q")


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
ACTING_PATHS = frozenset(route.path for route in ROUTES if route.acts)

"""The routes: the handler of each operation of `operations.OPERATIONS`, which says what it takes.

A handler gets the parameters of its request, checked against the names that the table allows, and returns
(status, JSON value or bytes, headers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from syncworker.web import dashboard
from syncworker.web import handlers_act as act
from syncworker.web import handlers_read as read
from syncworker.web import handlers_site as site
from syncworker.web.context import Answer, Parameters, Service
from syncworker.web.operations import OPERATIONS

Handler = Callable[[Service, Parameters], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """`acts`: a HEAD, which browsers and link checkers send unasked, must not reach it.

    `conditional`: the answer has an ETag, and `If-None-Match` is obeyed. `tag` computes that ETag before the
    answer where that is cheaper; it reads its data before the answer does, so an ETag may be older than its
    answer, but never newer.
    """

    path: str
    handler: Handler
    parameters: tuple[str, ...]
    acts: bool
    conditional: bool = False
    tag: Callable[[Service, Parameters], str] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "POST") if self.acts else ("GET", "HEAD", "POST")


HANDLERS: dict[str, Handler] = {
    "/sync": act.sync,
    "/runnings": read.runnings,
    "/get": read.get,
    "/cancel": act.cancel,
    "/pause": act.pause,
    "/continue": act.go_on,
    "/limit": act.limit,
    "/resume": act.resume,
    "/approve": act.approve,
    "/plan": read.plan,
    "/plan/sums": read.planned,
    "/jobs": read.history,
    "/report": read.report,
    "/log": read.log_of_job,
    "/mirrors": site.mirrors,
    "/healthz": site.healthz,
    "/folders": site.folders,
    "/metrics": site.exposition,
    "/openapi.json": site.description,
    **{path: site.asset(page) for path, page in dashboard.PAGES.items()},
}
_TAGS = {"/jobs": read.history_tag}
ROUTES = tuple(
    Route(path, HANDLERS[path], said.parameters, said.acts, said.conditional, _TAGS.get(path))
    for path, said in OPERATIONS.items()
)
ACTING_PATHS = frozenset(route.path for route in ROUTES if route.acts)

"""The handler of each operation of `operations.OPERATIONS`.

A handler gets the parameters of its request, whose names were checked, and returns (status, JSON value or
bytes, headers).
"""

from __future__ import annotations

from collections.abc import Callable

from syncworker.web import dashboard
from syncworker.web import handlers_act as act
from syncworker.web import handlers_read as read
from syncworker.web import handlers_site as site
from syncworker.web.context import Answer, Parameters, Service

HANDLERS: dict[str, Callable[[Service, Parameters], Answer]] = {
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
# Computes the ETag before the answer, where that is cheaper. It reads its data before the answer does, so an
# ETag may be older than its answer, but never newer.
TAGS: dict[str, Callable[[Service, Parameters], str]] = {"/jobs": read.history_tag}

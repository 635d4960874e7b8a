"""The routes that act: each returns the job's new status, and leaves the work to the job's worker.

They write job files and nothing else. They never talk to a store or wait for a worker, and wait two seconds
at most for a name to be resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from syncworker import request as spec
from syncworker.errors import UsageError
from syncworker.jobs import bandwidth
from syncworker.jobs.status import recorded_state
from syncworker.model import RESUMABLE_STATES, State
from syncworker.options import table
from syncworker.service import storage_check
from syncworker.web import parameters
from syncworker.web.context import Answer, Parameters, Service
from syncworker.web.operations import KEYS


def sync(service: Service, given: Parameters) -> Answer:
    if given.get("mirror"):
        return _sync_mirror(service, given)
    source, dest, url = given.get("source"), given.get("dest"), given.get("storage_url")
    keys = spec.parse_keys(*map(given.get, KEYS))
    request = spec.parse(service.settings, source=source, dest=dest, storage_url=url, keys=keys, asked=given)
    if not service.settings.is_own(request.storage_url):
        storage_check.check_storage_url(request.storage_url)
    warnings = spec.warn_of_empty(source, dest) + spec.warn_of_missing(request, service.settings)
    status = service.supervisor.submit(request)
    return _accepted(service, status | warned(warnings))


def _sync_mirror(service: Service, given: Parameters) -> Answer:
    """Starts a run of a named mirror; mirrors.toml has everything it needs."""
    if beside := sorted(name for name, value in given.items() if value and name != "mirror"):
        raise UsageError(
            "BadParameter",
            f"{beside[0]} cannot be combined with mirror: mirrors.toml sets it",
            param=beside[0],
        )
    return _accepted(service, service.keeper.run(given["mirror"]))


def _accepted(service: Service, status: Mapping[str, Any]) -> Answer:
    """Answers with a job that was queued."""
    return 202, status, {"Location": f"{service.settings.api_base_path}get?id={quote(status['id'])}"}


def cancel(service: Service, given: Parameters) -> Answer:
    now = table.zero_or_one("now", given.get("now") or "0")
    status = service.jobs.cancel(parameters.job_id(given), now=bool(now))
    service.supervisor.wake()
    return 202, status, {}


def pause(service: Service, given: Parameters) -> Answer:
    return 202, service.jobs.pause(parameters.job_id(given)), {}


def go_on(service: Service, given: Parameters) -> Answer:
    status = service.jobs.go_on(parameters.job_id(given))
    service.supervisor.wake()
    return 202, status, {}


def limit(service: Service, given: Parameters) -> Answer:
    job_id = parameters.job_id(given) if given.get("id") else None
    return 200, bandwidth.change(service.jobs, job_id, given.get("bandwidth"), service.settings.bandwidth), {}


def resume(service: Service, given: Parameters) -> Answer:
    job_id = parameters.job_id(given)
    keys = _keys(service, given, job_id, RESUMABLE_STATES)
    return _accepted(service, service.supervisor.resume(job_id, keys))


def approve(service: Service, given: Parameters) -> Answer:
    job_id = parameters.job_id(given)
    keys = _keys(service, given, job_id, frozenset({State.WAITING}))
    return _accepted(service, service.supervisor.approve(job_id, keys, given.get("etag") or ""))


def _keys(
    service: Service, given: Parameters, job_id: str, states: frozenset[State]
) -> spec.RequestKeys | None:
    """Returns the keys for a job: the request's, or those of its mirror if none are stored. Raises UsageError
    if a job in one of these states needs keys and has none."""
    keys = spec.parse_keys(*map(given.get, KEYS))
    status = service.jobs.observe(job_id)
    if keys is not None or service.jobs.secrets.has_any(job_id):
        return keys
    keys = service.keeper.keys_of(status)
    is_own = service.settings.is_own(status["storage_url"])
    if keys is None and recorded_state(status) in states and not is_own:
        raise UsageError(
            "MissingParameter",
            f"job {job_id} goes to {status['storage_url']}, which is not the configured storage: give its"
            " access_key and secret_key",
            param="access_key",
        )
    return keys


def warned(warnings: list[str]) -> dict[str, str]:
    return {"warning": "; ".join(warnings)} if warnings else {}

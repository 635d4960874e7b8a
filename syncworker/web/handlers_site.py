"""The routes about the service itself: health, folders, mirrors, metrics, pages, description."""

from __future__ import annotations

from collections.abc import Callable

import bottle

from syncworker import __version__
from syncworker import request as spec
from syncworker.index.rows import count_objects
from syncworker.options import table
from syncworker.options.effective import Options
from syncworker.system import disk_space
from syncworker.web import dashboard, metrics, openapi
from syncworker.web.context import Answer, NotFound, Parameters, Service, Unwell

NAME = "s3-sync-api"
KNOWN_MAX = 100_000  # objects of an index that are counted for the form's warning


def healthz(service: Service, given: Parameters) -> Answer:
    """Needs no token, so it names neither the storage nor its address."""
    asked = table.zero_or_one("storage", given.get("storage") or "0")
    if asked and (trouble := service.storage_check.trouble()) is not None:
        raise Unwell("StorageAway", trouble)
    if given.get("mirror"):
        return _health_of_mirror(service, given["mirror"])
    health = {
        "status": "ok",
        "service": NAME,
        "version": __version__,
        "jobs": service.supervisor.counts(),
        "storage": service.store(),
        "storage_space": _room(service),
    }
    return 200, health, {}


def _health_of_mirror(service: Service, name: str) -> Answer:
    """Answers monitors that have no token, so it says only whether the mirror is overdue."""
    overdue = service.keeper.is_overdue(name)
    if overdue is None:
        raise NotFound("NoSuchMirror", "there is no mirror of this name")
    if overdue:
        raise Unwell("MirrorOverdue", "longer than max_age without a success")
    return 200, {"status": "ok"}, {}


def _room(service: Service) -> str | None:
    """Returns `ok`, `low` or `full` for the embedded storage's disk; None if there is none or it cannot be
    read."""
    config = service.settings
    found = disk_space.look(config.storage_dir) if config.storage_url is None else None
    return found.state if found is not None else None


def mirrors(service: Service, _given: Parameters) -> Answer:
    return 200, service.keeper.overview(), {}


def folders(service: Service, given: Parameters) -> Answer:
    """Answers the dashboard's form. The number of objects comes from the last sync's index, not from the
    store."""
    value = service.folders.overview() | {
        "chosen": None,
        "filtered": None,
        "bucket": None,
        "bucket_delete": service.settings.bucket_delete,
        "storage_space": _room(service),
    }
    source = spec.parse_source(given.get("source", ""), service.settings.uploads_dir)
    if "source" in given:
        value["chosen"] = service.folders.look(source)
    asked: Parameters = {name: text for name, text in given.items() if name in ("exclude", "include")}
    path_filter = Options.of_status({"options": table.parse(asked)}).path_filter()
    if path_filter is not None:
        value["filtered"] = service.folders.filtered(source, path_filter)
    if "dest" in given:
        dest = spec.parse_dest(given["dest"])
        place = {"storage_url": spec.parse_storage_url(given.get("storage_url"), service.settings)}
        known = count_objects(service.jobs.destination({**place, "dest": dest}).index_path, KNOWN_MAX + 1)
        more = known is not None and known > KNOWN_MAX
        value["bucket"] = {"dest": dest, "objects_known": KNOWN_MAX if more else known, "more": more}
    return 200, value, {}


def asset(page: dashboard.Page) -> Callable[[Service, Parameters], Answer]:
    return lambda _service, _given: (200, *page.answer(bottle.request.get_header("Accept-Encoding", "")))


def exposition(service: Service, _given: Parameters) -> Answer:
    return 200, service.metrics.render(), {"Content-Type": metrics.CONTENT_TYPE}


def description(service: Service, _given: Parameters) -> Answer:
    base_path = service.settings.api_base_path
    return 200, openapi.document(token_needed=service.token_needed, base_path=base_path), {}

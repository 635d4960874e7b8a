"""The options that an attempt acts on: read from the status, with defaults for those that are absent.

`table` has the options that may be given and how they are checked. Reads no clock, file or socket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from syncworker.ending import EQUAL
from syncworker.options.object_headers import OPTION_HEADERS, ObjectHeaders
from syncworker.system.rates import parse_rate

if TYPE_CHECKING:
    from syncworker.options.patterns import PathFilter

DEEP = "deep"


class Options(NamedTuple):
    """One field for each row of TABLE that the engine acts on."""

    prefix: str = ""
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    delete: bool = True
    forget_mounts: bool = False
    bandwidth: int = 0  # bytes a second, 0 for no limit
    storage_class: str = ""
    acl: str = ""
    sse: str = ""
    sse_kms_key_id: str = ""
    tags: str = ""
    header: tuple[str, ...] = ()
    verify: int | str = 0  # 1, or DEEP
    scope: tuple[str, ...] | None = None  # the only folders that are mirrored; "" is all of the source
    plan: bool = False  # a plan is to be made; False once it was approved
    max_delete: int | str = ""

    @classmethod
    def of_status(cls, status: Mapping[str, Any]) -> Options:
        asked = status.get("options") or {}
        is_approved = bool((status.get("plan") or {}).get("approved_at"))
        # What the first attempt of a plan planned with, the attempt after its approval acts on.
        acting = 2 if is_approved and asked.get("plan") == 1 else 1
        rest: dict[str, Any] = {
            name: asked.get(name, "") for name in ("prefix", "max_delete", *OPTION_HEADERS)
        }
        rest |= {name: tuple(asked.get(name, ())) for name in ("exclude", "include", "header")}
        return cls(
            delete=asked.get("delete", 1) == 1,
            forget_mounts=asked.get("forget_mounts") == 1 and status.get("attempt") == acting,
            verify=asked.get("verify", 0),
            scope=None if status.get("scope") is None else tuple(status["scope"]),
            plan=asked.get("plan") == 1 and not is_approved,
            bandwidth=parse_rate(str(asked.get("bandwidth", 0))),
            **rest,
        )

    @property
    def is_partial(self) -> bool:
        """Whether the mirror covers only a part of the bucket; then the bucket is never deleted."""
        return self.scope is not None or bool(self.prefix or self.exclude or self.include or not self.delete)

    @property
    def equal(self) -> str:
        """Returns what is true of the bucket when a sync with these options is done."""
        if not self.delete:
            return "all of the folder is in the bucket, and nothing was deleted"
        if self.scope is not None:
            return "what has changed in the folder is mirrored"
        if self.exclude or self.include:
            return "the files that the filters select are mirrored"
        return f"everything below {self.prefix} equals the folder" if self.prefix else EQUAL

    @property
    def only_verifies(self) -> bool:
        """Whether the job is a pure check: `plan` and `verify` together."""
        return self.plan and bool(self.verify)

    def without_scope(self) -> Options:
        """Returns the options of the whole mirror."""
        return self._replace(scope=None) if scope_lines(self.scope or ()) else self

    @property
    def is_filtered(self) -> bool:
        return bool(self.exclude or self.include or scope_lines(self.scope or ()))

    def path_filter(self) -> PathFilter | None:
        if not self.is_filtered:
            return None
        from syncworker.options.patterns import PathFilter

        return PathFilter(list(self.include), list(self.exclude), scope_lines(self.scope or ()))

    def object_headers(self) -> ObjectHeaders:
        asked = {name: getattr(self, name) for name in OPTION_HEADERS}
        return ObjectHeaders(header=self.header, **asked)


DEFAULTS = Options()


def scope_lines(scope: Sequence[str]) -> list[str]:
    """Returns lines of .gitignore that exclude everything outside these folders; none for ""."""
    if not scope or "" in scope:
        return []
    lines: list[str] = []
    opened: set[str] = set()
    for folder in sorted(scope, key=lambda each: each.split("/")):
        parts = folder.split("/")
        for depth in range(len(parts)):
            path = "/".join(parts[:depth])
            if path in opened:
                continue
            opened.add(path)
            literal = _literal(path)
            lines += [f"!/{literal}/", f"/{literal}/*"] if path else ["/*"]
        lines.append(f"!/{_literal(folder)}/")
    return lines


def _literal(path: str) -> str:
    """Returns a pattern that matches only this path."""
    return re.sub(r"([\\*?\[\] !#])", r"\\\1", path)


def exceeds(limit: int | str, deletions: int, listed: int) -> bool:
    """Returns whether this many deletions, of this many listed objects, exceed `max_delete`."""
    if isinstance(limit, int):
        return deletions > limit
    if not limit.endswith("%"):
        return False
    from fractions import Fraction  # imported late: rarely needed

    return 100 * deletions > Fraction(limit[:-1]) * listed

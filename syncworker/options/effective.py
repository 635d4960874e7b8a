"""The options as an attempt acts on them: read from the status, with what their absence means.

What may be asked, and how it is checked, is in `table`. Reads no clock, file or socket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from syncworker.ending import EQUAL
from syncworker.options.object_headers import ObjectHeaders
from syncworker.system.rates import parse_rate

if TYPE_CHECKING:
    from fractions import Fraction

    from syncworker.options.patterns import PathFilter

DEEP = "deep"
_OF_OBJECTS = ("storage_class", "acl", "sse", "sse_kms_key_id", "tags")


class Options(NamedTuple):
    """The options of an attempt: one field for each row of TABLE that the engine acts on."""

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
    scope: tuple[str, ...] | None = None  # the folders that alone are looked at; "" is all of the source
    plan: bool = False  # to be made; no more once it was approved
    max_delete: int | str = ""

    @classmethod
    def of_status(cls, status: Mapping[str, Any]) -> Options:
        asked = status.get("options") or {}
        scope = None if status.get("scope") is None else tuple(status["scope"])
        is_approved = bool((status.get("plan") or {}).get("approved_at"))
        # Of a plan, what the first attempt planned with, the one after its approval carries out with.
        acting = 2 if is_approved and asked.get("plan") == 1 else 1
        return cls(
            prefix=asked.get("prefix", ""),
            exclude=tuple(asked.get("exclude", ())),
            include=tuple(asked.get("include", ())),
            delete=asked.get("delete", 1) == 1,
            forget_mounts=asked.get("forget_mounts") == 1 and status.get("attempt") == acting,
            header=tuple(asked.get("header", ())),
            verify=asked.get("verify", 0),
            scope=scope,
            plan=asked.get("plan") == 1 and not is_approved,
            max_delete=asked.get("max_delete", ""),
            bandwidth=parse_rate(str(asked.get("bandwidth", 0))),
            **{name: asked.get(name, "") for name in _OF_OBJECTS},
        )

    @property
    def is_partial(self) -> bool:
        """Whether the mirror is less than the whole bucket made equal; then the bucket is never deleted."""
        return self.scope is not None or bool(self.prefix or self.exclude or self.include or not self.delete)

    @property
    def equal(self) -> str:
        """What is true of the bucket when such a sync is done."""
        if not self.delete:
            return "all of the folder is in the bucket, and nothing was deleted"
        if self.scope is not None:
            return "what has changed in the folder is mirrored"
        if self.exclude or self.include:
            return "what the filters leave of the folder is mirrored"
        return f"what lies below {self.prefix} equals the folder" if self.prefix else EQUAL

    @property
    def only_verifies(self) -> bool:
        """`plan` and `verify`: a pure check."""
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
        asked = {name: getattr(self, name) for name in _OF_OBJECTS}
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
    """A path as a pattern that matches it alone."""
    return re.sub(r"([\\*?\[\] !#])", r"\\\1", path)


def exceeds(limit: int | str, deletions: int, listed: int) -> bool:
    """Returns whether this many deletions, of this many listed objects, exceed `max_delete`."""
    if isinstance(limit, int):
        return deletions > limit
    return limit.endswith("%") and 100 * deletions > fraction(limit[:-1]) * listed


def fraction(text: str) -> Fraction:
    from fractions import Fraction  # costs each start, and is rarely needed

    return Fraction(text)

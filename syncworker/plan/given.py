"""Which objects were given other headers, tags or class than the options ask for now: asked by the planner.

Reads the index by a connection of its own, in the planner's thread. A job whose options ask for nothing, on a
mirror whose objects were given nothing, has no `Outdated`, and pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from syncworker.index.database import Index
from syncworker.index.rows import GivenRows
from syncworker.model import UNKNOWN, ObjectEntries, ObjectEntry
from syncworker.options.object_headers import ObjectHeaders


class Outdated:
    """`headers` is not shared with another thread."""

    def __init__(self, rows: GivenRows, headers: ObjectHeaders) -> None:
        self._rows, self._headers = rows, headers

    @classmethod
    def of(cls, index: Index, headers: ObjectHeaders) -> Outdated | None:
        """None: no object can be outdated."""
        if index.broken is not None or not (headers.any or index.has_given()):
            return None
        return cls(index.given_rows(), headers)

    def has(self, key: str) -> bool:
        """Of an object that has a row."""
        return self._differs([key])

    def any_of(self, page: Sequence[ObjectEntry]) -> bool:
        """Whether there is one among these, which all have rows and whose keys ascend."""
        return self._differs(ObjectEntries.of(page).keys)

    def _differs(self, keys: Sequence[str]) -> bool:
        given = self._rows.between(keys[0], keys[-1])
        other = "" if given is not None else UNKNOWN  # damaged: nothing is done to what is not known
        known = given or {}
        return any(self._headers.differs(key, known.get(key, other)) for key in keys)

    def close(self) -> None:
        self._rows.close()

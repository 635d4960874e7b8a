"""Decides whether a plan or `max_delete` allows the deletion of objects without a file. Does no I/O.

For other reasons that forbid it, see docs/design.md, "What forbids deletions".

| the job | deletions | then |
| --- | --- | --- |
| plan=1, not approved yet | any | none is carried out: the plan names them |
| approved | the plan names all, as they are listed | go |
| approved | others as well, or changed since | none is carried out: waiting again, `PlanOutgrown` |
| max_delete | not more than that | go |
| max_delete | more | none is carried out: waiting, `TooManyDeletes` |
| none of these | any | go |
"""

from __future__ import annotations

from typing import NamedTuple

from syncworker.options.effective import exceeds


class Question(NamedTuple):
    """Why the job waits for its plan to be approved. `code` is "" if the plan was asked for."""

    code: str = ""
    message: str = ""


class Rules(NamedTuple):
    """The rules of an attempt. `limit`: the value of `max_delete`; "" or `none` for no limit."""

    is_plan: bool = False
    is_approved: bool = False
    limit: int | str = ""

    @property
    def ask(self) -> bool:
        """Whether deletions have to be counted at all."""
        return self.is_plan or self.is_approved or self.limit not in ("", "none")

    def question(
        self, deletions: int, listed: int, others: int, *, bucket: bool, empties: bool = False, gone: int = 0
    ) -> Question | None:
        """Returns None if the objects may be deleted. `others`: how many of them the approved plan does not
        name; `bucket`: the bucket is to be deleted, and the approved plan does not name it; `empties`: the
        bucket is deleted with the objects; `gone`: how many this attempt has deleted."""
        if self.is_plan:
            return Question()
        if self.is_approved:
            if not others and not bucket:
                return None
            what = f"{others} of {deletions} objects to delete are not in the approved plan or have changed"
            if bucket:
                what = "the folder holds no file any more, and the approved plan does not name the bucket"
            so_far = f"{gone} objects of the plan were deleted before" if gone else "nothing was deleted"
            return Question("PlanOutgrown", f"{what}: {so_far}; the new plan has all deletions: approve it")
        if not exceeds(self.limit, deletions, listed):
            return None
        what = f"{deletions} objects are to be deleted{', and the bucket with them' if empties else ''}"
        allowed = f"{self.limit} ({listed} objects are listed)" if isinstance(self.limit, str) else self.limit
        return Question(
            "TooManyDeletes",
            f"{what}, and max_delete allows {allowed}: nothing was deleted;"
            " the plan names them: approve it, or cancel the job",
        )


NO_RULES = Rules()

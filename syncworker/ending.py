"""The final message of a sync that succeeded: one sentence about what it found and did. Pure functions.

| folder | bucket | sentence |
| --- | --- | --- |
| holds files | mirrored | the bucket equals the folder; of a partial mirror `equal` |
| the same, some skipped | mirrored | mirrored, except for 3 skipped (2 symlink_outside, 1 fifo) |
| files exist again | mirrored | …, and 2 objects are kept, because their files exist again |
| objects appeared | mirrored | …, and 2 objects that appeared during the job are left for the next sync |
| missing, or holds no file | deleted | the folder … does not exist: bucket … and its 7 objects were deleted |
| missing, or holds no file | there was none | the folder … does not exist, and there is no bucket … |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

EQUAL = "the bucket equals the folder"
# FAIL_ON_SKIPPED does not count these: the file is gone, or the next job after changes sends it.
VANISHED = "vanished"
BEING_WRITTEN = "being_written"
_PASSING = frozenset({VANISHED, BEING_WRITTEN})


class Planned(NamedTuple):
    """A written plan that waits: its SHA-256, its number of lines, and why it waits: a sentence, and a code
    ("" if the plan was asked for)."""

    etag: str
    lines: int
    code: str
    message: str


class Ending(NamedTuple):
    """What the sync found. `emptied`: the folder holds no file, and the whole bucket was to be deleted;
    `came`: objects that others made after the sync began; `kept`: objects that were not deleted because
    their files came back; `verified`: the result of verifying, in words."""

    source_exists: bool = True
    emptied: bool = False
    bucket_deleted: bool = False
    came: int = 0
    kept: int = 0
    verified: str = ""
    planned: Planned | None = None

    @property
    def is_remarkable(self) -> bool:
        """Whether people are told unasked: a bucket was deleted, or the folder's name may be mistyped."""
        return self.bucket_deleted or not self.source_exists


def reasons(skipped: Mapping[str, int]) -> str:
    """Returns `2 symlink_outside, 1 fifo`, the most frequent first."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered)


def skipped_text(skipped: Mapping[str, int]) -> str:
    """Returns `3 skipped (2 symlink_outside, 1 fifo)`; "" for none."""
    total = sum(skipped.values())
    return f"{total} skipped ({reasons(skipped)})" if total else ""


def failing(skipped: Mapping[str, int]) -> dict[str, int]:
    """Returns what FAIL_ON_SKIPPED=1 counts."""
    return {reason: count for reason, count in skipped.items() if reason not in _PASSING}


def message(
    ending: Ending,
    *,
    source: str,
    dest: str,
    objects_deleted: int,
    skipped: Mapping[str, int],
    equal: str = EQUAL,
) -> str:
    but, left = skipped_text(skipped), _left(ending)
    if ending.source_exists and not ending.emptied:
        text = f"mirrored, except for {but}{left}" if but else f"mirrored{left}" if left else equal
    else:
        folder = f"the folder {source}" if source else "the uploads folder"
        text = f"{folder} {'holds no file' if ending.source_exists else 'does not exist'}"
        objects = f"{objects_deleted} object{'' if objects_deleted == 1 else 's'}"
        if not ending.emptied:
            text += f": {objects} deleted"
        elif ending.bucket_deleted:
            text += f": bucket {dest} and its {objects} were deleted"
        else:
            text += f", and there is no bucket {dest}"
        text += f"; {but}{left}" if but else left
    return f"{text}; {ending.verified}" if ending.verified else text


def _left(ending: Ending) -> str:
    """Returns which objects without a file stay in the bucket; "" for none."""
    text = ""
    if kept := ending.kept:
        who = "1 object is" if kept == 1 else f"{kept} objects are"
        text = f", and {who} kept, because {'its file exists' if kept == 1 else 'their files exist'} again"
    if came := ending.came:
        objects, are = ("object", "is") if came == 1 else ("objects", "are")
        text += f", and {came} {objects} that appeared during the job {are} left for the next sync"
    return text


def plan_message(
    counts: Mapping[str, Any], dest: str, *, makes_bucket: bool, deletes_bucket: bool = False
) -> str:
    """Returns the sums of a plan, in a sentence."""
    parts = [f"{counts['files_to_upload']} files to upload ({counts['bytes_to_upload']} bytes)"]
    if counts["files_to_update"]:
        parts.append(f"{counts['files_to_update']} to update")
    parts.append(f"{counts['objects_to_delete']} objects to delete")
    made = f"; bucket {dest} will be made" if makes_bucket else ""
    if deletes_bucket:
        made = f"; bucket {dest} will be deleted with them"
    return f"planned, and nothing changed: {', '.join(parts)}{made}: approve or cancel the job"

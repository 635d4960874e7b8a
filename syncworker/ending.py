"""What a sync that has ended well says of itself: one sentence, from what it found and did. Pure functions.

| folder | bucket | sentence |
| --- | --- | --- |
| holds files | mirrored | the bucket equals the folder; of a partial mirror `equal` |
| the same, some skipped | mirrored | mirrored, but for 3 skipped (2 symlink_outside, 1 fifo) |
| any, files came back | mirrored | …, and 2 objects are kept, as their files came back |
| any, objects came meanwhile | mirrored | …, and 2 objects that came meanwhile are left for the next sync |
| missing, or holds no file | deleted | the folder … does not exist: bucket … and its 7 objects were deleted |
| missing, or holds no file | there was none | the folder … does not exist, and there is no bucket … |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

EQUAL = "the bucket equals the folder"
# FAIL_ON_SKIPPED does not count these: the file went away, or the next job after changes takes it.
VANISHED = "vanished"
BEING_WRITTEN = "being_written"
_PASSING = frozenset({VANISHED, BEING_WRITTEN})


class Planned(NamedTuple):
    """A plan that was written, and waits: its SHA-256, its lines, why (a code, "" where it was asked for, and
    a sentence)."""

    etag: str
    lines: int
    code: str
    message: str


class Ending(NamedTuple):
    """What the sync found. `emptied`: the folder holds no file, and the whole bucket was to go; `came`:
    objects of others that were not there when it began; `kept`: objects that were to go and whose
    files came back; `verified`: what verifying has found, in words."""

    source_exists: bool = True
    emptied: bool = False
    bucket_deleted: bool = False
    came: int = 0
    kept: int = 0
    verified: str = ""
    planned: Planned | None = None

    @property
    def is_remarkable(self) -> bool:
        """Whether people should be told even where nobody asks: a bucket is gone, or a name is mistyped."""
        return self.bucket_deleted or not self.source_exists


def reasons(skipped: Mapping[str, int]) -> str:
    """`2 symlink_outside, 1 fifo`, the most frequent first."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered)


def skipped_text(skipped: Mapping[str, int]) -> str:
    """`3 skipped (2 symlink_outside, 1 fifo)`; empty for none."""
    total = sum(skipped.values())
    return f"{total} skipped ({reasons(skipped)})" if total else ""


def failing(skipped: Mapping[str, int]) -> dict[str, int]:
    """What FAIL_ON_SKIPPED=1 counts."""
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
    but, left = skipped_text(skipped), _kept(ending.kept) + _left(ending.came)
    if ending.verified:
        rest = message(
            ending._replace(verified=""),
            source=source,
            dest=dest,
            objects_deleted=objects_deleted,
            skipped=skipped,
            equal=equal,
        )
        return f"{rest}; {ending.verified}"
    if ending.source_exists and not ending.emptied:
        return f"mirrored, but for {but}{left}" if but else f"mirrored{left}" if left else equal
    folder = f"the folder {source}" if source else "the uploads folder"
    text = f"{folder} {'holds no file' if ending.source_exists else 'does not exist'}"
    objects = f"{objects_deleted} object{'' if objects_deleted == 1 else 's'}"
    if not ending.emptied:
        text += f": {objects} deleted"
    elif ending.bucket_deleted:
        text += f": bucket {dest} and its {objects} were deleted"
    else:
        text += f", and there is no bucket {dest}"
    return f"{text}; {but}{left}" if but else text + left


def _kept(kept: int) -> str:
    if not kept:
        return ""
    return f", and {'1 object is' if kept == 1 else f'{kept} objects are'} kept, as their files came back"


def _left(came: int) -> str:
    if not came:
        return ""
    objects = "1 object that came meanwhile is" if came == 1 else f"{came} objects that came meanwhile are"
    return f", and {objects} left for the next sync"


def plan_message(
    counts: Mapping[str, Any], dest: str, *, makes_bucket: bool, deletes_bucket: bool = False
) -> str:
    """What a plan comes to, in a sentence."""
    parts = [f"{counts['files_to_upload']} files to upload ({counts['bytes_to_upload']} bytes)"]
    if counts["files_to_update"]:
        parts.append(f"{counts['files_to_update']} to update")
    parts.append(f"{counts['objects_to_delete']} objects to delete")
    made = f"; bucket {dest} will be made" if makes_bucket else ""
    if deletes_bucket:
        made = f"; bucket {dest} will be deleted with them"
    return f"planned, and nothing changed: {', '.join(parts)}{made}: approve or cancel the job"

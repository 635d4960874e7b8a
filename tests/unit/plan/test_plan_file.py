"""A plan's file that somebody has changed is told as such, whatever was written into it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from syncworker.errors import FatalError
from syncworker.plan.plan_file import ApprovedPlan

LINE = {"op": "delete", "key": "a", "size": 1, "etag": "e", "modified": "m", "reason": "gone"}


def read(path: Path, change: dict[str, Any]) -> ApprovedPlan:
    text = json.dumps(LINE | change).encode() + b"\n"
    path.write_bytes(text)
    return ApprovedPlan(str(path), {"etag": hashlib.sha256(text).hexdigest(), "lines": 1}, "")


def test_a_plan_names_what_its_lines_name(tmp_path: Path) -> None:
    read(tmp_path / "plan", {"etag": None, "modified": None, "size": (1 << 63) - 1}).close()


@pytest.mark.parametrize(
    "change",
    [{"size": size} for size in ({}, 1 << 63, -1, 1.5, True, "1", None)]
    + [{name: value} for name in ("key", "etag", "modified") for value in (5, ["x"])]
    + [{"key": None}],
    ids=str,
)
def test_a_value_of_another_kind_is_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(FatalError) as caught:
        read(tmp_path / "plan", change)
    assert caught.value.code == "PlanDamaged"

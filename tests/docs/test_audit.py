"""The checks of `make check` that look for dangerous calls and known holes find what they are for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PINS = "bottle==0.13.4 \\\n    --hash=sha256:" + "0" * 64 + "\n"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", PROJECT / "scripts" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit = load()


def test_what_is_pinned_here_has_hashes_and_no_known_hole() -> None:
    assert audit.wrong_pins() == []
    needed, _ = audit.pins(PROJECT / "requirements.txt")
    direct = (PROJECT / "requirements.in").read_text()
    assert {"bottle", "waitress", "boto3"} <= needed.keys()
    for line in direct.splitlines():
        assert line.startswith("#") or "# " in line, f"no reason is given for {line}"


@pytest.mark.parametrize(
    "pins, word",
    [
        ("bottle==0.13.4\n", "no hash"),
        (PINS.replace("0.13.4", "0.12.18"), "CVE-2022-31799"),
        (PINS + "waitress>=3.0.2\n", "not pinned"),
    ],
)
def test_a_bad_pin_is_found(tmp_path: Path, pins: str, word: str) -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text(PINS)
    assert audit.wrong_pins(tmp_path) == []
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text(pins)
    assert any(word in line for line in audit.wrong_pins(tmp_path))


def test_two_files_of_pins_that_differ_are_found(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(PINS)
    (tmp_path / "requirements-dev.txt").write_text(PINS.replace("0.13.4", "0.13.3"))
    assert audit.wrong_pins(tmp_path) == ["bottle: 0.13.4 to run, 0.13.3 to test: run `make lock`"]


def test_a_dangerous_call_is_found(tmp_path: Path) -> None:
    (tmp_path / "syncworker").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "server.py").write_text("import pickle, sys\npickle.loads(sys.stdin.buffer.read())\n")
    found = audit.wrong_calls(tmp_path)
    assert any(line.startswith("server.py:2: B301") for line in found), found
    assert any("accepted but not found" in line for line in found)

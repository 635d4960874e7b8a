"""One direction, no way back: who may import what, read from the source files themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from bench import PROJECT

MODULES = {path.stem: path for path in (PROJECT / "syncworker").glob("*.py")}
MODULES |= {f"mirrors.{path.stem}": path for path in (PROJECT / "syncworker" / "mirrors").glob("*.py")}
MODULES["server"] = PROJECT / "server.py"
TREES = {name: ast.parse(path.read_bytes()) for name, path in MODULES.items()}

# From the bottom up; a module imports only from groups below its own, or from its own above it in the list.
LAYERS = [
    ["__init__", "mirrors.__init__"],
    ["errors", "known_errors", "model", "tally", "ending", "last_runs"],
    [
        "files",
        "process",
        "endpoint",
        "sigv4",
        "etag",
        "s3xml",
        "faults",
        "control",
        "pause",
        "rates",
        "token_bucket",
        "bandwidth",
        "mount_table",
        "tree",
        "std_streams",
        "daemon_call",
        "forwarded",
        "patterns",
        "content_types",
        "space",
    ],
    ["object_headers"],
    [
        "options",
        "settings",
        "spec",
        "jobs",
        "catalog",
        "progress",
        "index",
        "findings",
        "links",
        "credentials",
        "proxies",
        "tls",
        "wire",
    ],
    [
        "leftovers",
        "usage",
        "wording",
        "schemas",
        "dashboard",
        "problem",
        "http",
        "history",
        "job_pages",
        "storage_check",
        "parameters",
        "spool",
        "draft",
        "plan_file",
        "may_delete",
        "gate",
        "outage",
        "pace",
        "listing",
        "compare",
        "scan",
        "s3",
        "delay",
    ],
    ["plan", "runs", "reader", "remove", "transfer", "update", "given", "source", "obstacles", "apart"],
    ["differences", "folders"],
    ["bucket_removal", "lanes", "mount_check", "planner", "sweep", "recheck", "verification"],
    ["sync"],
    ["worker", "supervisor", "embedded", "display", "guard", "openapi", "completion"],
    ["mirrors.schedule", "mirrors.notify"],
    ["mirrors.file", "mirrors.memory", "mirrors.watch"],
    ["mirrors.keeper"],
    ["metrics"],
    ["cli", "server"],
    ["__main__"],
]
ENGINE = {
    "s3",
    "wire",
    "sync",
    "transfer",
    "remove",
    "reader",
    "plan",
    "listing",
    "worker",
    "credentials",
    "sigv4",
}


def imports(name: str) -> set[str]:
    """The full names that a module imports, wherever in it: `a.b` for `from a import b`."""
    found: set[str] = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(name: str) -> set[str]:
    """The modules of ours that a module imports."""
    found = set()
    for full in imports(name):
        parts = full.split(".")
        if parts[0] == "syncworker":
            found |= {each for each in (parts[1], ".".join(parts[1:3])) if each in MODULES}
    return found


def outside(name: str) -> set[str]:
    return {full.split(".")[0] for full in imports(name)}


def calls(name: str) -> set[str]:
    """`os.replace` and the like: every attribute of a plain name that a module uses."""
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


def reaches(name: str) -> set[str]:
    """All modules of ours that come with a module, its own imports' imports too."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        for other in ours(ahead.pop()) - found:
            found.add(other)
            ahead.append(other)
    return found


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("boto3", {"credentials"}),
        ("botocore", {"credentials"}),
        ("fcntl", {"files"}),
        ("psutil", {"process"}),
        ("signal", {"process"}),
        ("httptools", {"wire"}),
        ("sqlite3", {"index", "spool"}),
        ("ssl", {"wire", "tls"}),
        ("prometheus_client", {"metrics"}),
        ("cronsim", {"mirrors.schedule"}),
        ("inotify_simple", {"mirrors.watch"}),
        ("urllib3", {"mirrors.notify"}),
    ],
)
def test_a_package_is_imported_in_its_one_place(package: str, home: set[str]) -> None:
    assert {name for name in MODULES if package in outside(name)} == home


@pytest.mark.parametrize("call", ["os.replace", "os.rename", "os.fsync", "os.fdatasync"])
def test_files_are_published_and_made_durable_in_one_module(call: str) -> None:
    assert {name for name in MODULES if call in calls(name)} <= {"files"}


@pytest.mark.parametrize("call", ["os.kill", "os.killpg", "os.setsid", "os.fork", "os.pidfd_send_signal"])
def test_processes_are_signalled_in_one_module(call: str) -> None:
    assert {name for name in MODULES if call in calls(name)} <= {"process"}


def test_processes_are_started_where_they_belong() -> None:
    """Workers in `process`, the embedded storage by its own keeper, the scan beside its reader."""
    starts = {
        name
        for name in MODULES
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and "subprocess" in ast.unparse(node.func)
    }
    assert starts == {"process", "embedded", "apart"}


def test_the_heavy_package_is_imported_only_when_it_is_needed() -> None:
    top = {
        alias.name.split(".")[0]
        for node in TREES["credentials"].body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
    }
    assert not top & {"boto3", "botocore"}


@pytest.mark.parametrize(
    "name", ["server", "supervisor", "jobs", "embedded", "http", "guard", "metrics", "openapi"]
)
def test_the_server_never_talks_to_s3(name: str) -> None:
    assert not reaches(name) & ENGINE


def test_every_module_is_in_the_layers() -> None:
    assert set(MODULES) - {name for layer in LAYERS for name in layer} == set()


def test_nothing_imports_upwards() -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    upwards = {(name, other) for name in MODULES for other in ours(name) if level[other] > level[name]}
    assert upwards == set()


def test_no_module_comes_back_to_itself() -> None:
    assert [name for name in MODULES if name in reaches(name)] == []


def test_the_decisions_are_pure() -> None:
    """They read no clock, no file and no socket."""
    for name in ("compare", "s3xml", "faults", "plan", "listing"):
        assert not outside(name) & {"os", "socket", "asyncio", "threading", "shutil", "subprocess"}, name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_opens_with_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(TREES[name]), MODULES[name]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_error_is_swallowed(name: str) -> None:
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ExceptHandler):
            names = (
                {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
                if node.type
                else {"BaseException"}
            )
            silent = all(isinstance(step, ast.Pass) for step in node.body)
            assert not (silent and names & {"Exception", "BaseException"}), f"{name}:{node.lineno}"


def test_the_tests_for_this_are_told_of_every_file() -> None:
    assert {path.name for path in Path(PROJECT, "syncworker").iterdir() if path.suffix == ".py"} == {
        f"{name}.py" for name in MODULES if name != "server" and "." not in name
    }

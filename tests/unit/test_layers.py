"""One direction, no way back: who may import what, read from the source files themselves."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from bench import PROJECT

FOLDER = PROJECT / "syncworker"
MODULES_AT_LEAST = 80  # fewer means that they were looked for in the wrong place


def dotted(path: Path) -> str:
    """`s3.bucket` for syncworker/s3/bucket.py, `s3` for the package itself, `` for syncworker's own."""
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in FOLDER.rglob("*.py")}
MODULES["server"] = PROJECT / "server.py"

# From the bottom up: rooms and single modules. One floor's do not know each other, but for those of a room.
FLOORS = [
    ["", "errors", "paths", "escape", "model", "ending", "forwarded"],
    ["system"],
    ["options"],
    ["storage_url", "setting_values", "settings", "request"],
    ["wire"],
    ["s3", "folder", "jobs", "index"],
    ["history"],
    ["plan"],
    ["transfer"],
    ["checks"],
    ["worker", "service"],
    ["cluster"],
    ["mirrors"],
    ["web", "shell"],
    ["server", "__main__"],
]
ALONE = [FLOORS[0], FLOORS[3]]  # single modules, in their order: the later ones know the earlier
ENGINE = {"plan", "transfer", "checks", "worker"}
ADDRESSES = {
    "wire",
    "wire.endpoint",
    "wire.proxy",
    "wire.resolver",
}  # where a storage is, and whether it may be talked to: no request


@functools.cache
def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_bytes())


def room(name: str) -> str:
    """The room of a module, or the module itself when it stands alone."""
    return name.split(".", maxsplit=1)[0]


@functools.cache
def imports(name: str) -> set[str]:
    """The full names that a module imports, wherever in it: `a.b` for `from a import b`."""
    found: set[str] = set()
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def ours(name: str) -> set[str]:
    """The modules of ours that a module imports."""
    found = set()
    for full in imports(name):
        if full.startswith("syncworker."):
            parts = full.split(".")[1:]
            longest = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
            found |= {next((module for module in longest if module in MODULES), "")}
    return found


def outside(name: str) -> set[str]:
    return {full.split(".")[0] for full in imports(name)}


@functools.cache
def calls(name: str) -> set[str]:
    """`os.replace` and the like: every attribute of a plain name that a module uses."""
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(parsed(name))
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
        ("boto3", {"s3.credentials"}),
        ("awscrt", {"s3.sums"}),
        ("botocore", {"s3.credentials"}),
        ("fcntl", {"system.durable_files"}),
        ("psutil", {"system.processes"}),
        ("signal", {"system.processes"}),
        ("httptools", {"wire.connection"}),
        ("sqlite3", {"index.database", "index.rows", "plan.spool"}),
        ("ssl", {"wire.connect_errors", "system.tls"}),
        ("cronsim", {"mirrors.schedule"}),
        ("distributed", {"cluster.dask_engine"}),
        ("dask", {"cluster.dask_engine"}),
        ("cryptography", {"cluster.keys"}),
        ("inotify_simple", {"mirrors.watch", "system.folder_events"}),
        ("urllib3", {"mirrors.notify"}),
        ("prometheus_client", {"web.metrics"}),
    ],
)
def test_a_package_is_imported_in_its_one_place(package: str, home: set[str]) -> None:
    assert {name for name in MODULES if package in outside(name)} == home


@pytest.mark.parametrize("call", ["os.replace", "os.rename", "os.fsync", "os.fdatasync"])
def test_files_are_published_and_made_durable_in_one_module(call: str) -> None:
    assert {name for name in MODULES if call in calls(name)} <= {"system.durable_files"}


@pytest.mark.parametrize("call", ["os.kill", "os.killpg", "os.setsid", "os.fork", "os.pidfd_send_signal"])
def test_processes_are_signalled_in_one_module(call: str) -> None:
    assert {name for name in MODULES if call in calls(name)} <= {"system.processes"}


def test_processes_are_started_where_they_belong() -> None:
    """Workers in `process`, the embedded storage by its own keeper, the scan beside its reader."""
    starts = {
        name
        for name in MODULES
        for node in ast.walk(parsed(name))
        if isinstance(node, ast.Call) and "subprocess" in ast.unparse(node.func)
    }
    assert starts == {"system.processes", "service.embedded_store", "folder.scan_process"}


@pytest.mark.parametrize("name", ["s3.credentials", "s3.sums"])
def test_the_heavy_packages_are_imported_only_when_they_are_needed(name: str) -> None:
    top = {
        alias.name.split(".")[0]
        for node in parsed(name).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
    }
    assert not top & {"boto3", "botocore", "awscrt"}


@pytest.mark.parametrize(
    "name",
    [
        "server",
        "service.supervisor",
        "jobs.store",
        "service.embedded_store",
        "web.http_server",
        "web.middleware",
        "web.metrics",
        "web.openapi",
    ],
)
def test_the_server_never_talks_to_s3(name: str) -> None:
    reached = reaches(name)
    assert not {room(other) for other in reached} & ENGINE
    assert {other for other in reached if room(other) in ("wire", "s3")} <= ADDRESSES


def test_a_field_of_a_status_is_assigned_in_one_module() -> None:
    """But for the counters in `progress`, which a running job's `Progress` owns."""
    found, seen = set(), 0
    for name in MODULES:
        for node in ast.walk(parsed(name)):
            match node:
                case ast.Subscript(value=base, ctx=ast.Store() | ast.Del()):
                    pass
                case ast.Call(func=ast.Attribute(value=base, attr="update" | "setdefault" | "pop")):
                    pass
                case _:
                    continue
            if ast.unparse(base).split("[")[0].split(".")[-1] in ("status", "older"):
                found.add(name)
                seen += 1
    assert found == {"jobs.status"}
    assert seen > 30


MODULE_LINES, ROOM_LINES, PARAMETERS = 400, 2500, 6
LARGER_ROOMS = {"cluster": 3000, "web": 3000}


def test_modules_and_rooms_stay_small() -> None:
    rooms: dict[str, int] = {}
    for name, path in MODULES.items():
        lines = len(path.read_bytes().splitlines())
        assert lines <= MODULE_LINES, f"{name} has {lines} lines: split it by what it does"
        if path.parent != FOLDER and path.parent != PROJECT:
            rooms[room(name)] = rooms.get(room(name), 0) + lines
    assert len(rooms) >= 12
    for name, lines in rooms.items():
        assert lines <= LARGER_ROOMS.get(name, ROOM_LINES), f"{name}/ has {lines} lines"


def test_constructors_take_few_parameters() -> None:
    seen = 0
    for name in MODULES:
        tree = parsed(name)
        for made in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for method in made.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    seen += 1
                    count = len([*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]) - 1
                    assert count <= PARAMETERS, f"{name}.{made.name} takes {count} parameters"
    assert seen > 80


def test_every_module_is_in_the_layers() -> None:
    assert len(MODULES) >= MODULES_AT_LEAST
    assert {room(name) for name in MODULES} == {name for floor in FLOORS for name in floor}


def test_nothing_imports_upwards_or_sideways() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    seen = 0
    for name in MODULES:
        for other in ours(name):
            mine, its = room(name), room(other)
            if mine == its:
                continue
            seen += 1
            level = FLOORS[floor[mine]]
            order = level if level in ALONE else []
            is_below = floor[its] < floor[mine] or (its in order and order.index(its) < order.index(mine))
            assert is_below, f"{name} imports {other}"
    assert seen > MODULES_AT_LEAST


def test_the_init_of_a_room_contains_only_its_docstring() -> None:
    """Else importing one of its modules would bring in all: the server would come to know the engine."""
    doors = [name for name, path in MODULES.items() if path.name == "__init__.py" and name]
    assert len(doors) >= 12
    for name in doors:
        assert [type(node) for node in parsed(name).body] == [ast.Expr], name


def test_no_module_comes_back_to_itself() -> None:
    assert [name for name in MODULES if name in reaches(name)] == []


def test_the_decisions_are_pure() -> None:
    """They read no clock, no file and no socket."""
    for name in (
        "plan.compare",
        "s3.xml_messages",
        "s3.xml_listing_fast",
        "s3.error_codes",
        "plan.join",
        "plan.listing",
    ):
        assert not outside(name) & {"os", "socket", "asyncio", "threading", "shutil", "subprocess"}, name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_opens_with_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(parsed(name)), MODULES[name]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_error_is_swallowed(name: str) -> None:
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.ExceptHandler):
            names = (
                {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
                if node.type
                else {"BaseException"}
            )
            silent = all(isinstance(step, ast.Pass) for step in node.body)
            assert not (silent and names & {"Exception", "BaseException"}), f"{name}:{node.lineno}"

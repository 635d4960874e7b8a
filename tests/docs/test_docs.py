"""What the documents name exists, and what exists is named: errors, files, fields, targets, options."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import waitress.utilities
from bench import PROJECT, Service, tree, wait_for
from stores import Store

import server
from syncworker import settings
from syncworker.folder import scan_items
from syncworker.history.ledger import Ledger
from syncworker.jobs import store
from syncworker.jobs.report import Report
from syncworker.model import Phase, State
from syncworker.s3 import error_codes as faults
from syncworker.service import supervisor
from syncworker.shell import arguments, completion
from syncworker.web import http_server, metrics, status_schema
from syncworker.web.operations import OPERATIONS

sys.path.insert(0, str(PROJECT / "scripts"))
import error_codes
import error_docs

README = (PROJECT / "README.md").read_text()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def page(name: str) -> str:
    return (PROJECT / "docs" / name).read_text()


# -- errors -----------------------------------------------------------------------------------------------


def test_the_page_of_errors_is_made_from_the_source() -> None:
    """`render` fails when a code has no meaning, or a meaning no code."""
    assert page("troubleshooting.md") == error_docs.render(), "run `make docs`"
    assert Path(error_docs.CODES_TARGET).read_text() == error_docs.render_codes(), "run `make docs`"


@pytest.mark.parametrize("change", ["a code without a meaning", "a meaning without a code"])
def test_the_page_of_errors_cannot_leave_one_out(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    *others, (title, intro, meanings) = error_docs.SECTIONS
    changed = dict(list(meanings.items())[1:]) if "without a meaning" in change else meanings | {"New": "…"}
    monkeypatch.setattr(error_docs, "SECTIONS", (*others, (title, intro, changed)))
    with pytest.raises(AssertionError, match="both"):
        error_docs.render()


def test_the_search_for_codes_finds_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
class SyncError(Exception): pass
class Own(SyncError):
    def __init__(self): super().__init__("InAClass", "of a class")
def refuse(why): return UsageError("ByAHelper", f"source {why}")
class UsageError(SyncError): pass
def f():
    raise refuse("is wrong") from None
    raise errors.UsageError("Plain", f"the file {x} is", param="x")
    message = "kept before"
    raise UsageError("InAVariable", message)
    return Reply(403, "AsAnAnswer", "no")
    error = {"code": "InADictionary", "message": "in it"}
    size = f"it has {x} bytes" if x else None
    raise UsageError("OneOfTwo", size or "it is different")
    raise UsageError(error.code, error.message)
"""
    monkeypatch.setattr(error_codes, "trees", lambda: [("x.py", ast.parse(source))])
    assert error_codes.collect() == {
        "InAClass": ["of a class"],
        "ByAHelper": ["source is wrong"],
        "Plain": ["the file … is"],
        "InAVariable": ["kept before"],
        "AsAnAnswer": ["no"],
        "InADictionary": ["in it"],
        "OneOfTwo": ["it has … bytes", "it is different"],
    }
    chosen = source + "def g(): raise UsageError(chosen_somewhere, 'x')\n"
    monkeypatch.setattr(error_codes, "trees", lambda: [("x.py", ast.parse(chosen))])
    with pytest.raises(AssertionError, match="not understood"):
        error_codes.collect()


def test_each_code_has_one_row_on_the_page_of_errors_and_no_cell_is_empty() -> None:
    """`vanished` is both a code of a file and a reason to skip one."""
    table = re.findall(r"^\| `(\w+)`.*", page("troubleshooting.md"), re.MULTILINE)
    assert len(table) > 150
    assert {code for code in table if table.count(code) > 1} == {"vanished"}
    assert not re.search(r"\| *\|", page("troubleshooting.md"))


def test_a_code_without_a_message_is_no_row_of_the_page_of_errors() -> None:
    with pytest.raises(AssertionError, match="no message is known of New"):
        error_docs.section("Title", "Intro", {"New": "what it means"}, {"New": ["…"]})


def test_every_code_that_a_store_may_send_and_we_know_is_on_the_page() -> None:
    text = page("troubleshooting.md")
    for code in (*faults._RETRY, *faults._THROTTLED, *faults._FATAL, *error_docs.STORE_ADVICE):
        assert f"`{code}`" in text, code
    for number in scan_items._HINTS:
        assert f"`{errno.errorcode[number]}`" in text
    modules = list((PROJECT / "syncworker").rglob("*.py"))
    assert len(modules) >= error_codes.MODULES_AT_LEAST
    sources = "".join(path.read_text() for path in modules)
    for code in error_docs.STORE_ADVICE:
        assert f'"{code}"' in sources, code


def test_what_http_itself_finds_is_on_the_page() -> None:
    """waitress names its errors; the words of ours are by status."""
    kinds = [waitress.utilities.BadRequest, *waitress.utilities.Error.__subclasses__()]
    kinds += waitress.utilities.BadRequest.__subclasses__()
    reasons = {kind.code: kind.reason.replace(" ", "") for kind in kinds}
    for status in http_server._DETAILS:
        assert f"`{reasons[status]}`" in error_docs.OF_HTTP, status
    assert set(re.findall(r"`([A-Z][A-Za-z]+)`", error_docs.OF_HTTP)) == {
        reasons[s] for s in http_server._DETAILS
    }


def test_every_reason_to_skip_a_file_is_on_the_page() -> None:
    named = {
        node.args[1].value
        for _, tree in error_codes.trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("Skip", ".skipped"))
        and isinstance(node.args[1], ast.Constant)
    }
    named |= {*scan_items._LOST_LINKS.values(), *scan_items._SPECIAL.values(), "special"}
    assert named == set(error_docs.SKIPS)


# -- the job files ----------------------------------------------------------------------------------------

JOB_ID = "[0-9]{8}T[0-9]{6}-[0-9a-f]{8}"


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose first line is `head`."""
    _, after = text.split(f"\n{head}\n", 1)
    lines = after.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def named(cells: list[list[str]]) -> list[str]:
    """What the first cells name: several names may share a row."""
    return [name for row in cells for name in re.findall(r"`([^`]+)`", row[0])]


FILES = named(rows(page("job-files.md"), "| file | who writes it | what |"))


def pattern_of(file: str) -> str:
    tail = "(-wal|-shm)?" if file.endswith(".sqlite") else ""
    return re.escape(file).replace("ID", JOB_ID).replace("NAME", "[^/]+") + tail


def test_every_file_that_a_server_and_its_jobs_make_is_in_the_document(
    make_service: Callable[..., Service], juicefs: Store, bucket: str
) -> None:
    service = make_service(juicefs, KEEP_JOBS="1")
    tree(service.uploads / "photos", {f"{n}.jpg": b"x" for n in range(20)})
    seen: set[str] = set()

    def look() -> None:
        for folder, _, names in os.walk(service.jobs):
            seen.update(os.path.relpath(os.path.join(folder, name), service.jobs) for name in names)

    mirrors = "[photos]\nsource = 'photos'\ndest = 'never-run'\n"
    (service.base / "mirrors.toml").write_text(mirrors)
    service.done(bucket)
    service.done(bucket)
    wait_for(lambda: (service.jobs / ".mirrors.json").exists(), 20, "what is remembered of mirrors")
    wait_for(lambda: (service.jobs / ".totals.json").exists(), 20, "the first job's files to go")
    keys = {
        "storage_url": f"{juicefs.url}/",
        "access_key": juicefs.access_key,
        "secret_key": juicefs.secret_key,
    }
    tree(service.uploads / "photos", {f"new{n}": b"y" for n in range(3)})
    assert service.post("/limit", bandwidth="1M").status == 200
    job = service.sync(bucket, wait="60", **keys)
    assert service.post("/limit", id=job, bandwidth="1M").status == 200
    wait_for(lambda: service.show(job)["progress"]["files_uploaded"] == 1, 20, "the first of three uploads")
    assert service.post("/pause", id=job).status == 202
    look()
    assert service.post("/cancel", id=job).status == 202
    service.wait_state(job, "cancelled")
    look()
    service.wait_state(service.sync(bucket, plan="1"), "waiting")
    look()
    unknown = {name for name in seen if not any(re.fullmatch(pattern_of(file), name) for file in FILES)}
    assert unknown == set()
    missing = {file for file in FILES if not any(re.fullmatch(pattern_of(file), name) for name in seen)}
    for_an_instant = {"ID.json.tmp", "ID.plan.jsonl.tmp", ".totals.json.tmp", ".mirrors.json.tmp"}
    assert missing <= for_an_instant | {"ID.bandwidth.tmp", "bandwidth.tmp"}


def test_the_files_of_a_job_are_those_that_are_removed_with_it() -> None:
    suffixes = {file.removeprefix("ID.") for file in FILES if file.startswith("ID.")}
    assert suffixes == set(store.SUFFIXES)
    readme = {
        name for row in rows(README, "| file | what |") for name in re.findall(r"`jobs/([^`]+)`", row[0])
    }
    assert readme <= {*FILES, ".index/"}


def test_the_fields_of_the_status_are_those_of_the_document() -> None:
    text = page("job-files.md")
    fields = named(rows(text, "| field | meaning |"))
    assert set(fields) == set(status_schema.ALL["Status"]["properties"]) - {"warning"}
    counters = named(rows(text, "| in `progress` | meaning |"))
    assert set(counters) == set(status_schema.ALL["Progress"]["properties"])
    for name in ("Operation", "FileError", "Error", "Resources", "Metrics"):
        for field in status_schema.ALL[name]["properties"]:
            assert f"`{field}`" in text, (name, field)
    for word in (*State, *Phase):
        assert f"`{word}`" in text, word


def test_the_fields_of_the_report_are_those_of_the_document(tmp_path: Path) -> None:
    _, after = page("job-files.md").split("## The report")
    report = Report(str(tmp_path / "report"), "")
    report.add("upload", "a", 1, "e", 0.1, {"code": "X", "message": "x"})
    report.add("upload", "a", 1, "e", 0.1, "sent as it was at ...")
    failed, noted = [list(json.loads(report._render(line))) for line in report._lines]
    listed = [row[0].strip("`") for row in rows(after, "| field | meaning |")]
    assert listed == [*failed, *(name for name in noted if name not in failed)]
    operations = {
        node.args[0].value
        for _, source in error_codes.trees()
        for node in ast.walk(source)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith((".report.add", ".begin", ".failed"))
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }
    [row] = [row for row in rows(after, "| field | meaning |") if row[0] == "`op`"]
    assert set(re.findall(r"`([^`]+)`", row[1])) == operations


# -- the README and the rest ------------------------------------------------------------------------------

DOCUMENTS = {path: path.read_text() for path in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"))}
ALL = "\n".join(DOCUMENTS.values())
FOLDERS = ("syncworker", "scripts", "tests", "tests_deploy", "benchmarks", "ansible", "docker", "deploy")
OTHERS = ("server.py", "Makefile", "Dockerfile", "docker-compose.yml", "Vagrantfile")
SOURCES = "\n".join(
    path.read_text(errors="replace")
    for path in (
        *(PROJECT / name for name in OTHERS),
        *(p for f in FOLDERS for p in (PROJECT / f).rglob("*")),
    )
    if path.is_file() and "__pycache__" not in path.parts
)


def test_every_make_target_that_is_named_exists_and_every_one_is_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    in_code = "\n".join(re.findall(r"`[^`]*`|^```.*?^```", ALL, re.MULTILINE | re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z][a-z-]+)", in_code)) == targets


def test_the_settings_of_the_readme_are_the_settings() -> None:
    listed = rows(README, "| name | default | meaning |")
    assert named(listed) == [setting.name for setting in settings.TABLE]
    defaults = {row[0].strip("`"): row[1] for row in listed}
    for setting in settings.TABLE:
        if setting.name != "MAX_RUNNING_JOBS" and setting.name in defaults:
            shown = {"1": "1", "0": "0"}.get(setting.default, setting.default)
            assert defaults[setting.name] == shown, setting.name


def test_every_variable_that_is_read_is_documented() -> None:
    read = {
        node.value
        for _, source in error_codes.trees()
        for call in ast.walk(source)
        if (isinstance(call, ast.Call) and ast.unparse(call.func) == "os.environ.get")
        or (isinstance(call, ast.Subscript) and ast.unparse(call.value) == "os.environ")
        for node in ast.walk(call)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper()
    }
    assert read >= {"SYNC_ACCESS_KEY", "AWS_CA_BUNDLE", "NO_COLOR"} - {"NO_COLOR"}
    assert {name for name in read - {"TERM"} if not re.search(rf"\b{name}\b", ALL)} == set()


def test_every_variable_that_is_documented_is_used() -> None:
    foreign = {"NO_COLOR", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"}  # read by rich and boto3
    words = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", ALL)) - foreign
    assert {word for word in words if not re.search(rf"\b{word}\b", SOURCES)} == set()


def test_every_command_and_option_of_the_shell_is_documented() -> None:
    commands = completion._subparsers(arguments.parser())
    typed = re.findall(r"(?:python -m syncworker|\$ syncworker) ([a-z]+)([^\n`]*)", ALL)
    assert {name for name, _ in typed} == set(commands)
    for name, rest in typed:
        for option in re.findall(r"(?<![\w-])--[a-z-]+", rest.split("|")[0].split("#")[0]):
            assert option in completion._options(commands[name]), (name, option)
    for name, command in commands.items():
        for option in completion._options(command):
            assert option == "--help" or re.search(rf"(?<![\w-]){option}(?![\w-])", README), (name, option)


def test_the_routes_of_the_readme_are_the_routes_with_their_parameters() -> None:
    listed = {
        row[0].strip("`"): re.findall(r"`([a-z_]+)`", row[1])
        for row in rows(README, "| route | parameters | answer |")
    }
    served = {
        path: list(said.parameters) for path, said in OPERATIONS.items() if not path.startswith("/static/")
    }
    assert set(listed) == set(served)
    for path, parameters in served.items():
        assert [name for name in listed[path] if name != "next"] == parameters or path == "/folders", path


def test_every_address_that_is_shown_is_a_route() -> None:
    paths = {*OPERATIONS, "/login", ""}
    shown = {path.rstrip("/") or "/" for path in re.findall(r"localhost:5000(/[a-z.]*|(?=[^0-9]))", ALL)}
    assert shown - {"/"} <= paths, shown


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links() -> list[tuple[Path, str]]:
    return [(path, link) for path, text in DOCUMENTS.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)]


def test_every_link_leads_somewhere() -> None:
    for path, link in links():
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), (path.name, link)
        assert not anchor or anchor in anchors(target.read_text()), (path.name, link)


def test_the_readme_links_every_document() -> None:
    linked = {link.partition("#")[0] for path, link in links() if path.name == "README.md"}
    assert {f"docs/{path.name}" for path in DOCUMENTS if path.name != "README.md"} <= linked


def test_every_module_that_the_design_names_is_there() -> None:
    named = set(re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.py)`", page("design.md")))
    assert len(named) > 60
    assert {
        name
        for name in named
        if not any((base / name).is_file() for base in (PROJECT, PROJECT / "syncworker"))
    } == set()


def test_the_readme_can_be_read_in_five_minutes() -> None:
    """At 240 words a minute, tables and code to be looked up left out."""
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^(\||    ).*$", "", prose, flags=re.MULTILINE)
    assert "Crash-only" in prose
    assert "Assumptions" in prose
    assert len(prose.split()) < 5 * 240


def test_every_metric_that_the_documents_name_exists(tmp_path: Path) -> None:
    there = store.Jobs(str(tmp_path / "jobs"))
    there.prepare()
    config = settings.load({"STORAGE_DIR": there.path}, "/nonexistent")
    keeper = server.make_keeper(config, supervisor.Supervisor(config, there, supervisor.spawner(there, {})))
    numbers = metrics.Metrics(there, Ledger(there), config, keeper)
    shown = numbers.render().decode()
    exported = set(re.findall(r"^# TYPE (\S+)", shown, re.MULTILINE))
    assert len(exported) > 10
    assert set(re.findall(r"\bsyncworker_[a-z0-9_]+\b", page("operations.md"))) <= exported


def test_the_alerts_are_rules_that_prometheus_takes(tmp_path: Path) -> None:
    [rules] = re.findall(r"^```yaml\n(groups:.*?)^```", page("operations.md"), re.MULTILINE | re.DOTALL)
    (tmp_path / "rules.yml").write_text(rules)
    done = subprocess.run(
        [PROJECT / ".venv" / "promtool", "check", "rules", tmp_path / "rules.yml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{rules.count('alert:')} rules found" in done.stdout


def test_docker_compose_hands_on_every_setting_and_the_guide_names_it() -> None:
    own = {"UPLOADS_DIR", "JOBS_DIR", "API_HOST"}  # of the container
    embedded = {"STORAGE_DIR", "MINIO_PORT"}  # of a storage that it does not start
    names = {setting.name for setting in settings.TABLE} - own - embedded
    compose = (PROJECT / "docker-compose.yml").read_text()
    assert names <= set(re.findall(r"^      ([A-Z_]+): \$", compose, re.MULTILINE))
    assert names <= set(re.findall(r"\b([A-Z_]+)\b", page("deploy.md")))

"""Tab in a real, interactive bash: what is offered, and that Python's own completion stays what it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabricated import Desk, Terminal
from stores import die_with_parent

from syncworker import paths, settings
from syncworker.shell import arguments, cli, completion

# Asks bash what it would offer for a line, as Tab does: by the completion that is registered for its command.
ASK = """
ask() {
    local line=$1
    read -ra COMP_WORDS <<<"$line"
    [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line} COMPREPLY=()
    local found=$(complete -p "${COMP_WORDS[0]}")
    [[ $found =~ -F\\ ([^ ]+) ]] && "${BASH_REMATCH[1]}" "${COMP_WORDS[0]}"
    printf '%s\\n' "${COMPREPLY[@]}"
}
"""
OPTIONS = {
    name: sorted(completion._options(parser))
    for name, parser in completion._subparsers(arguments.parser()).items()
}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def script(desk: Desk) -> str:
    result = desk.run("completion")
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def offered(desk: Desk, *lines: str, before: str = "") -> list[list[str]]:
    """What bash offers for each line, sorted."""
    asked = "".join(f"ask '{line}'; echo =\n" for line in lines)
    result = subprocess.run(
        ["bash", "--norc", "--noprofile", "-uc", f"{before}\n{script(desk)}\n{ASK}\n{asked}"],
        capture_output=True, text=True, check=False, timeout=60, cwd="/",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    return [sorted(part.split("\n")[:-1]) if part != "\n" else [] for part in result.stdout.split("=\n")[:-1]]


def test_commands_and_their_options_are_those_of_the_parser(desk: Desk) -> None:
    [commands] = offered(desk, "syncworker ")
    assert commands == sorted([*cli.COMMANDS, "--help"])
    names = list(OPTIONS)
    answers = offered(desk, *(f"syncworker {name} --" for name in names))
    assert dict(zip(names, answers, strict=True)) == OPTIONS


@pytest.mark.parametrize("python", ["python", "python3", ".venv/bin/python", "/usr/bin/python3"])
def test_every_spelling_of_python_is_completed(desk: Desk, python: str) -> None:
    """bash takes the whole word first, then what follows its last slash."""
    name = python if python == ".venv/bin/python" else python.rsplit("/", 1)[-1]
    assert offered(desk, f"{name} -m syncworker lis", f"{name} -m syncworker list --st") == [
        ["list"],
        ["--state"],
    ]


def test_states_are_offered_where_a_state_is_due(desk: Desk) -> None:
    states = ["cancelled", "done", "failed", "interrupted", "queued", "running", "waiting"]
    assert offered(desk, "syncworker list --state ", "syncworker list --state can") == [states, ["cancelled"]]


def test_ids_are_those_that_the_command_can_do_something_with(desk: Desk) -> None:
    made = {
        state: desk.make(state, f"bucket-{state}", source='"state": "queued"')["id"]
        for state in ("queued", "running", "done", "failed", "cancelled", "interrupted")
    }
    Path(desk.jobs.path, f"{made['done']}.report.jsonl").write_text("{}\n")
    Path(desk.jobs.path, ".totals.json").write_text("{}\n")

    def ids(*states: str) -> list[str]:
        return sorted(made[state] for state in states)

    lines = [f"syncworker {command} 2" for command in ("show", "cancel", "resume", "run")]
    assert offered(desk, *lines) == [
        ids(*made),
        ids("queued", "running"),
        ids("failed", "cancelled", "interrupted"),
        ids("queued"),
    ]
    assert offered(desk, f"syncworker show --follow {made['done'][:-1]}") == [[made["done"]]]


def test_without_jobs_no_id_is_offered(desk: Desk) -> None:
    assert offered(desk, "syncworker show 2") == [[]]


def test_folders_of_the_uploads_root_are_offered_as_sources(desk: Desk) -> None:
    for name in ("photos", "photos/2024", "my pictures", "music"):
        (desk.uploads / name).mkdir()
    (desk.uploads / "page.html").touch()
    assert offered(desk, "syncworker start --source p", "syncworker start --source photos/") == [
        ["photos"],
        ["photos/2024"],
    ]
    assert offered(desk, "syncworker start --source ") == [["music", "my pictures", "photos"]]


def test_nothing_is_offered_for_values_that_cannot_be_known(desk: Desk) -> None:
    assert offered(desk, "syncworker start --dest ", "syncworker list --limit ") == [[], []]


def test_the_completion_of_python_itself_stays(desk: Desk) -> None:
    own = "_python() { COMPREPLY=(own); }; complete -F _python python"
    assert offered(desk, "python -", "python -m syncworker lis", before=own) == [["own"], ["list"]]


def test_the_completion_of_python_itself_is_loaded_when_it_is_needed(desk: Desk) -> None:
    """bash-completion reads it at the first Tab, and registers it then: ours must come out on top again."""
    lazy = "_completion_loader() { _python() { COMPREPLY=(own); }; complete -F _python python python3; }"
    assert offered(desk, "python3 x", "python3 -m syncworker lis", before=lazy) == [["own"], ["list"]]


def test_folders_with_strange_names_are_only_text(desk: Desk, tmp_path: Path) -> None:
    odd = tmp_path / "a 'b' $(touch owned) @JOBS@"
    desk.environment.update(JOBS_DIR=str(odd / "jobs"), UPLOADS_DIR=str(odd / "uploads"))
    (odd / "uploads" / "photos").mkdir(parents=True)
    assert offered(desk, "syncworker start --source ", "syncworker show ") == [["photos"], OPTIONS["show"]]
    assert not Path("/owned").exists()


def test_the_function_runs_from_any_folder(desk: Desk, tmp_path: Path) -> None:
    """Nothing that lies there is run: it may be a folder that others fill."""
    job = desk.make("done")
    for name in ("argparse.py", "json.py", "syncworker.py"):
        (tmp_path / name).write_text("open('run', 'w')")
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script(desk)}\nsyncworker list --all"],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=desk.environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert job["id"] in done.stdout
    assert not (tmp_path / "run").exists()


def test_tab_completes_in_an_interactive_bash(desk: Desk, tmp_path: Path) -> None:
    job = desk.make("failed")
    rc = tmp_path / "rc"
    rc.write_text(f"{script(desk)}\nPS1='ready> '\nbind 'set enable-bracketed-paste off'\n")
    terminal = Terminal(columns=200)
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(rc), "-i"],
        cwd=paths.PROJECT, env={**desk.environment, "TERM": "dumb", "INPUTRC": "/dev/null"},
        stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave,
        start_new_session=True, preexec_fn=die_with_parent,
    )  # fmt: skip
    try:
        terminal.read("ready> ")
        os.write(terminal.master, b".venv/bin/python -m syncworker res\t")
        terminal.read("syncworker resume ")
        os.write(terminal.master, b"2\t")
        terminal.read(job["id"])
    finally:
        shell.kill()
        shell.wait()
        terminal.close()


def test_the_script_is_made_of_the_settings(tmp_path: Path) -> None:
    text = completion.bash(
        settings.load({"JOBS_DIR": "/a b/jobs", "UPLOADS_DIR": str(tmp_path)}, "/nonexistent"), "/x/python"
    )
    assert "'/a b/jobs'/????????T??????-????????.json" in text
    assert "@" not in text.replace('"$@"', "").replace("[@]", "")
